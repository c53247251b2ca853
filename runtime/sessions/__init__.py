"""Sessions of ONNX Runtime, what their nodes take, and whether a provider runs them."""
