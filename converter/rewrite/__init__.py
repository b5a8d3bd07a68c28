"""The rewriter: finds what may be folded, asks whether it is legal, and plans the edits. It imports no onnx."""
