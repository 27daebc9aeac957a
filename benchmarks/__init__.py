"""Measurements: inference speed of runs and ONNX files, training speed against peers."""
