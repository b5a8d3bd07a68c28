"""Does bias make a difference? Small nets are trained with and without, many at once, and told apart by statistics.

========== ===============================================================================================
statistics paired differences judged: equivalent, different, or how many seeds would tell
multiplier by what factor more channels a net without biases needs
data       images with their splits: digits offline, MNIST, Fashion-MNIST and CIFAR-10 from a folder
nets       M convolutional nets as one grouped net: same results as M nets one by one
training   Adam or SGD for all of them at once, each with its own rate and weight decay
recall     the LSTMs of the forget-gate block, stacked likewise
compensate biases of a trained net moved into weights, layer after layer
exact      what needs no training: replaceability, dead and live biases, the constant channel
plan       the blocks as jobs; which models each trains
work       one job done: rows
governor   which jobs fit into the time
store      rows on disk; a second run goes on where the first ended
run        all of it
analysis   rows become results, results become stamps on claims (`claims`), a document (`document`)
figures    pictures, for the page and as files
========== ===============================================================================================

Letters: M models in a stack, B images in a batch, C channels of an image, w channels of a layer, S seeds.
"""
