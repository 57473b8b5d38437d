#!/usr/bin/env python3
"""The Vulkan shaders of cpp/kernels/gpu: translated to GLSL, compiled with glslc.

    shaders.py --glslc PATH --out DIR

writes DIR/NAME.comp and, for C++ to include, DIR/NAME.inc: SPIR-V as numbers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from glsl.preprocess import SourceError
from glsl.translate import Translator
from glsl.types import Type

ROOT = Path(__file__).resolve().parents[2]
HERE = "kernels/gpu/vulkan"
HEAD = """#version 460
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_8bit_storage : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
"""
BLOCK = {"XQG_WARPS": "1", "XQG_THREADS": "32"}


class Shader(NamedTuple):
    name: str
    main: str
    given: tuple[str, ...] = ()
    layered: bool = True
    exact: bool = False


SHADERS = [
    *(Shader(f"attend_{rows}", "attend", (str(rows),)) for rows in (1, 2, 4, 8)),
    Shader("combine", "combine", layered=False),
    Shader("store", "store", exact=True),
    Shader("seal", "seal", exact=True),
]


def glsl(shader: Shader, cpp: Path) -> str:
    """The whole source of a shader."""
    unit = Translator(cpp, f"kernels/gpu/{shader.main}.h", BLOCK, shader.exact)
    entry = unit.entry(f"xqg_{shader.main}", list(shader.given))

    def part(name: str) -> str:
        return (cpp / HERE / name).read_text("utf-8")

    body = "\n\n".join(unit.out)
    native = [part("device.glsl"), part("quads.glsl")]
    layer = [part("layer.glsl")] if shader.layered else []
    main = part(f"{shader.main}.comp").replace("XQ_ENTRY", entry)
    return "\n".join([HEAD, *native, body, *layer, main])


def ranked_words(cpp: Path) -> int:
    """Words of shared memory that sealing ranked keys takes."""
    return Translator(cpp, "kernels/gpu/seal_ranked.h", BLOCK, True).program.words(
        Type("xqg_ranked")
    )


def compiled(source: Path, glslc: str) -> str:
    command = [glslc, "--target-env=vulkan1.2", "-O", "-mfmt=num", str(source), "-o", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SourceError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Translate and compile the Vulkan shaders.")
    parser.add_argument("--glslc", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    cpp = ROOT / "cpp"
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        for shader in SHADERS:
            source = args.out / f"{shader.name}.comp"
            source.write_text(glsl(shader, cpp), "utf-8")
            (args.out / f"{shader.name}.inc").write_text(compiled(source, args.glslc), "utf-8")
        words = f"#define XQ_RANKED_WORDS {ranked_words(cpp)}\n"
        (args.out / "shared_words.h").write_text(words, "utf-8")
    except SourceError as error:
        print(f"xquant_gguf build, step 'shaders': {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
