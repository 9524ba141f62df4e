"""Export of a checkpoint to a bundle: ONNX files, engines, and their verification."""
