"""``python -m xquant_gguf.plan``: what a model and its cache will take, before it is loaded."""
