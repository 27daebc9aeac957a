"""The shipped file in use: onnxruntime, numpy and Pillow, never torch."""
