"""Keep keys typed during a reply from being mixed into it on the screen."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silent_keyboard() -> Iterator[None]:
    """Switch the terminal's echo off for a ``with`` block. Ctrl-C works as before.

    Does nothing where standard input is no terminal or there is no termios.
    """
    try:
        import termios

        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        after = termios.tcgetattr(terminal)
        after[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSADRAIN, after)
    except (ImportError, OSError, ValueError, AttributeError):
        yield
        return
    except Exception as error:  # termios.error is no OSError
        if type(error).__module__ != "termios":
            raise
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
