"""An ONNX model that is edited: its file, its graph, and the shapes in it."""
