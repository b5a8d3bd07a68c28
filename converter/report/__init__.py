"""Records in, words out: text for people, JSON for programs, Markdown for pull requests, and the generated docs.

Nothing here measures or changes a model, and only `rejudge` judges, from stored numbers: what a report says was
decided before it was made, and the only arithmetic is counting. Every report but that of the terminal is made
from a JSON document, so that it can be made again without a run.

===================== ===========================================================
``result``            what a result must offer to be reported
``words``             what a size, a safety class, a score or a level means
``groups``            findings and rewrites, gathered by code and by pass
``fates``             biases: where they went or why they stay, gathered and counted
``hops``              what a node does with the shift of a bias, in words
``ways``              the way of one bias, drawn as a tree
``explain``           ``inspect --explain``: one bias, its verdict and its way
``text``              ``fold`` and ``inspect`` on the terminal
``verify_text``       ``verify`` and ``bench`` there
``measured``          how latency was measured, in words
``document_text``     any document there
``to_json``           ``biasopt.fold/1`` and its relatives
``document``          ``biasopt.verify/1``, ``biasopt.bench/1``, and what all three share
``schema``            their schemas, and the check of a document against them
``reading``           a document from a file
``rebuilt``           a document as records again
``rejudge``           a document by other limits (``rejudge_decisions``: its decisions)
``again``             ``biasopt report``
``markdown``          a comment on a pull request (``markdown_evidence``, ``markdown_words``)
``junit``             test cases for CI
``html``              one page (``html_said``, ``html_view``, ``html_evidence``, ``templates``)
``svg``               its charts (``svg_parity``, ``svg_latency``)
``pages``             the table of passes and each pass's page
``given``             what the command line is given, as values
``files``             writes the above into a folder
``ending``            how a command ends: files, stdout, stderr, exit code
``docs``              ``python -m converter.report.docs``: README.md and docs/
===================== ===========================================================
"""
