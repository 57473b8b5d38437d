"""Entry point of ``python -m xquant_gguf.chat``."""

import sys

from .app import main

if __name__ == "__main__":
    sys.exit(main())
