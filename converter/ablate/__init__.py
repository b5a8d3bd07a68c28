"""What is each bias of a model worth, on the user's own data?

========== ===============================================================================================
sites      the biases that can be looked at: layer, role, what exact analysis says of them
patches    what a layer's weights meet: rows of inputs, padded borders included, per group
moments    streamed second moments, and from them how well other weights could imitate the bias
samples    the user's data: read, cut into rows, shuffled, split
net        the model as a function of its weights and biases, inner tensors handed out
effects    what a change of the model did to its answers: agreement, divergence, error, accuracy
scoring    the classes of biases, with their thresholds
run        the whole of ``biasopt ablate``
document   ``biasopt.ablate/1``; tables, text, markdown, page and saved make reports of it
opened     a model made ready: batch norms folded, biases found
survey     statistics of every layer, a few layers a run
measure    each bias left out in turn
probes     the same off the data: contrast, offset, noise
ranges     what quantisation would gain, as findings
solve      the closed form that moves a bias into weights, dense, by conjugate gradients, or at the centre tap
compensate layer after layer, on the activations of the model as changed so far
selecting  which biases go, under a budget
warned     what a reader must know first
removal    the split of the data, what may go, and the verdict on rows that selection never saw
========== ===============================================================================================

Letters: P positions, G groups, n inputs of one output (I/g times the kernel), O output channels, N rows of data.
Nothing here needs torch.
"""
