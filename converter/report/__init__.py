"""Records in, reports out: text for people, JSON for programs, Markdown for pull requests, and the generated docs.

Nothing here measures or changes a model, and only `rejudge` judges, from stored numbers: what a report says was
decided before it was made, and the only arithmetic is counting. There is one road from a record to what is read:
``content`` makes blocks of it, a file of ``render`` makes text of blocks. What is seen of a record is one line in
``content``; a form of report is one file in ``render``; words that several reports share are in ``wording``.
"""
