"""Does bias make a difference? Small nets are trained with and without, many at once, and told apart by statistics.

=========== ==============================================================================================
data        images with their splits: digits offline, MNIST, Fashion-MNIST and CIFAR-10 from a folder
nets        M convolutional nets as one grouped net, and one of them by itself, its biases moved into weights
training    Adam or SGD for all of them at once, each with its own rate and weight decay
tasks       the LSTMs of the forget-gate block, and dense nets on points, stacked likewise
plan        the blocks as jobs; which models each trains
jobs        one job done: rows; what needs no training (replaceability, dead and live biases) among them
run         all jobs, within a time budget; rows in a log on disk, so that a second run goes on where one ended
results     rows become results: paired comparisons, judged as families
multiplier  by what factor more channels a net without biases needs
claims      results become verdicts on claims; and the controls
answer      the answer with its conditions, warnings and limits: the record of which reports are made
docs        the page in docs/, made of a stored document
=========== ==============================================================================================

Letters: M models in a stack, B images in a batch, C channels of an image, w channels of a layer, S seeds.
"""
