"""Networks of users' own: an ONNX or TensorFlow Lite file, and a small JSON that says how images go into it."""
