"""From a checkpoint to a bundle: ONNX files, engines built of them, and their verification."""
