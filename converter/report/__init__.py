"""Records in, words out: text for people, JSON for programs, Markdown for pull requests, and the generated docs.

Nothing here measures, judges or changes a model: what a report says was decided before it was made, and the
only arithmetic is counting.

============== ===========================================================
``result``     what a result must offer to be reported
``words``      what a size, a safety class, a score or a level means
``groups``     findings and rewrites, gathered by code and by pass
``fates``      biases: where they went or why they stay, gathered and counted
``hops``       what a node does with the shift of a bias, in words
``ways``       the way of one bias, drawn as a tree
``explain``    ``inspect --explain``: one bias, its verdict and its way
``text``       the terminal
``to_json``    ``biasopt.fold/1`` and its relatives
``markdown``   a comment on a pull request
``pages``      the table of passes and each pass's page
``given``      what the command line is given, as values
``files``      writes the above into a folder
``docs``       ``python -m converter.report.docs``: README.md and docs/
============== ===========================================================
"""
