"""A page that classifies images in the browser, in one file, with an exported ONNX model in it."""
