"""Quality of a KV cache against f16, on the user's own model and text: ``python -m xquant_gguf.eval``."""
