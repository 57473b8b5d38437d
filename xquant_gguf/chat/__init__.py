"""Chat with a model in the terminal: ``python -m xquant_gguf.chat model.gguf``."""
