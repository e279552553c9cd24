"""Training of the part segmenter (`densepose_tools.segmenter`) on rendered dancers."""
