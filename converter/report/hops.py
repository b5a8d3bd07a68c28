"""What a node does with the shift of a bias that reaches it, in plain words."""

from __future__ import annotations

from converter.records import Hop
from converter.report import words
from converter.rewrite.bias_flow.reasons import Reader
from converter.rewrite.bias_flow.shift import LINEARITY

_MAX = "the largest value moves with all the others"
_MEAN = "a mean moves with its values"
_LAID_OUT = "lays it out anew"
_PICKS = "picks from it"
_WEIGHTS = "turns it, through its weights, into a shift of its own channels"
_CARRIES = {
    "Cast": "carries it over into another type",
    "Neg": "turns its sign",
    "Sub": "carries it, its sign turned where it is what is subtracted",
    "Mean": "carries its share",
    **dict.fromkeys(("Mul", "Div"), "scales it by its constant"),
    **dict.fromkeys(("Max", "Min"), "carries it: all its operands are shifted alike"),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "ReduceMax"), f"carries it: {_MAX}"),
    "ReduceMin": "carries it: the smallest value moves with all the others",
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), f"carries it: {_MEAN}"),
    "ReduceSum": "carries it as often as it sums",
    "Transpose": "carries it, its axes moved",
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _LAID_OUT),
    **dict.fromkeys(("Expand", "Tile"), "repeats it"),
    "Concat": "puts it beside its other inputs",
    "Split": "hands on its parts",
    **dict.fromkeys(("Slice", "Gather"), _PICKS),
    "Pad": "carries it: what it pads with is shifted alike",
    **dict.fromkeys(("Resize", "Upsample"), "carries it: between shifted values lie shifted ones"),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _LAID_OUT),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), _WEIGHTS),
}
_HOW = {
    "through its weights": _WEIGHTS,
    "multiplied by data": "multiplies it by data; along one axis it stays the same",
    "by a factor that depends on the data": "scales it by a factor that depends on the data",
    "rows of weights that sum to one hand it on": "hands it on unchanged: its weights sum to one",
    "masked entries stay minus infinity": "carries it, but for masked entries, which stay minus infinity",
}


_TAKEN = {  # how an absorber says it begins with; the name of the constant would be noise
    "its bias": "takes it over into its bias",
    "its new bias": "takes it over into a new bias",
    "its mean": "takes it over into its mean",
    "its constant": "takes it over into its constant",
}


def does(hop: Hop) -> str:
    """What the node does with the shift."""
    match hop.verb:
        case "absorbs":
            said = next((words_ for start, words_ in _TAKEN.items() if hop.how.startswith(start)), hop.how)
        case "annihilates":
            said = f"does not feel it: {hop.how}"
        case "stops":
            said = "would change" if hop.op == "output" else f"feels it: {felt(hop)}"
        case _:
            if isinstance(hop, Reader) and len(hop.given_by) > 1:
                return "adds up the shifts that meet here"
            said = _HOW.get(hop.how) or _CARRIES.get(hop.op, "carries it unchanged")
            if hop.how.startswith("multiplied by data: "):  # what keeps the weights of an attention from it
                said = hop.how.replace("multiplied", "multiplies it", 1)
    return words.plain(said)


def felt(hop: Hop) -> str:
    """Why the node feels the shift."""
    return "it is not linear" if hop.how == LINEARITY else words.plain(hop.how)
