"""Every code with which something is left as it is, and what the code means."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """A code, public and kebab-case, and what it is for, as a clause that holds wherever the code is given."""

    code: str
    why: str


# What a pass may say of a match.
CHECKS = {
    "function-attribute": "an attribute that each call of a function sets is not known in it",
    "training-mode": "only running statistics are constants",
    "output-is-graph-output": "the caller sees the tensor, so its value and its name must stay",
    "captured-by-subgraph": "a control-flow body reads the value that would change",
    "several-readers": "another node reads the value that would change",
    "divides-by-result": "constant / x is not affine",
    "overridable": "an initializer that is also a graph input (IR 4 and later) can be replaced by the caller",
    "function-input": "a function's input differs from call to call",
    "not-constant": "only constants can be folded",
    "weight-quantized": "what is computed from dequantized integers cannot take a factor",
    "scale-axis": "a quantization scale varies along one axis, or in blocks",
    "per-axis-scale": "before opset 13 a DequantizeLinear has one scale",
    "integer-range": "a negative factor needs the negative of each integer",
    "coarser-kernel": "what follows must not be computed less exactly than before",
    "rounding-add": "a sum that rounds on purpose must stay as it is",
    "spatial-stats": "statistics must be one vector of the channels",
    "weight-rank": "the weight must have its operator's rank",
    "not-float": "folds are made in floating point",
    "channel-axis": "the channels must lie where both nodes work on them",
    "not-per-channel": "what moves must be one number per channel, or one number",
    "non-positive-variance": "its square root must exist",
    "not-finite": "NaN and infinity must stay visible where they are",
    "negative-scale": "a maximum of s * x is s times the maximum only for positive s; quantization scales are positive",
    "padded-shift": "padded zeros are not shifted, so the border would differ",
    "transposed-shift": "borders and phases of a transposed convolution see unequal taps",
    "no-bias-slot": "the shift needs a bias to go to",
    "overflow": "the result must be finite in the type that it is stored in",
    "rounding": "what underflow takes from a channel must not show beside its shift (float32, bfloat16: beside others)",
    "weight-shared": "with --no-growth no tensor is copied or grows",
    "old-broadcast": "before opset 7 the merged constant may need another axis attribute",
    "model-grows": "a move must shrink the model, a merge must not enlarge it, and no fold by default",
    "input-required": "the bias must be optional",
    "enlarges": "the result must have the shape of the value",
    "no-linear-op": "no linear operator beside it that it could fold into",
    "stops": "the operator does not hand on what it is given in a known way",
    "varies": "what is joined must be treated alike",
    "bilinear": "a product of two computed values takes a factor, not a shift",
    "branches": "what is reached on several ways must move alike on all",
    "extrapolation": "values filled in from outside do not move",
    "too-large": "what varies in too many places, or is too far away, is not followed",
    "bias-shape": "the two biases are told apart by where they lie",
}

# What the run says of a node that no pass may ask about, or that none had a word for.
RUN = {
    "opset": "operators of opsets that are not known may mean something else",
    "keep-bn": "batch norms are to be kept",
}

# What stops the shift of a bias on its way.
FLOW = {
    "attention-query": "the shift of a query changes how keys are weighed",
    "axes": "which axes it works on must be known",
    "batch-norm": "a batch norm that stays keeps its own shift, and with fixed statistics sees another",
    "cache": "keys and values that are kept for later calls are seen",
    "concat": "what it is joined with must have known lengths",
    "counted-padding": "averaged padded zeros are not shifted",
    "gate": "a product of two shifted values is not linear in the shift",
    "gather": "what is picked must be shifted alike",
    "grouped-heads": "how many query heads share a value head must be known",
    "mask-fill": "what a mask fills in does not move with the shift",
    "masked": "minus infinity stays what it is, whatever is added",
    "masked-rows": "a row that a mask closes gives zero, not the shift",
    "norm-mixes-channels": "a mean over channels that are shifted differently does not cancel the shift",
    "not-asked": "a pass that would take it away was left out",
    "padding": "padded zeros are not shifted",
    "phases": "positions see unequal parts of the shift",
    "rank": "the number of axes must be known",
    "recurrent-gates": "the gates of a recurrent layer are not linear",
    "reshape": "the shapes before and after must be known, and keep the channels apart",
    "shapes": "shapes that do not fit together tell nothing",
    "slice": "where it cuts must be known, and not vary with the shift",
    "softcap": "scores that are squashed before their softmax are told apart",
    "softmax": "a softmax cancels only what is alike for all its entries",
    "split": "the sizes of its parts must be known",
    "unknown-operator": "only operators that are known hand a shift on",
    "unread": "no node reads what it shifts",
}

MEANINGS = {**CHECKS, **RUN, **FLOW}


def reason(code: str) -> Reason:
    """The code with its meaning.

    Raises
    ------
    KeyError
        The catalogue has no such code.
    """
    return Reason(code, MEANINGS[code])
