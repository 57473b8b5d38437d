"""Write tiny random GGUF models of any architecture that llama.cpp knows.

    python python/archs/make_tiny.py --out DIR qwen35 gpt-oss gemma4
    python python/archs/make_tiny.py --list
    python python/archs/make_tiny.py --out DIR --set attention.key_length=512 gemma3

An unknown name is taken as an architecture. ``--set`` overrides one key with a JSON value.

Metadata alone is given to ``llama_model_init_from_user``, whose loader then asks for every tensor
by name and shape. Those, with random data scaled so that softmax is neither flat nor one-hot, are
written to the file. So no list of tensors is kept here, and a new architecture usually needs
nothing or a few keys in ``specs.py``.

Needs numpy, gguf and a llama.cpp library: ``--lib DIR``, XQUANT_GGUF_LIB, or the installed one.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import zlib
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from metadata import metadata_of
from specs import SPECS


def library(directory: Path) -> tuple[ctypes.CDLL, ctypes.CDLL, Any]:
    """libggml-base, libllama and the module llama_cpp, whose structs match them."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(directory)
    import llama_cpp

    base = ctypes.CDLL(str(next(directory.glob("*ggml-base.*"))))
    return base, llama_cpp.llama_cpp._lib, llama_cpp


def gguf_context(base: ctypes.CDLL, meta: dict[str, Any]) -> ctypes.c_void_p:
    def call(name: str, *args: Any, result: Any = None) -> Any:
        function = getattr(base, name)
        function.restype = result
        return function(*args)

    ctx = ctypes.c_void_p(call("gguf_init_empty", result=ctypes.c_void_p))
    for key, value in meta.items():
        k = key.encode()
        if isinstance(value, bool):
            call("gguf_set_val_bool", ctx, k, ctypes.c_bool(value))
        elif isinstance(value, int):
            call("gguf_set_val_u32", ctx, k, ctypes.c_uint32(value))
        elif isinstance(value, float):
            call("gguf_set_val_f32", ctx, k, ctypes.c_float(value))
        elif isinstance(value, str):
            call("gguf_set_val_str", ctx, k, value.encode())
        elif isinstance(value[0], str):
            items = (ctypes.c_char_p * len(value))(*[v.encode() for v in value])
            call("gguf_set_arr_str", ctx, k, items, ctypes.c_size_t(len(value)))
        else:
            code, kind = {
                bool: (7, ctypes.c_bool),
                int: (4, ctypes.c_uint32),
                float: (6, ctypes.c_float),
            }[type(value[0])]
            items = (kind * len(value))(*value)
            call(
                "gguf_set_arr_data", ctx, k, ctypes.c_int(code), items, ctypes.c_size_t(len(value))
            )
    return ctx


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def errors_only(level: int, text: bytes, _: Any) -> None:
    if level == 4:
        sys.stderr.write(text.decode("utf-8", "replace"))


def tensors_of(directory: Path, meta: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes (ggml order) that the loader asks for."""
    base, llama, llama_cpp = library(directory)
    base.ggml_get_name.restype = ctypes.c_char_p
    base.ggml_get_name.argtypes = [ctypes.c_void_p]
    base.ggml_n_dims.argtypes = [ctypes.c_void_p]
    found: dict[str, tuple[int, ...]] = {}

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    def note(tensor: int, _: Any) -> None:
        shape = tuple((ctypes.c_int64 * 4).from_address(tensor + 16))  # enum type, buffer, ne[4]
        found.setdefault(base.ggml_get_name(tensor).decode(), shape[: base.ggml_n_dims(tensor)])

    llama.llama_log_set(errors_only, None)
    init = llama.llama_model_init_from_user
    init.restype = ctypes.c_void_p
    init.argtypes = [ctypes.c_void_p, type(note), ctypes.c_void_p, llama_cpp.llama_model_params]
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    if hasattr(params, "load_mtp"):
        params.load_mtp = True
    model = init(gguf_context(base, meta), note, None, params)
    if not model:
        raise RuntimeError("the loader refused the metadata (its reason is above)")
    llama_cpp.llama_model_free(ctypes.cast(model, llama_cpp.llama_model_p_ctypes))
    return list(found.items())


def gemma4_assistant(meta: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Its layers all predict next tokens, for which a loader without a file has no room."""
    get: Any = {key.partition(".")[2]: value for key, value in meta.items()}.get
    embd, target, ff, vocab = (
        get("embedding_length"),
        get("embedding_length_out"),
        get("feed_forward_length"),
        get("vocab_size"),
    )
    found = [
        ("token_embd.weight", (embd, vocab)),
        ("output_norm.weight", (embd,)),
        ("nextn.post_projection.weight", (embd, target)),
        ("nextn.pre_projection.weight", (2 * target, embd)),
        ("rope_freqs.weight", (get("attention.key_length") // 2,)),
    ]
    for i, sliding in enumerate(get("attention.sliding_window_pattern")):
        d = get("attention.key_length_swa" if sliding else "attention.key_length")
        rows = d * get("attention.head_count")
        for name, shape in (
            ("attn_norm", (embd,)),
            ("attn_q", (embd, rows)),
            ("attn_output", (rows, embd)),
            ("attn_q_norm", (d,)),
            ("post_attention_norm", (embd,)),
            ("layer_output_scale", (1,)),
            ("ffn_norm", (embd,)),
            ("ffn_gate", (embd, ff)),
            ("ffn_up", (embd, ff)),
            ("ffn_down", (ff, embd)),
            ("post_ffw_norm", (embd,)),
        ):
            found.append((f"blk.{i}.{name}.weight", shape))
    return found


BY_HAND = {"gemma4-assistant": gemma4_assistant}


def data_of(name: str, shape: tuple[int, ...], options: dict[str, Any], seed: int) -> np.ndarray:
    """Random f32 values in numpy order, by the role that the name gives away."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) ^ seed)
    x = rng.standard_normal(shape[::-1], dtype=np.float32)
    fan_in = np.float32(1 / np.sqrt(shape[0]))
    if re.search(r"rope_(freqs|factors)", name):
        return np.ones_like(x)
    if re.search(r"(attn_q_norm|attn_k_norm)", name) and name.endswith("weight"):
        return np.float32(options.get("_qk_norm", 1.3)) * (1 + 0.1 * x)
    if name.endswith("bias"):
        return np.float32(0.1) * x
    if "ssm_a" in name:
        return -np.abs(x) - np.float32(0.1)  # decay
    if re.search(r"norm|ssm_d$|output_scale|\.scale$|correct_scale", name) and len(shape) <= 2:
        return 1 + np.float32(0.1) * x
    if name.startswith("token_embd"):
        return np.float32(options.get("_emb", 0.7)) * x
    if name.startswith("output."):
        return 3 * fan_in * x
    if re.search(r"attn_(q|k|q_b|k_b)\.", name):
        return np.float32(options.get("_qk", 1.5)) * fan_in * x
    if re.search(r"attn_(v|output)\.", name):
        return np.float32(1.5) * fan_in * x
    if len(shape) == 1 or "sinks" in name or "rel_b" in name:
        return x
    return fan_in * x


def write(
    path: Path,
    arch: str,
    meta: dict[str, Any],
    tensors: list[tuple[str, tuple[int, ...]]],
    options: dict[str, Any],
    seed: int,
) -> int:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, arch)
    for key, value in meta.items():
        if key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, shape in tensors:
        if not re.search(options.get("_drop", r"$^"), name):
            writer.add_tensor(name, data_of(name, shape, options, seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


def make(
    name: str,
    out: Path,
    lib: Path,
    overrides: dict[str, Any],
    seed: int = 1,
    file_name: str | None = None,
) -> Path:
    arch, meta, options = metadata_of(name, overrides)
    tensors = BY_HAND[arch](meta) if arch in BY_HAND else tensors_of(lib, meta)
    path = out / f"{file_name or name}.gguf"
    size = write(path, arch, meta, tensors, options, seed)
    print(f"{path}: {arch}, {len(tensors)} tensors, {size / 1e6:.1f} MB")
    return path


def default_lib() -> Path:
    if os.environ.get("XQUANT_GGUF_LIB"):
        return Path(os.environ["XQUANT_GGUF_LIB"])

    spec = util.find_spec("xquant_gguf")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("name the folder of libllama with --lib")
    return Path(next(iter(spec.submodule_search_locations))) / "lib"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--lib", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", help="file name without .gguf, for a single model")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=JSON", help="override a key or an option"
    )
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    if args.list:
        for name, (arch, *_) in SPECS.items():
            print(f"{name:24} {arch}")
        return 0
    lib = args.lib or default_lib()
    args.out.mkdir(parents=True, exist_ok=True)
    names = list(SPECS) if args.all else args.names
    if len(names) == 1:
        overrides = {k: json.loads(v) for k, _, v in (item.partition("=") for item in args.set)}
        make(names[0], args.out, lib, overrides, args.seed, args.name)
        return 0
    failed = []
    for name in names:  # a process each: the loader aborts on some bad metadata
        command = [
            sys.executable,
            __file__,
            name,
            "--out",
            str(args.out),
            "--lib",
            str(lib),
            "--seed",
            str(args.seed),
        ]
        command += [part for item in args.set for part in ("--set", item)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            failed.append(name)
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            print(f"{name}: FAILED: {' | '.join(lines[-4:])[-400:]}")
        else:
            print(done.stdout.strip())
    print(
        f"{len(names) - len(failed)} of {len(names)} written; failed: {', '.join(failed) or 'none'}"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
