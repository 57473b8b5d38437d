"""Who may use a model, and when: turns of threads, cancelling, and closing.

A llama.cpp context serves one caller at a time, and nothing of it may be touched once it is freed.
So every call is *inside* the gate while it runs; closing waits until all have left. What changes
the context needs the *turn* besides: a call has it until it returns, a stream from its first piece
to its end. Other threads wait for the turn. A thread that starts something new while a stream of
its own is not finished takes the turn from that stream, because nobody else could finish it.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from . import _fork
from .errors import CancelledError, ClosedError, SupersededError


class Turn:
    """One use of the context. ``depth`` counts the calls of ``thread`` that run in it now."""

    def __init__(self) -> None:
        self.thread = 0
        self.depth = 0
        self.taken = False
        self.cancelled = False
        self.superseded = False

    def check(self) -> None:
        """Raise if this use is over."""
        if self.cancelled:
            raise CancelledError("what cancel() stops gives no result", "", "ask again")
        if self.superseded:
            raise SupersededError(
                "a stream must end before its thread uses the model for something else",
                "a stream that another call has taken the model from",
                "use it up or close() it first",
            )


class Gate:
    """Guards one model. All methods may be called from any thread."""

    def __init__(self) -> None:
        self.decoding = threading.RLock()
        """Held while the context computes or its memory is read; for short looks from outside."""
        self.stop = ctypes.c_int(0)
        """What llama.cpp asks between two operations of a graph: not 0 to abandon it."""
        self._changed = threading.Condition(threading.RLock())
        self._inside: dict[int, int] = {}  # calls by thread
        self._owner: Turn | None = None
        self._waiting = threading.local()  # .turn: taken when the thread first needs one
        self._closing = False
        self._free: Callable[[], None] | None = None
        self._freed = False

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closing

    def inside(self) -> _Inside:
        """A call that only needs the model to be there."""
        return _Inside(self)

    def step(self, turn: Turn) -> _Step:
        """A call in a turn, which it takes or has; it keeps the turn until :meth:`release`."""
        return _Step(self, turn)

    def exclusive(self) -> AbstractContextManager[None]:
        """A call that changes the context: in the turn that this thread has, or in its own."""
        if self.running_here():
            return self.inside()
        if getattr(self._waiting, "turn", None) is None and self._owner is None:
            return _Alone(self)
        return self._exclusive()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        _fork.check()  # a lock may have been held by a thread that is not here
        with self._changed:
            owner, me = self._owner, threading.get_ident()
            nested = owner is not None and owner.thread == me
        pending: Turn | None = getattr(self._waiting, "turn", None)
        if nested and (pending is None or pending is owner or owner.depth):  # type: ignore[union-attr]
            with self.inside():
                self.check()
                yield
            return
        turn = pending or Turn()
        try:
            with self.step(turn):
                yield
        finally:
            if turn is not pending:
                self.release(turn)

    @contextlib.contextmanager
    def pending(self, turn: Turn) -> Iterator[None]:
        """Calls of this thread take ``turn`` as soon as one of them changes the context."""
        before = getattr(self._waiting, "turn", None)
        self._waiting.turn = turn
        try:
            yield
        finally:
            self._waiting.turn = before

    def running_here(self) -> bool:
        """Whether this thread is in a call that has the turn."""
        owner = self._owner
        return owner is not None and owner.thread == threading.get_ident() and owner.depth > 0

    def check(self) -> None:
        """Raise if the model is being closed, or the turn of this thread was cancelled."""
        if self._closing:
            raise _closed()
        owner = self._owner
        if owner is not None and owner.thread == threading.get_ident():
            owner.check()

    def cancel(self, turn: Turn | None = None) -> bool:
        """Stop the use that has the turn; with ``turn`` only if it is that one.

        Returns:
            Whether there was one.
        """
        _fork.check()
        with self._changed:
            owner = self._owner
            if owner is None or (turn is not None and owner is not turn):
                return False
            owner.cancelled = True
            if owner.depth:
                self.stop.value = 1
            else:
                self.release(owner)
            return True

    def release(self, turn: Turn) -> None:
        """Give the turn back."""
        if _fork.forked():
            return
        with self._changed:
            turn.taken = False
            if self._owner is turn:
                self._owner = None
                self._changed.notify_all()

    def close(self, free: Callable[[], None]) -> None:
        """Stop what runs, wait for it, then call ``free``, once.

        In a call of the same thread (a callback) that happens when the call has ended. In a fork of
        the process nothing is freed: it is the parent's.
        """
        if self._freed:
            return  # also at the end of the interpreter, when what this module refers to is gone
        if _fork.forked():
            self._closing = True
            return
        with self._changed:
            if not self._closing:
                self._closing, self._free = True, free
            self.stop.value = 1
            self._changed.notify_all()
            if threading.get_ident() in self._inside:
                return
            while self._inside:
                self._changed.wait()
            self._free_once()

    def _free_once(self) -> None:
        free, self._free = self._free, None
        if free is not None:
            free()
            self._freed = True

    def _enter(self) -> None:
        _fork.check()
        me = threading.get_ident()
        with self._changed:
            if self._closing:
                raise _closed()
            self._inside[me] = self._inside.get(me, 0) + 1

    def _leave(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                if self._closing and not self._inside:
                    self._free_once()
                self._changed.notify_all()

    def _take(self, turn: Turn) -> None:
        _fork.check()
        me = threading.get_ident()
        with self._changed:
            while True:
                if self._closing:
                    raise _closed()
                turn.check()
                owner = self._owner
                if owner is None or owner is turn:
                    break
                if owner.thread == me and not owner.depth:
                    owner.superseded = True
                    break
                self._changed.wait()
            self._owner = turn
            turn.thread, turn.taken = me, True
            if not turn.depth:
                self.stop.value = 0
            turn.depth += 1


class _Inside:
    """See :meth:`Gate.inside`. Calls within calls only look whether they should go on."""

    __slots__ = ("_entered", "_gate")

    def __init__(self, gate: Gate) -> None:
        self._gate, self._entered = gate, False

    def __enter__(self) -> None:
        if threading.get_ident() in self._gate._inside:
            _fork.check()
            self._gate.check()
        else:
            self._gate._enter()
            self._entered = True

    def __exit__(self, *exception: object) -> None:
        if self._entered:
            self._gate._leave()


class _Step:
    """See :meth:`Gate.step`. No generator, because StopIteration passes through it."""

    def __init__(self, gate: Gate, turn: Turn) -> None:
        self._gate, self._turn = gate, turn

    def __enter__(self) -> None:
        self._gate._take(self._turn)
        try:
            self._gate._enter()
        except BaseException:
            self._turn.depth -= 1
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._gate._changed:
            self._turn.depth -= 1
            if self._turn.cancelled and not self._turn.depth:
                self._gate.release(self._turn)
        self._gate._leave()


class _Alone:
    """What :meth:`Gate.step` and :meth:`Gate.release` do, at once, where nobody has the turn: calls
    of one token are so short that locks and frames of Python count."""

    __slots__ = ("_gate", "_slow", "_turn")

    def __init__(self, gate: Gate) -> None:
        self._gate, self._turn = gate, Turn()
        self._slow: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        _fork.check()
        gate, turn = self._gate, self._turn
        with gate._changed:
            if gate._closing:
                raise _closed()
            if gate._owner is None:
                turn.thread = me = threading.get_ident()
                turn.taken, turn.depth = True, 1
                gate._owner, gate.stop.value = turn, 0
                gate._inside[me] = gate._inside.get(me, 0) + 1
                return
        self._slow = gate._exclusive()  # another thread was quicker
        self._slow.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if self._slow is not None:
            return self._slow.__exit__(kind, error, trace)
        gate, turn = self._gate, self._turn
        with gate._changed:
            turn.depth, turn.taken = 0, False
            if gate._owner is turn:
                gate._owner = None
                gate._changed.notify_all()
        gate._leave()
        return None


class Stream:
    """An iterator whose pieces are made in one turn. Leaving it unfinished gives the turn back.

    Args:
        make: called in the turn for the iterator or generator of the pieces.
        turn: one that may have been taken already.
    """

    def __init__(self, gate: Gate, make: Callable[[], Any], turn: Turn | None = None) -> None:
        self._gate, self._make, self._turn = gate, make, turn or Turn()
        self._pieces: Any = None
        self._done = False

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """The next piece, as a generator's ``send`` gives it."""
        if self._done:
            raise StopIteration
        nested = self._gate.running_here()
        try:
            if nested and self._gate._owner is not self._turn:
                return self._advance(value)
            with self._gate.step(self._turn):
                return self._advance(value)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it. If another thread waits for a piece right now, that is cancelled."""
        if self._turn.depth and self._turn.thread != threading.get_ident():
            self._gate.cancel(self._turn)
            return
        self._done = True
        if self._turn.depth:
            self._turn.cancelled = True
            return
        if hasattr(self._pieces, "close"):
            self._pieces.close()
        self._gate.release(self._turn)

    def __del__(self) -> None:
        if "_done" in self.__dict__ and not self._done:
            self.close()

    def _advance(self, value: Any) -> Any:
        if self._pieces is None:
            self._pieces = iter(self._make())
        return next(self._pieces) if value is None else self._pieces.send(value)


def _closed() -> ClosedError:
    return ClosedError("a model can be used until it is closed", "a closed Llama", "load it again")
