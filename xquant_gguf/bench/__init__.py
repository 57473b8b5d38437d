"""Speed and size of caches, side by side on one's own model: ``python -m xquant_gguf.bench``."""
