"""``python -m xquant_gguf.serve``: llama.cpp's own server, on the packed cache."""
