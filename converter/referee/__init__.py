"""The referee: whether two models say the same, and on what evidence. It knows nothing of the rewriter."""
