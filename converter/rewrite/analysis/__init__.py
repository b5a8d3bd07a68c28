"""What is true of a graph: constants, channel axes, affine nodes and linear operators."""
