"""What is each bias of a model worth, on the user's own data?

============ =============================================================================================
sites        the biases that can be looked at: layer, role, what exact analysis says of them
im2col       what a layer's weights meet: rows of inputs, padded borders included, per group
moments      streamed second moments, and from them how well other weights could imitate the bias
samples      the user's data: read, cut into rows, shuffled, split
session      the model as a function of its weights and biases, inner tensors handed out
statistics   what activations say of every layer, a few layers a run
measure      what a change did to the answers: agreement, divergence, error, accuracy; on the data and off it
scoring      the classes of biases with their thresholds, and what quantisation would gain
compensate   the closed form that moves a bias into weights, layer after layer, on the model as changed so far
removal      which biases go under a budget, and the verdict on rows that selection never saw
ablate       the whole of ``biasopt ablate``: model made ready, layers scored, variants and probes tried, warnings
result       what was found out as records, of which documents and reports are made
============ =============================================================================================

Letters: P positions, G groups, n inputs of one output (I/g times the kernel), O output channels, N rows of data.
Nothing here needs torch.
"""
