"""The normal form of a rewritten place: linear maps in float64 with error bounds, to recompute each folded number."""
