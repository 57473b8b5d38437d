"""The self-test: what it finds wrong, what it says of devices, its output, and a real run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xquant_gguf.errors import ConfigError, LibraryError, UnsupportedModelError
from xquant_gguf.selftest import attention, checks, cli, devices, report
from xquant_gguf.selftest.checks import BYTES, NMSE, Group, Result
from xquant_gguf.selftest.data import KINDS, numbers
from xquant_gguf.selftest.devices import Device, Found
from xquant_gguf.selftest.fenced import Fenced
from xquant_gguf.selftest.generation import Reply
from xquant_gguf.selftest.groups import GROUPS
from xquant_gguf.selftest.kernels import REFERENCE, Kernels, load_kernels
from xquant_gguf.selftest.sides import plain_values, ranked_keys, unbiased_values, uniform_keys

NAMES = [group.name for group in GROUPS]


@pytest.fixture
def kernels(packed_library: None) -> Kernels:
    return load_kernels()


def outcome(name: str, kernels: Kernels) -> Result:
    """A group of cases with the implementation in use."""
    return checks.run(next(g for g in GROUPS if g.name == name), kernels, kernels.names[0], 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_implementation_passes(kernels: Kernels, name: str) -> None:
    group = next(g for g in GROUPS if g.name == name)
    for implementation in kernels.names:
        result = checks.run(group, kernels, implementation, 1)
        assert result.passed, report.result_line(result)
        assert result.cases >= 15


def first_word(array: Any) -> None:
    array.view(np.uint32).reshape(-1)[0] ^= 1


def last_byte(array: Any) -> None:
    array.reshape(-1)[-1] ^= 1


def one_float(array: Any) -> None:
    array.reshape(-1)[array.size // 2] *= np.float32(1.1)


BREAKS: dict[str, tuple[str, int, Callable[[Any], None]]] = {
    # group: kernel function, which of its arguments, what goes wrong in it
    "seal: equal widths": ("seal", 4, first_word),
    "seal: followers, min and max": ("seal", 5, last_byte),
    "seal: followers, least squares": ("seal", 4, first_word),
    "seal: ranked keys": ("seal", 5, last_byte),
    "seal: unbiased values": ("seal_unbiased", 4, first_word),
    "unpack": ("unpack", 3, one_float),
    "multiply": ("mac", 4, one_float),
    "rotate": ("rotate", 0, one_float),
}


@pytest.mark.parametrize("name", BREAKS)
def test_one_wrong_code_or_float_of_a_strip_fails(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    function, at, spoil = BREAKS[name]
    right = getattr(kernels, function)

    def wrong(implementation: str, *args: Any, **kwargs: Any) -> None:
        right(implementation, *args, **kwargs)
        if implementation != REFERENCE:
            spoil(args[at])

    monkeypatch.setattr(kernels, function, wrong)
    result = outcome(name, kernels)
    assert not result.passed
    assert result.where
    assert "FAIL: " in report.result_line(result)


def spoiled(address: int, size: int, change: Callable[[Any], None]) -> None:
    """Change numbers that lie at an address."""
    array = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * size).from_address(address))
    change(array)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("attention")])
def test_one_wrong_head_of_attention_fails(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = kernels.attend

    def wrong(implementation: str, layer: Any) -> None:
        right(implementation, layer)
        spoiled(layer.out, layer.n_tokens * layer.n_head * layer.dv, one_float)

    monkeypatch.setattr(kernels, "attend", wrong)
    assert not outcome(name, kernels).passed


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("seal a layer")])
@pytest.mark.parametrize("plane", ("k_codes", "v_codes", "meta", "k_pages"))
def test_one_wrong_byte_of_a_layer_fails(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, name: str, plane: str
) -> None:
    right = kernels.seal_layer

    def wrong(implementation: str, layer: Any) -> None:
        right(implementation, layer)
        spoiled(getattr(layer, plane), 1, lambda a: first_word(a))

    monkeypatch.setattr(kernels, "seal_layer", wrong)
    assert not outcome(name, kernels).passed


def test_a_query_that_reads_the_wrong_form_fails(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One position off at the boundary of the window."""
    right = kernels.attend

    def wrong(implementation: str, layer: Any) -> None:
        head = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_int32 * 200).from_address(layer.table))
        positions = head[8 : 8 + layer.n_tokens]
        positions -= 1
        right(implementation, layer)
        positions += 1

    monkeypatch.setattr(kernels, "attend", wrong)
    assert not outcome("attention: window boundary", kernels).passed


def test_a_write_beyond_the_end_fails(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.rotate

    def wrong(implementation: str, x: Any, block: int) -> None:
        right(implementation, x, block)
        if implementation != REFERENCE:
            spoiled(x.ctypes.data + x.nbytes, 1, lambda a: first_word(a))

    monkeypatch.setattr(kernels, "rotate", wrong)
    assert outcome("rotate", kernels).worst == math.inf


def test_an_implementation_that_is_not_there_is_an_error(kernels: Kernels) -> None:
    with pytest.raises(LibraryError, match="abacus"):
        checks.run(GROUPS[0], kernels, "abacus", 1)


def test_fences_see_both_sides() -> None:
    fence = Fenced.full((3, 5), np.float32, 2.0)
    assert fence.broken == 0
    assert (fence.data == 2).all()
    fence._all[3] = fence._all[-1] = 0
    assert fence.broken == 2


def test_errors_of_every_kind() -> None:
    want = np.array([3.0, 4.0])
    assert checks.nmse(np.array([3.0, 4.5]), want) == 0.01
    assert checks.nmse(np.array([3.0, np.nan]), want) == math.inf
    assert checks.nmse(np.zeros(2), np.zeros(2)) == 0
    assert checks.nmse(want, np.zeros(2)) == math.inf
    assert checks.bytes_off(np.array([1, 256], np.uint32), np.array([1, 1], np.uint32)) == 2


def test_the_worst_case_is_named() -> None:
    def cases(*_: Any) -> Any:
        yield from (("a", 0.0), ("b", 2.0), ("c", 1.0))

    result = checks.run(Group("g", BYTES, 0, cases), SimpleNamespace(), "avx2", 1)  # type: ignore[arg-type]
    assert (result.cases, result.worst, result.where, result.passed) == (3, 2.0, "b", False)
    never = checks.run(Group("g", NMSE, 1, lambda *_: iter(())), SimpleNamespace(), "x", 1)  # type: ignore[arg-type]
    assert not never.passed
    unknown = Group("g", NMSE, 1, lambda *_: iter([("a", math.nan)]))
    assert checks.run(unknown, SimpleNamespace(), "x", 1).worst == math.inf  # type: ignore[arg-type]


def test_attention_by_hand() -> None:
    keys, values = np.eye(2), np.array([[1.0, 2.0], [5.0, 6.0]])
    q, mask = np.array([math.log(3), 0.0]), np.zeros(2)
    assert np.allclose(attention.attend(q, keys, values, mask, scale=1), [2, 3])
    sink = attention.attend(q, keys, values, mask, scale=1, sink=math.log(4))
    assert np.allclose(sink, [1, 1.5])
    hidden = np.array([-np.inf, 0.0])
    assert np.allclose(attention.attend(q, keys, values, hidden, scale=1), [5, 6])
    assert (attention.attend(q, keys, values, hidden - np.inf, scale=1) == 0).all()
    assert np.allclose(attention.rotated(np.array([[1.0, 0.0]]), 2), 0.5**0.5)
    assert (attention.rotated(values, 0) == values).all()


def test_sides_have_the_sizes_of_the_format(kernels: Kernels) -> None:
    assert kernels.strip_words(uniform_keys(128, 2)) == 8 * 32
    assert kernels.strip_words(ranked_keys(128, 1.5)) == 6 * 32
    assert kernels.meta_bytes(ranked_keys(64, 2)) == 20 + 112
    assert (plain_values(80, 1).strips, plain_values(80, 1).lanes_last) == (3, 16)
    assert kernels.meta_bytes(unbiased_values(80, 2)) == 36
    assert (unbiased_values(80, 2).rot, unbiased_values(80, 2, rotated=False).rot) == (16, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_finite(kind: str) -> None:
    assert np.isfinite(numbers(np.random.default_rng(1), (64, 16), kind)).all()


CPU = Device("CPU", "a processor", "cpu", "CPU")
CUDA = Device("CUDA0", "a card", "gpu", "CUDA")
BLAS = Device("BLAS", "a library", "accelerator", "BLAS")


def test_what_cannot_be_tested_has_a_reason() -> None:
    lines = devices.not_tested(
        Found((CPU, CUDA, BLAS), ("CPU", "CUDA", "BLAS", "Vulkan")), ("avx2", "neon"), ["avx2"]
    )
    assert lines == [
        "CUDA0 (a card): this build has no packed kernels for CUDA",
        "BLAS (a library): BLAS takes no part in packed attention",
        "Vulkan: built in, but it found no device",
        "Metal: not built into this library",
        "CPU kernels neon: this machine or this build has none",
    ]
    assert report.device_line(CPU, ["avx2", "generic"]).endswith("tested: avx2, generic")
    assert "not tested: this build" in report.device_line(CUDA, ["avx2"])
    built = Device("CUDA0", "a card", "gpu", "CUDA", has_kernels=True)
    assert report.device_line(built, ["avx2"]).endswith(": tested: layers of packed kernels")
    first, *_ = devices.not_tested(Found((built,), ("CUDA", "Metal", "Vulkan")), (), [])
    assert first.startswith("CUDA0: single strips, rotating and storing")


@pytest.mark.usefixtures("packed_library")
def test_devices_of_this_machine() -> None:
    from xquant_gguf import _native

    found = devices.find_devices(_native.load())
    assert "CPU" in found.backends
    cpu = next(device for device in found.devices if device.backend == "CPU")
    assert (cpu.kind, cpu.packed, cpu.why_not()) == ("cpu", True, "")
    assert "CPU" not in _native.load().gpu_backends()
    assert cpu.description


def test_replies_pass_by_their_own_budget() -> None:
    good = Reply("lossless", 0.004, 0.1, 32, 0, 32)
    assert good.passed
    assert not Reply("lossless", 0.004, 0.1, 5, 1, 32).passed
    assert not Reply("lossless", 0.2, 0.1, 32, 0, 32).passed
    assert Reply("tiny", 0.3, 1.0, 5, 2, 32).passed
    assert not Reply("tiny", math.nan, 1.0, 5, 2, 32).passed
    assert "first 32 of 32" in report.reply_line(good)


def test_the_summary_names_failures() -> None:
    results = [
        Result("unpack", "avx2", NMSE, 1e-12, 3, math.inf, "a case"),
        Result("rotate", "avx2", NMSE, 1e-12, 3, 0.0, ""),
    ]
    text = report.summary(results, [], ["CUDA: no device"])
    assert "passed: 1 of 2 checks" in text
    assert "failed: unpack (avx2)" in text
    assert "CUDA: no device" in text
    assert report.as_json(results, [])["checks"][0]["worst"] is None


@pytest.mark.usefixtures("packed_library")
def test_kernels_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "self.json"
    assert cli.main(["--threads", "1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "failed: none" in printed
    assert "no model was given" in printed
    found = json.loads(out.read_text())
    assert found["passed"] is True
    assert {check["group"] for check in found["checks"]} == set(NAMES)
    assert all(check["passed"] for check in found["checks"])
    assert found["devices"][0]["backend"] == "CPU"

    def wrong(self: Kernels, name: str, x: Any, block: int) -> None:
        x[0] += name != REFERENCE

    monkeypatch.setattr(Kernels, "rotate", wrong)
    assert cli.main(["--threads", "1", "--json", str(out)]) == 1
    assert "failed: rotate" in capsys.readouterr().out
    assert json.loads(out.read_text())["passed"] is False


def test_a_device_runs_whole_layers_alone(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cases(_: Kernels, name: str, threads: int) -> Any:
        asked.append(name)
        yield "a", 0.0

    groups = (Group("strips", BYTES, 0, cases), Group("layers", BYTES, 0, cases, 0.5))
    monkeypatch.setattr(cli, "GROUPS", groups)
    results = cli._check_kernels(kernels, ["CUDA0"], 1)
    assert asked == [*(name for name in kernels.names for _ in groups), "CUDA0"]
    last = results[-1]
    assert (last.group, last.implementation, last.budget) == ("layers", "CUDA0", 0.5)
    assert results[0].budget == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.gguf"], "must exist"),
        (["missing.gguf", "--kv", "balancd"], "did you mean balanced"),
        (["missing.gguf", "--depth", "x"], "--depth"),
        (["--threads", "0"], "--threads"),
        (["--rounds", "0"], "--rounds"),
        (["--json", "no/such/folder/x.json"], "--json"),
    ],
)
def test_errors_take_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == ConfigError.exit_code
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert printed.out == ""


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.usefixtures("packed_library")
def test_a_real_run(
    smollm2: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "GROUPS", ())  # tested above
    out = tmp_path / "self.json"
    arguments = ["--depth", "96", "--rounds", "1", "--steps", "2", "--threads", "1"]
    assert cli.main([str(smollm2), *arguments, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [reply["kv"] for reply in found["replies"]] == ["lossless", "balanced"]
    lossless, balanced = found["replies"]
    assert 0 < lossless["kl"] < 0.05
    assert balanced["kl"] < 0.3
    assert lossless["flipped"] == 0
    rows = found["speed"]["rows"]
    assert [row["kv"] for row in rows if row["depth"] == 96] == ["f16", "q8_0", "q4_0", "balanced"]
    assert all(row["decode_tok_s"] > 0 for row in rows)
    assert "| 96 | balanced |" in capsys.readouterr().out


@pytest.mark.usefixtures("packed_library")
def test_a_model_that_cannot_run_is_not_tested(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedModelError("the model must do something", "nothing")

    monkeypatch.setattr(cli, "GROUPS", ())
    monkeypatch.setattr(cli, "compare_replies", refuse)
    monkeypatch.setattr(cli, "time_caches", refuse)
    monkeypatch.setattr(cli, "read_header", lambda path: None)
    model = SimpleNamespace(info=SimpleNamespace(arch="none"), close=lambda: None)
    monkeypatch.setattr(cli, "Model", lambda path, gpu_layers: model)
    assert cli.main(["any.gguf", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    for what in ("reply", "speed"):
        assert f"{what} on the CPU: the model must do something; got nothing" in printed


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.usefixtures("packed_library")
def test_a_broken_cache_fails_the_reply(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far too coarse a cache under the name of a near one, as a broken kernel would look."""
    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval.contexts import Model
    from xquant_gguf.selftest import generation

    monkeypatch.setattr(generation, "REPLY_TOKENS", 8)
    coarse = resolve_kv("kivi2", v_bits=1, k_bits=1, window=32)
    model = Model(str(smollm2))
    kvs = {"f16": resolve_kv("f16"), "lossless": coarse}
    (reply,), refused = generation.compare_replies(model, kvs, threads=1)
    model.close()
    assert not refused
    assert not reply.passed
