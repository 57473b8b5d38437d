"""Errors: one clear line, the types callers already catch, and lazy exports of the package."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import xquant_gguf
from xquant_gguf import errors
from xquant_gguf.errors import ConfigError, XQuantError

ALL = [value for value in vars(errors).values() if isinstance(value, type)]
TYPES = [kind for kind in ALL if issubclass(kind, XQuantError)]


def test_an_error_is_one_line_of_rule_value_remedy() -> None:
    error = ConfigError("bits are 1 to 4", 9, "use\n  2")
    assert str(error) == "bits are 1 to 4; got 9; use 2"
    assert (error.rule, error.value, error.remedy) == ("bits are 1 to 4", "9", "use 2")
    assert str(XQuantError("only a rule")) == "only a rule"


@pytest.mark.parametrize("kind", TYPES)
def test_every_error_can_be_raised_pickled_and_has_an_exit_code(kind: type[XQuantError]) -> None:
    error = kind("rule", "value", "remedy")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "rule; got value; remedy"
    assert kind.exit_code in (1, 2)


def test_errors_are_also_the_types_that_callers_of_llama_cpp_catch() -> None:
    assert issubclass(errors.ContextFullError, (ValueError,))
    assert issubclass(errors.ContextFullError, (RuntimeError,))
    assert issubclass(errors.ModelFileError, (ValueError,))
    assert issubclass(errors.OutOfMemoryError, (MemoryError,))


@pytest.mark.parametrize(
    "text, parts",
    [
        ("rule: heads are 64 wide; got 48; remedy use f16", ("heads are 64 wide", "48", "use f16")),
        ("xquant: window must be 32; got '5'", ("window must be 32", "'5'", "")),
        ("xquant: no form; use f16", ("no form; use f16", "", "")),
        ("something else went wrong", ("something else went wrong", "", "")),
    ],
)
def test_native_texts_are_taken_apart(text: str, parts: tuple[str, str, str]) -> None:
    error = ConfigError.from_native(text)
    assert (error.rule, error.value, error.remedy) == parts


def test_exports_exist_and_settings_need_no_native_library() -> None:
    code = (
        "import sys, xquant_gguf as x\n"
        "x.XQuantConfig, x.PRESETS, x.ConfigError, x.KVCache\n"
        "assert 'llama_cpp' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(xquant_gguf.__all__) <= set(dir(xquant_gguf))
    assert xquant_gguf.__version__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = xquant_gguf.no_such_name
