"""Tokens out of a bundle: steps, batches, texts, and onnxruntime-genai beside them."""
