"""Speed and size of KV caches side by side, on the user's own model: ``python -m xquant_gguf.bench``."""
