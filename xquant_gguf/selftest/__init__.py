"""Check this machine's kernels against the reference: ``python -m xquant_gguf.selftest``."""
