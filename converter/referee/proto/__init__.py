"""The referee's own view of a model: its bytes, tensors, differences, and copies edited for a test."""
