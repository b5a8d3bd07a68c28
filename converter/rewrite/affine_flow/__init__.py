"""Where else could an affine map be computed? A factor and a shift, followed up and down the graph."""
