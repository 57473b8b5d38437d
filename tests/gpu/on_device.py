"""``python -m gpu.on_device LIBRARY CASE MODEL``: a model whose layers lie on emulated devices.

A process of its own: a device once registered with ggml stays.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xquant_gguf import Llama, _native
from xquant_gguf.config import resolve_kv
from xquant_gguf.errors import LibraryError, UnsupportedModelError
from xquant_gguf.eval.contexts import Model
from xquant_gguf.selftest import generation, layers
from xquant_gguf.selftest.checks import BYTES, Group, run
from xquant_gguf.selftest.devices import find_devices
from xquant_gguf.selftest.groups import GROUPS
from xquant_gguf.selftest.kernels import load_kernels
from xquant_gguf.selftest.report import reply_line, result_line

PACKED = {"kv": "lossless", "window": 32, "sink": 0}
TEXT = "A little fox lived at the edge of a wood and went down to the river every morning. "
MOST = 0.05
"""NMSE of logits; the CPU implementations are up to 0.026 apart on such a text. At two bits a code
that falls otherwise by a rounding error moves them by up to 0.18, which would say nothing."""

Logits = NDArray[np.float64]


def load(model: str, **kwargs: Any) -> Llama:
    keywords: dict[str, Any] = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, **kwargs}
    return Llama(model, **{"verbose": False, **PACKED, **keywords})


def logits(llm: Llama) -> Logits:
    return np.ctypeslib.as_array(llm._ctx.get_logits(), shape=(llm.n_vocab(),)).astype(np.float64)


def evaluate(llm: Llama) -> list[Logits]:
    """After a prompt of which a part is sealed, a token, and three at once."""
    tokens = llm.tokenize((TEXT * 8).encode())[:120]
    out = []
    for first, end in ((0, 116), (116, 117), (117, 120)):
        llm.eval(tokens[first:end])
        out.append(logits(llm))
    return out


def followers(llm: Llama) -> int:
    return sum(layer["k_leader"] >= 0 for layer in llm.kv_cache.layers)


def near(got: list[Logits], want: list[Logits], most: float = MOST) -> None:
    for a, b in zip(got, want):
        error = np.square(a - b).sum() / np.square(b).sum()
        print(f"NMSE {error:.1e}")
        assert error < most


def one(model: str, register: Any) -> None:
    """All layers on one device; sessions move between it and the CPU."""
    cpu = load(model)
    want = evaluate(cpu)
    register(1, 1)
    llm = load(model, n_gpu_layers=-1, verbose=True)
    near(evaluate(llm), want)
    state = llm.save_state()
    llm.eval([100])
    after = logits(llm)
    fresh = load(model, n_gpu_layers=-1)  # where the token gets the same cell again
    fresh.load_state(state)
    fresh.eval([100])
    assert (logits(fresh) == after).all()
    cpu.load_state(state)
    cpu.eval([100])
    near([logits(cpu)], [after])
    near(evaluate(load(model, n_gpu_layers=-1, offload_kqv=False)), want)
    near(evaluate(load(model, n_gpu_layers=10)), want)


def two(model: str, register: Any) -> None:
    """Two devices; a pair that they part keeps codes of its own, and those behind it share.

    So the CPU's plan with the same logits begins to share a pair later. At 4 bits, where another
    plan's are 0.02 apart behind the prompt: with fewer, rounding alone moves them as far.
    """

    def shared(first: int, **kwargs: Any) -> Llama:
        plan = {"k_share_from": first, "v_share_from": first}
        return load(model, kv="xquant", k_bits=4, v_bits=4, **plan, **kwargs)

    later = shared(16)
    want = evaluate(later)
    register(2, 1)
    parted = shared(14, n_gpu_layers=-1, tensor_split=[15, 16], verbose=True)
    got = evaluate(parted)
    near(got[:1], want[:1], 0.005)
    near(got[1:], want[1:])
    assert followers(parted) == followers(later) == 7


def none(model: str, register: Any) -> None:
    """A device without packed kernels is refused, with the remedy, and the remedy works."""
    register(1, 0)
    not_loaded(model, "packed kernels", "EMU0")


def refused(model: str, register: Any) -> None:
    """The same of a Metal device whose compiler takes none of the kernels."""
    register(1, 0)
    not_loaded(model, "needs kernels that the system's Metal compiler takes", "MTL0")


def not_loaded(model: str, *words: str) -> None:
    try:
        load(model, n_gpu_layers=-1)
    except UnsupportedModelError as error:
        print(error)
        assert all(word in str(error) for word in (*words, "offload_kqv=False"))
    else:
        raise AssertionError("not refused")
    evaluate(load(model, n_gpu_layers=-1, offload_kqv=False))


def selftest(model: str, register: Any) -> None:
    """The self-test's layers and reply, with the device for an implementation."""
    kernels = load_kernels()
    case = Group("a few layers", BYTES, 0, lambda *args: itertools.islice(layers.seal(*args), 4))
    try:
        run(case, kernels, "EMU0", 1)
    except LibraryError as error:
        print(error)
    else:
        raise AssertionError("no such device")
    register(1, 1)
    (device,) = (d for d in find_devices(_native.load()).devices if d.name == "EMU0")
    assert device.has_kernels and device.packed
    layers.DIMS = (80,)  # the emulator is slow
    for group in (group for group in GROUPS if group.gpu_budget is not None):
        result = run(group, kernels, "EMU0", 1, gpu=True)
        print(result_line(result), flush=True)
        assert result.passed and result.cases >= 3
    generation.PROMPT_TOKENS, generation.REPLY_TOKENS = 224, 3
    layers_there = Model(model, gpu_layers=-1)
    kvs = {"f16": resolve_kv("f16"), "lossless": resolve_kv("lossless", window=32)}
    (reply,), refused = generation.compare_replies(layers_there, kvs, threads=1, where="GPU")
    layers_there.close()
    print(reply_line(reply))
    assert not refused and reply.passed


CASES = {case.__name__: case for case in (one, two, none, refused, selftest)}


def main() -> None:
    library, case, model = sys.argv[1:]
    CASES[case](model, ctypes.CDLL(library).xq_register_emulated)
    print("passed")


if __name__ == "__main__":
    main()
