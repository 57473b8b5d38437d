"""Bad input: a typed exception in Python, one line and an exit code on the command line."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import subprocess_env
from tiny import write

from xquant_gguf import _native
from xquant_gguf.errors import (
    ConfigError,
    LibraryError,
    ModelFileError,
    OutOfMemoryError,
    UnsupportedModelError,
    XQuantWarning,
)
from xquant_gguf.gguf_header import read_header

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A sound GGUF file of an architecture that llama.cpp does not know."""
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "nonsense")
    writer.add_block_count(2)
    writer.add_context_length(4096)
    writer.add_embedding_length(256)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 1])
    writer.add_token_list([f"t{i}" for i in range(5000)])
    writer.add_tensor("first", np.zeros((4, 64), dtype=np.float32))
    writer.add_tensor("last", np.zeros((8, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama(*args: object, **kwargs: object) -> object:
    from xquant_gguf import Llama

    return Llama(*args, verbose=False, **kwargs)  # type: ignore[arg-type]


def check_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line on standard error that holds ``words``, nothing on standard output."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    for word in words:
        assert word in done.stderr


# files


def test_the_header_is_read_without_the_weights(tiny: Path) -> None:
    info = read_header(str(tiny))
    assert (info.arch, info.n_layers, info.n_ctx_train) == ("nonsense", 2, 4096)
    assert (info.n_head_kv, info.head_dim_k, info.head_dim_v) == ((2, 1), 64, 64)
    assert info.file_bytes == tiny.stat().st_size


def test_every_truncation_is_found(tiny: Path, tmp_path: Path) -> None:
    data = tiny.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 400, 13), len(data) // 2, len(data) - 1025, len(data) - 1]:
        cut.write_bytes(data[:size])
        with pytest.raises(ModelFileError) as caught:
            read_header(str(cut))
        assert caught.value.remedy, size
    cut.write_bytes(data)
    read_header(str(cut))


def test_altered_headers_never_raise_anything_else(tiny: Path, tmp_path: Path) -> None:
    data = bytearray(tiny.read_bytes())
    bad = tmp_path / "bad.gguf"
    for at in range(8, 420):
        altered = bytearray(data)
        altered[at] = 0xFF
        bad.write_bytes(altered)
        try:
            read_header(str(bad))
        except ModelFileError as error:
            assert str(error)


@pytest.mark.parametrize(
    "content, rule",
    [
        (b"", "GGUF"),
        (b"PK\x03\x04" + bytes(100), "GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "version"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(100), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60), "complete"),
    ],
)
def test_not_a_gguf(tmp_path: Path, run_chat: Run, content: bytes, rule: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rule):
        llama(path)
    check_line(run_chat(path, "--prompt", "hi"), 2, str(path), rule)


def test_no_file_and_a_folder(tmp_path: Path, run_chat: Run) -> None:
    missing = tmp_path / "none.gguf"
    with pytest.raises(ModelFileError, match="must exist"):
        llama(str(missing))
    check_line(run_chat(missing, "--prompt", "hi"), 2, "must exist", str(missing))
    check_line(run_chat(tmp_path, "--prompt", "hi"), 2, "must be a file")


def test_a_truncated_file_on_the_command_line(tiny: Path, run_chat: Run) -> None:
    tiny.write_bytes(tiny.read_bytes()[:-1])
    check_line(run_chat(tiny, "--prompt", "hi"), 2, "complete", "download or copy it again")


def test_an_unknown_architecture(
    tiny: Path, run_chat: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnsupportedModelError, match="nonsense"):
        llama(tiny, kv="f16")
    assert capfd.readouterr() == ("", "")
    check_line(run_chat(tiny, "--kv", "f16", "--prompt", "hi"), 2, "architecture", "nonsense")


# settings


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"kv": "q2"}, ["'q2'", "balanced", "q8_0"]),
        ({"k_share_from": 3}, ["k_share_from", "even", "2 or 4"]),
        ({"v_bits": 5}, ["v_bits", "5"]),
        ({"k_eta2": 0.6}, ["k_eta2", "0.6"]),
        ({"window": 100}, ["window", "32", "100", "96"]),
        ({"kv": "f16", "k_bits": 2}, ["k_bits=2", "stock"]),
    ],
)
def test_bad_settings(
    tiny: Path, run_chat: Run, settings: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        llama(tiny, **settings)
    flags = [part for k, v in settings.items() for part in ("--" + k.replace("_", "-"), v)]
    done = run_chat(tiny, *flags, "--prompt", "hi")
    check_line(done, 2, *words)
    assert str(caught.value) in done.stderr


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"k_bit": 2}, "did you mean k_bits"),
        ({"bits": 2}, "did you mean [kv]_bits"),
        ({"k-bits": 2}, "did you mean k_bits"),
        ({"KV": "f16"}, "did you mean kv"),
        ({"windows": 64}, "did you mean window"),
        ({"n_sink": 4}, "did you mean sink"),
        ({"kv_type": "f16"}, "did you mean one of kv, .*k_bits"),
        ({"k_nonsense": 1}, "a cache setting must exist"),
        ({"type_k": 8}, "set once"),
        ({"kv": "q8_0", "type_v": 8}, "set once"),
        ({"n_ctx": -5}, "n_ctx"),
        ({"n_ctx": 2**33}, "n_ctx"),
        ({"n_ctx": 1.5}, "n_ctx"),
    ],
)
def test_bad_keywords(tiny: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        llama(tiny, **settings)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rpc_servers": "a:1"}, "ignores keywords.*rpc_servers; leave it out"),
        ({"n_parts": -1}, "n_parts"),
        ({"f16_kv": True}, "f16_kv"),
        ({"n_ctxx": 512}, "n_ctxx; did you mean n_ctx?"),
        ({"n_gpu_layer": 1}, "did you mean n_gpu_layers?"),
        ({"kv": "q8_0", "flash_attn": False}, "flash attention, which is switched on"),
        ({"flash_attn": False}, "flash attention, which is switched on"),
    ],
)
def test_keywords_that_llama_cpp_swallows_are_warned_about_once(
    settings: dict[str, object], words: str
) -> None:
    from xquant_gguf.llama import Llama

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            with pytest.raises(ModelFileError):  # the next thing that is wrong
                Llama("none.gguf", **settings)
    assert [w.category for w in seen] == [XQuantWarning]
    assert re.search(words, str(seen[0].message))
    assert seen[0].filename == __file__


def test_every_cache_setting_with_a_letter_wrong_is_refused(tiny: Path) -> None:
    from xquant_gguf import _keywords, config
    from xquant_gguf.llama import _STOCK_KEYWORDS

    for name in config.FLAGS:
        for wrong in {name[:i] + name[i + 1 :] for i in range(len(name))}:
            with pytest.raises(ConfigError, match="a cache setting must exist"):
                _keywords.checked_keywords(config.XQuantConfig(), {wrong: 1}, _STOCK_KEYWORDS)


@pytest.mark.parametrize(
    "args, words",
    [
        ([], "must be named"),
        (["a.gguf", "--demo"], "not both"),
        (["--nonsense"], "--nonsense"),
        (["a.gguf", "--temperature", "hot"], "temperature"),
        (["a.gguf", "--temperature", "-1"], "temperature"),
        (["a.gguf", "--top-p", "2"], "top_p"),
        (["a.gguf", "--max-tokens", "-3"], "max_tokens"),
        (["a.gguf", "--ctx", "-1"], "--ctx"),
        (["a.gguf", "--threads", "0"], "--threads"),
        (["a.gguf", "--k-share-from", "half"], "'half'"),
        (["a.gguf", "--v-share-from", "0.5.5"], "'0.5.5'"),
    ],
)
def test_bad_arguments(run_chat: Run, args: list[str], words: str) -> None:
    check_line(run_chat(*args), 2, words)


def test_an_empty_prompt(tiny: Path, run_chat: Run) -> None:
    check_line(run_chat(tiny, stdin="  \n"), 2, "prompt")
    check_line(run_chat(tiny, "--prompt", ""), 2, "prompt")


def test_a_context_beyond_memory(tmp_path: Path, packed_library: None, run_chat: Run) -> None:
    model = write(tmp_path, "model")
    with pytest.raises(OutOfMemoryError, match=r"MiB for n_ctx=2000000000; use n_ctx=\d+ or less"):
        llama(model, kv="f16", n_ctx=2_000_000_000)
    done = run_chat(model, "--kv", "f32", "--ctx", 2_000_000_000, "--prompt", "hi")
    check_line(done, 1, "memory", "n_ctx=2000000000")


def test_show_config_needs_no_model(tiny: Path, run_chat: Run) -> None:
    done = run_chat("--show-config", "--kv", "xquant", "--sink", "4")
    assert done.returncode == 0
    rows = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert (rows["kv"], rows["sink"], rows["v_share_from"]) == ("xquant", "4", "0.500000000")
    with_model = run_chat(tiny, "--show-config", "--kv", "f16").stdout
    assert "KV estimate" in with_model


# the library


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=subprocess_env(**env)
    )


CATCH = """
try:
    from xquant_gguf import Llama
except Exception as error:
    print(type(error).__name__, error)
"""


def test_another_library_already_loaded(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(_native.library_directory(), other, ignore=_only_libraries)
    done = python(f"import llama_cpp\n{CATCH}", LLAMA_CPP_LIB_PATH=str(other))
    assert done.stdout.startswith("LibraryError llama_cpp must use our library"), done
    assert str(other) in done.stdout
    assert "fresh process" in done.stdout


def test_our_library_already_loaded_is_fine() -> None:
    ours = str(_native.library_directory())
    done = python(f"import llama_cpp\n{CATCH}", LLAMA_CPP_LIB_PATH=ours)
    assert (done.returncode, done.stdout) == (0, ""), done


def test_no_library(tmp_path: Path, tiny: Path) -> None:
    done = python(CATCH, XQUANT_GGUF_LIB=str(tmp_path))
    assert done.stdout.startswith("LibraryError the library folder must hold"), done
    code = f"from xquant_gguf.chat.app import main; raise SystemExit(main([{str(tiny)!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="hi",
        capture_output=True,
        text=True,
        env=subprocess_env(XQUANT_GGUF_LIB=str(tmp_path)),
    )
    check_line(done, 1, "XQUANT_GGUF_LIB")


def test_an_unreadable_library(tmp_path: Path) -> None:
    for name in ("libllama.so", "libllama.dylib", "llama.dll"):
        (tmp_path / name).write_bytes(b"not a library")
    done = python(CATCH, XQUANT_GGUF_LIB=str(tmp_path))
    assert done.stdout.startswith("LibraryError llama_cpp must be able to load"), done


def test_a_library_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="version 1 of the C API; got version 2"):
        _native._check_abi(2, tmp_path)


def _only_libraries(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not name.startswith(("lib", "ggml", "llama"))}
