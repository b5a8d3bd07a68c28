"""What the columns of the tables mean, by table."""

from __future__ import annotations

COMPARED = (
    "\u0394: with minus without biases, mean over paired seeds. 90 % interval: inside the margin means "
    "EQUIVALENT (two one-sided tests). 95 %, new data: as it would be on new data of this kind "
    "(Nadeau\u2013Bengio). p: sign-flip test. Holm: t-test, corrected over the table. seeds: that would show "
    "equivalence with a power of 90 % if there is no difference."
)
MULTIPLIER = (
    "Factor on the channels with which a net without biases comes to the same accuracy; bootstrap over "
    "seeds. parameters: the same as a factor on the parameters of the whole net. censored: share of "
    "resamples in which no number of channels that was tried does."
)
CONTRAST = "worst: of the seeds; where there is no bias the best. Chance is 50 %."
IDENTITY = (
    "Trained in float64, one of two nets with random biases before its norms: largest relative difference"
    " of the logits."
)
DEAD = (
    "Relative change of the output in training, in float64, when a random bias is added: below 1e\u221212 is rounding."
)
REPLACEABILITY = (
    "r = 1 \u2212 \u03bc'S\u207b\xb9\u03bc of n rectified normal inputs, equally correlated: what a bias-free layer "
    "cannot imitate of a bias, in mean square."
)
FIRST = "empty: share of inputs that are all zero, where nothing can imitate a bias; r cannot be less."
CONSTANT = "A bias against the weight of a channel that is always 1: largest difference of the outputs."
RECALL = (
    "Lag {lag}, {steps} steps. \u03c4 = 1 + e^b. solved: over 95 % right, with Wilson's interval. p: Fisher's "
    "exact test against b = 0, Holm."
)
ABLATION = (
    "Accuracy in per cent of nets of three convolutions trained with biases (folded: with batch norm, "
    "folded since), then without. head corrected: left out, but for the head's bias, which restores the "
    "mean of the logits. each alone, in sequence: moved into the weights, layer by layer. agree, error: "
    "answers and logits of the last against the original."
)
LAYERS = "r of each convolution's bias, and its mean size beside the deviation of what it is added to."
OFF = (
    "Accuracy in per cent of folded nets on images at other contrasts, with biases and with weights that imitate them."
)
CAPACITY = (
    "Accuracy minus that of {base} channels, in points; weight decay is an L2 penalty in Adam's gradient."
    " Verdict: against no change."
)
DRIFT = "Biases before batch norm, from 0, after training: their gradient is rounding, which Adam makes steps of."

TITLES = {
    "widths": "With and without biases",
    "multiplier": "Channels needed without biases",
    "contrast": "Bright or dim",
    "identity": "Twins trained in float64",
    "dead": "What a bias does before each norm",
    "norms": "Nets with norms, trained",
    "first layer": "The first layer",
    "replaceability": "r by the number of inputs",
    "ablation": "Accuracy without biases",
    "layers": "Layer by layer",
    "off the data": "At other contrasts",
    "recall": "Recall by forget bias",
    "depth": "With and without biases, deeper",
    "capacity": "More channels",
    "capacity, bias": "With and without biases, by weight decay",
    "drift": "Dead biases after training",
    "update": "The step of a bias",
    "constant channel": "Bias against constant channel",
    "rates": "With and without biases, by learning rate",
}
