"""Shapes with symbolic sizes: inferred from the inputs, and evaluated where the model computes them."""
