"""C++ and Python understand each other under locales with decimal commas or grouped thousands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from comma_locale import NAME, NoLocale, environment
from conftest import ROOT, subprocess_env

# What a session does: settings in, a report out, a state out and in again.
USE = """
import ctypes, json, locale, sys
from xquant_gguf import Llama

def use(path):
    out = []
    for settings in ({"kv": "xquant", "v_1bit_from": 0.25}, {"k_bits": 1.5, "v_eta1": 0.25}):
        llm = Llama(path, n_ctx=4096, verbose=False, **settings)
        tokens = llm.tokenize(b"The sea is salty, because rivers")
        llm.eval(tokens)
        state = llm.save_state()
        llm.load_state(state)
        assert llm.kv_cache.tokens == len(tokens)
        out += [llm.kv_cache.as_dict(), bytes(state.llama_state).count(b"v_eta1=0.25,")]
        llm.close()
    return json.dumps(out)

before = use(sys.argv[1])
"""
SAME = """
after = use(sys.argv[1])
assert before == after, (before, after)
print("same")
"""
GROUPING = """
#include <locale>
struct grouped : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\\3"; }
};
extern "C" void enter() { std::locale::global(std::locale(std::locale::classic(), new grouped)); }
"""


def run(code: str, *args: object, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        env=subprocess_env(**env),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.model
@pytest.mark.usefixtures("packed_library")
def test_under_a_locale_with_decimal_commas(smollm2: Path, tmp_path: Path) -> None:
    try:
        env = environment(tmp_path)
    except NoLocale as why:
        pytest.skip(str(why))
    enter = f"""
locale.setlocale(locale.LC_ALL, {NAME!r})
text = ctypes.create_string_buffer(16)
ctypes.CDLL(None).snprintf(text, 16, b"%.1f", ctypes.c_double(1.5))
assert text.value == b"1,5", text.value
"""
    assert run(USE + enter + SAME, smollm2, **env) == "same\n"


@pytest.mark.model
@pytest.mark.usefixtures("packed_library")
def test_under_a_global_cpp_locale_that_groups_thousands(smollm2: Path, tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("the test of C++'s global locale needs c++")
    source, library = tmp_path / "grouped.cpp", tmp_path / "grouped.so"
    source.write_text(GROUPING)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    enter = f"ctypes.CDLL({str(library)!r}).enter()\n"
    assert run(USE + enter + SAME, smollm2) == "same\n"


def test_only_one_file_formats_and_reads_numbers() -> None:
    """Everything whose result depends on a locale is kept out of what Python and C++ exchange."""
    depends = re.compile(
        r"\b(strto[dfl]d?|ato[fil]|sto[dfi]|s?n?printf|[io]?stringstream|scanf|to_string\(double)\b"
    )
    allowed = {"strtol"}  # of whole numbers, without a grouping flag
    found = []
    for part in ("cache", "capi", "graph", "server"):
        for file in sorted((ROOT / "cpp" / part).glob("*.*")):
            if file.name == "text.h":
                continue
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                for match in depends.finditer(line):
                    if match[0] not in allowed and "std::stringstream in(" not in line:
                        found.append(f"{file.name}:{number}: {match[0]}")
    assert not found, found
