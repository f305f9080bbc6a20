"""onnxruntime as a target: our operators as ONNX nodes that its CPU provider runs fast."""
