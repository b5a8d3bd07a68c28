"""The float64 reference: an evaluator of ONNX models, node by node."""
