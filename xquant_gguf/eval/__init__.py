"""Quality of KV caches against f16, on any model and text: ``python -m xquant_gguf.eval``."""
