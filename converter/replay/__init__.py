"""Certificates of folds, checked and replayed by code that shares nothing with the passes."""
