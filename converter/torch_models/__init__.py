"""Torch models: what the user means by one, its export to ONNX, and the lint. The only torch beside `study`."""
