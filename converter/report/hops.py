"""What a node does with the shift of a bias that reaches it, in plain words."""

from __future__ import annotations

from converter.records import EffectKind, Step, Verb
from converter.report import wording

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
    EffectKind.WEIGHTS: _WEIGHTS,
    EffectKind.DATA: "multiplies it by data; along one axis it stays the same",
    EffectKind.FACTOR: "scales it by a factor that depends on the data",
    EffectKind.SOFTMAX_ROWS: "hands it on unchanged: its weights sum to one",
    EffectKind.MASKED: "carries it, but for masked entries, which stay minus infinity",
}


_TAKEN = {  # the name of the constant would be noise
    EffectKind.BIAS: "takes it over into its bias",
    EffectKind.NEW_BIAS: "takes it over into a new bias",
    EffectKind.MEAN: "takes it over into its mean",
    EffectKind.CONSTANT: "takes it over into its constant",
}


def does(hop: Step) -> str:
    """What the node does with the shift."""
    match hop.verb:
        case Verb.ABSORBS:
            said = _TAKEN.get(hop.kind, hop.how)
        case Verb.CANCELS:
            said = f"does not feel it: {hop.how}"
        case Verb.BLOCKS:
            said = "would change" if hop.op == "output" else f"feels it: {felt(hop)}"
        case _:
            if len(hop.sources) > 1:
                return "adds up the shifts that meet here"
            said = _HOW.get(hop.kind) or _CARRIES.get(hop.op, "carries it unchanged")
            if hop.kind is EffectKind.UNNORMALIZED:  # what keeps the weights of an attention from it
                said = f"it is {hop.how}"
    return wording.plain(said)


def felt(hop: Step) -> str:
    """Why the node feels the shift."""
    return "it is not linear" if hop.kind is EffectKind.NONLINEAR else wording.plain(hop.how)
