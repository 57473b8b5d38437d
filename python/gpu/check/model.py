"""``python -m check.model CASE MODEL FOLDER``: a model on the device, against the CPU.

The CPU's side (``reference``) is the same library in a process that sees no GPU; it leaves its
logits in the folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from xquant_gguf._log import captured
from xquant_gguf.config import resolve_kv
from xquant_gguf.errors import UnsupportedModelError
from xquant_gguf.eval import contexts
from xquant_gguf.eval.contexts import Context, Logits, Model

from .run import say

ALL = -1
N_CTX = 1024
PROMPT = 300
GREEDY = 64
REWIND = 150
THREADS = 4
CACHES = ("f16", "lossless", "quality", "balanced", "small", "tiny")
MOST = 0.05
"""NMSE of logits, as in tests/gpu/on_device.py: the CPU's implementations are up to 0.025 apart."""

GRAPHS = 1e-6
"""NMSE of a captured graph against its launches one by one; the bits are told as well."""

_failures = 0


def check(good: bool, **row: Any) -> None:
    """One row, and whether it is as it must be."""
    global _failures
    _failures += not good
    print(row, "" if good else "FAIL", flush=True)
    say(row={**row, "passed": bool(good)}, failures=_failures)


def tokens_of(model: Model) -> list[int]:
    """A text where the model has words; else random tokens."""
    wordless = model.api.llama_vocab_type(model.vocab) == model.api.LLAMA_VOCAB_TYPE_NONE
    if not wordless:
        text = files("xquant_gguf.calibrate").joinpath("text.txt").read_text(encoding="utf-8")
        return model.tokenize(text)[: PROMPT + 8]
    rng = np.random.default_rng(5)
    return [int(x) for x in rng.integers(0, model.n_vocab, PROMPT + 8)]


def opened(model: Model, name: str, **more: Any) -> Context:
    return Context(model, resolve_kv(name), n_ctx=N_CTX, threads=THREADS, **more)


def evaluate(context: Context, tokens: list[int]) -> Logits:
    """Last logits of a prompt of which most is sealed, of a token, and of three at once."""
    rows = []
    for first, end in ((0, PROMPT), (PROMPT, PROMPT + 1), (PROMPT + 1, PROMPT + 4)):
        rows.append(context.feed(tokens[first:end], logits="last")[0])
    return np.stack(rows)


def greedy(context: Context, tokens: list[int]) -> list[int]:
    found = [int(context.feed(tokens[:PROMPT], logits="last")[0].argmax())]
    while len(found) < GREEDY:
        found.append(int(context.feed(found[-1:], logits="last")[0].argmax()))
    return found


def nmse(got: Logits, want: Logits) -> list[float]:
    error = np.square(got.astype(np.float64) - want).sum(-1)
    return [float(x) for x in np.ravel(error / np.square(want.astype(np.float64)).sum(-1))]


@contextlib.contextmanager
def fresh(model: Model, name: str, **more: Any) -> Iterator[Context]:
    context = opened(model, name, **more)
    try:
        yield context
    finally:
        context.close()


# ---- cases ----


def reference(path: str, folder: Path) -> None:
    """On the CPU alone."""
    model = Model(path, gpu_layers=0)
    tokens = tokens_of(model)
    found: dict[str, Any] = {}
    for name in CACHES:
        try:
            with fresh(model, name) as context:
                found[name] = evaluate(context, tokens)
                if name in ("f16", "balanced"):
                    context.clear()
                    found[f"{name} greedy"] = np.array(greedy(context, tokens))
        except UnsupportedModelError as error:
            print(name, error)
        say(row={"kv": name, "done": name in found})
    np.savez(folder / "reference.npz", **found)


def logits(path: str, folder: Path) -> None:
    """All layers on the device."""
    model, want = Model(path, gpu_layers=ALL), np.load(folder / "reference.npz")
    tokens = tokens_of(model)
    for name in (name for name in CACHES if name in want):
        with fresh(model, name) as context:
            errors = nmse(evaluate(context, tokens), want[name])
            check(max(errors) < MOST, kv=name, nmse=errors)
            if f"{name} greedy" in want:
                context.clear()
                got = greedy(context, tokens)
                same = np.array(got) == want[f"{name} greedy"]
                agreed = GREEDY if same.all() else int(same.argmin())
                check(agreed > 0, kv=name, greedy_agreed=agreed, of=GREEDY)


def placed(path: str, folder: Path) -> None:
    """Every layer's cache lies on the device; the graph has two parts: embedding and the rest."""
    lines = ""

    def collect(level: int, text: bytes, data: Any) -> None:
        nonlocal lines
        lines += text.decode("utf-8", "replace")

    model = Model(path, gpu_layers=ALL)
    callback = model.api.llama_log_callback(collect)
    model.api.llama_log_set(callback, ctypes.c_void_p(0))
    setattr(contexts, "captured", lambda *, forward: captured(forward=True))  # noqa: B010
    with fresh(model, "balanced"):
        pass
    splits = re.search(r"splits = (\d+)", lines)
    buffers = re.findall(r"(\w+) KV buffer size", lines)
    on_gpu = not any(name.startswith("CPU") for name in buffers)
    count = int(splits[1]) if splits else 0
    no_gpu = set(buffers) == {"CPU"}
    good = bool(splits) and (no_gpu or (on_gpu and count == 2))
    check(good, splits=count, buffers=buffers)


def graphs(path: str, folder: Path) -> None:
    """Steps of decoding; the second process, with CUDA graphs off, compares with the first."""
    model = Model(path, gpu_layers=ALL)
    tokens = tokens_of(model)
    for name in ("f16", "balanced"):
        with fresh(model, name) as context:
            context.feed(tokens[:200], logits="last")
            rows = [context.feed([t], logits="last")[0] for t in tokens[200:264]]
        got, file = np.stack(rows), folder / f"steps-{name}.npy"
        if os.environ.get("GGML_CUDA_DISABLE_GRAPHS"):
            errors = nmse(got, np.load(file))
            same = bool((got == np.load(file)).all())
            check(max(errors) < GRAPHS, kv=name, same_bits=same, nmse=max(errors))
        else:
            np.save(file, got)
            check(bool(np.isfinite(got).all()), kv=name, steps=len(rows))


def prefix(path: str, folder: Path) -> None:
    """A prefix used again, and a rewind, give the bits of a run from the start."""
    model = Model(path, gpu_layers=ALL)
    tokens = tokens_of(model)
    for name in ("f16", "balanced", "tiny"):
        with fresh(model, name) as context:

            def go_on(context: Context = context) -> Logits:
                context.feed(tokens[REWIND : REWIND + 1], logits="last")
                return context.feed(tokens[REWIND + 1 : REWIND + 2], logits="last")

            context.feed(tokens[:REWIND], logits="last")
            first = go_on()
            context.rewind(REWIND)
            again = go_on()
            context.feed(tokens[REWIND + 2 : PROMPT], logits="last")
            context.rewind(REWIND)
            after = go_on()
            context.clear()
            context.feed(tokens[:REWIND], logits="last")
            anew = go_on()
        same = {
            "prefix": bool((first == again).all()),
            "rewind": bool((first == after).all()),
            "cleared": bool((first == anew).all()),
        }
        check(all(same.values()), kv=name, **same)


def sessions(path: str, folder: Path) -> None:
    """A state saved on the device goes on there, on the CPU, and on the device again."""
    there, here = Model(path, gpu_layers=ALL), Model(path, gpu_layers=0)
    tokens = tokens_of(there)
    for name in ("f16", "balanced"):
        with fresh(there, name) as gpu, fresh(here, name) as cpu:
            gpu.feed(tokens[:PROMPT], logits="last")
            state = saved(gpu)
            want = gpu.feed(tokens[PROMPT : PROMPT + 1], logits="last")
            gpu.clear()
            restore(gpu, state, PROMPT)
            again = gpu.feed(tokens[PROMPT : PROMPT + 1], logits="last")
            restore(cpu, state, PROMPT)
            other = cpu.feed(tokens[PROMPT : PROMPT + 1], logits="last")
            cpu.rewind(PROMPT)
            back = saved(cpu)
            gpu.clear()
            restore(gpu, back, PROMPT)
            home = gpu.feed(tokens[PROMPT : PROMPT + 1], logits="last")
        errors = {
            "on_device": nmse(again, want)[0],
            "to_cpu": nmse(other, want)[0],
            "and_back": nmse(home, want)[0],
        }
        check(max(errors.values()) < MOST, kv=name, state_bytes=len(state), **errors)


def saved(context: Context) -> bytes:
    api = context.model.api
    size = api.llama_state_seq_get_size(context.handle, 0)
    data = (ctypes.c_uint8 * size)()
    return bytes(data[: api.llama_state_seq_get_data(context.handle, data, size, 0)])


def restore(context: Context, state: bytes, tokens: int) -> None:
    data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
    taken = context.model.api.llama_state_seq_set_data(context.handle, data, len(state), 0)
    if taken == 0:
        raise SystemExit("a saved state was not taken")
    context.held[0] = tokens


def partial(path: str, folder: Path) -> None:
    """Half of the layers on the device."""
    want = np.load(folder / "reference.npz")
    layers = Model(path).info.n_layers // 2
    model = Model(path, gpu_layers=layers)
    tokens = tokens_of(model)
    for name in ("f16", "balanced"):
        with fresh(model, name) as context:
            errors = nmse(evaluate(context, tokens), want[name])
        check(max(errors) < MOST, kv=name, layers=layers, nmse=errors)


def two(path: str, folder: Path) -> None:
    """Two contexts in turns: each gives what it gives alone, to the bit."""
    model = Model(path, gpu_layers=ALL)
    tokens = tokens_of(model)
    names = ("balanced", "tiny")
    alone = {}
    for name in names:
        with fresh(model, name) as context:
            alone[name] = evaluate(context, tokens)
    with contextlib.ExitStack() as stack:
        both = {name: stack.enter_context(fresh(model, name)) for name in names}
        rows: dict[str, list[Any]] = {name: [] for name in names}
        for first, end in ((0, PROMPT), (PROMPT, PROMPT + 1), (PROMPT + 1, PROMPT + 4)):
            for name, context in both.items():
                rows[name].append(context.feed(tokens[first:end], logits="last")[0])
    for name in names:
        check(bool((np.stack(rows[name]) == alone[name]).all()), kv=name, beside=names)


def reply(path: str, folder: Path) -> None:
    """The self-test's: behind a packed prompt, against f16 on the same device."""
    import dataclasses

    from xquant_gguf.selftest.generation import compare_replies

    model = Model(path, gpu_layers=ALL)
    kvs = {name: resolve_kv(name) for name in ("f16", "lossless", "balanced")}
    replies, refused = compare_replies(model, kvs, threads=THREADS, where="device")
    for name, why in refused.items():
        check(False, kv=name, why=why)
    for found in replies:
        check(found.passed, **dataclasses.asdict(found))


CASES = {
    case.__name__: case
    for case in (reference, logits, placed, graphs, prefix, sessions, partial, two, reply)
}


def main() -> int:
    case, path, folder = sys.argv[1:]
    start = time.monotonic()
    CASES[case](path, Path(folder))
    print(f"{case}: {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
