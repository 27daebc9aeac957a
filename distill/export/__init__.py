"""Export targets, one file each; `onnx_fp32` is the verified reference the others start from."""
