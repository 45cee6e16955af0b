"""Export to ONNX: the graph of one forward pass, checked in onnxruntime, and its int8 version behind a gate."""
