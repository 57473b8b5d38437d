"""A small desktop chat on a packed KV cache.

pip install PySide6-Essentials
python python/examples/desktop/main.py model.gguf --kv balanced --ctx 4096
"""

from __future__ import annotations

import argparse
import sys

from PySide6.QtWidgets import QApplication
from window import Window


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--kv", default="balanced", help="a preset or stock type (balanced)")
    parser.add_argument("--ctx", type=int, default=4096, help="tokens of context (4096)")
    args = parser.parse_args()
    app = QApplication(sys.argv[:1])
    window = Window(args.model, args.kv, args.ctx)
    window.show()
    return app.exec()


if __name__ == "__main__":
    sys.exit(main())
