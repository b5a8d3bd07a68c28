"""One file a form: a `converter.report.blocks.Report` in, text out."""
