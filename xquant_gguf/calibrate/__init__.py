"""``python -m xquant_gguf.calibrate``: the bits that each layer of a model needs, as a plan."""
