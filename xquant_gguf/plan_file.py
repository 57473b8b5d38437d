"""Plans made by ``python -m xquant_gguf.calibrate``: the file, its checks, and ``kv="auto"``.

Without a plan beside the model ``auto`` chooses from what one forward pass says
(:mod:`.calibrate.stored`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ._files import BadJson, read_json, reason
from .config import FLAGS, KV, XQuantConfig
from .errors import ConfigError, ModelFileError

FORMAT = "xquant-plan"
VERSION = 1
AUTO = "auto"
"""The ``kv`` that stands for the plan beside the model, or for a choice from one forward pass
where there is none. ``auto:FILE`` names another plan; ``auto:tiny`` and ``auto:2.6`` are such a
choice with the bits of a preset, or with so many true bits."""

_HEAD = 1 << 20
_MAX_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the cache needs of a plan file.

    Attributes:
        config: the settings, with bits for every packed layer.
        fingerprint: of the model that it was made for, see :func:`fingerprint`.
        true_bits: bits an element of a packed token, with scales and padding.
    """

    config: XQuantConfig
    fingerprint: str
    true_bits: float


def plan_path(model_path: str | os.PathLike[str]) -> str:
    """Where the plan of a model lies unless another place is asked for: beside it."""
    return os.fspath(model_path) + ".xquant.json"


def fingerprint(model_path: str | os.PathLike[str]) -> str:
    """SHA-256 of a model file's size and first MiB, which has its settings and vocabulary.

    Raises:
        ModelFileError: the file cannot be read.
    """
    try:
        size = os.path.getsize(model_path)
        with open(model_path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ModelFileError(
            "the model file must be readable", str(error), "check the path"
        ) from error
    return hashlib.sha256(str(size).encode() + b"\n" + head).hexdigest()


def settings_of(config: XQuantConfig) -> dict[str, Any]:
    """All settings as plain values that JSON can hold."""
    return dataclasses.asdict(config)


def read_plan(path: str) -> Plan:
    """Read and check a plan file.

    Raises:
        ConfigError: it cannot be read, is no plan, has another version, or names settings
            that are not allowed here.
    """
    data = _load(path)
    if data.get("format") != FORMAT:
        raise _refused(path, f"a file with format {data.get('format')!r}")
    if data.get("version") != VERSION:
        raise _refused(path, f"version {data.get('version')!r}, where this one reads {VERSION}")
    model, settings = data.get("model"), data.get("settings")
    mark = model.get("fingerprint") if isinstance(model, dict) else None
    true_bits = data.get("true_bits")
    if not isinstance(settings, dict) or not isinstance(mark, str):
        raise _refused(path, "no settings or no fingerprint")
    if isinstance(true_bits, bool) or not isinstance(true_bits, (int, float)):
        raise _refused(path, f"true_bits {true_bits!r}")
    layers = data.get("layers")
    if not isinstance(layers, list):
        raise _refused(path, "no layers")
    return Plan(_config(path, settings, len(layers)), mark, float(true_bits))


def check_replaceable(path: str) -> None:
    """Refuse to write a plan over a file that is something else.

    Raises:
        ConfigError: the file is there and is no plan of any version.
    """
    if not os.path.exists(path):
        return
    try:
        found = _load(path).get("format")
    except ConfigError:
        found = None
    if found != FORMAT:
        raise ConfigError("only a plan is replaced by a plan", path, "give another --out")


def resolve_auto(
    kv: KV, model_path: str | os.PathLike[str] | None, tell: Callable[[str], None] | None = None
) -> KV:
    """The settings of a plan where ``kv`` is ``"auto"`` or begins with ``"auto:"``; else ``kv``.

    Args:
        model_path: the model that it is for; None if there is none yet.
        tell: called with what the user should know while the model is measured.

    Raises:
        ConfigError: there is no such plan, it cannot be used, or it belongs to another model.
        ModelFileError, UnsupportedModelError: the model cannot be read, or not be measured.
    """
    if not isinstance(kv, str) or (kv != AUTO and not kv.startswith(AUTO + ":")):
        return kv
    if model_path is None:
        raise ConfigError('kv="auto" needs a model', "none", "name a .gguf file")
    from .calibrate import stored

    model = os.fspath(model_path)
    wanted = fingerprint(model)  # a missing model is told before a missing plan
    named = kv[len(AUTO) + 1 :]
    path = named or plan_path(model)
    if stored.is_budget(named) or (not named and not os.path.exists(path)):
        return stored.config_for(model, wanted, named, tell or (lambda text: None))
    if not os.path.exists(path):
        raise ConfigError(
            f'kv="{kv}" needs a plan for the model',
            f"no file {path}",
            f"make it: {_command(model)}, or use {AUTO} or {AUTO}: with one of "
            f"{', '.join(stored.names())} or a number of bits",
        )
    plan = read_plan(path)
    if plan.fingerprint != wanted:
        raise ConfigError(
            "a plan fits only the model it was made for",
            f"{path}, made for another model than {model}",
            f"make it again: {_command(model)}",
        )
    return plan.config


def _command(model: str) -> str:
    return f"python -m xquant_gguf.calibrate {shlex.quote(model)}"


def _load(path: str) -> Mapping[str, Any]:
    try:
        data = read_json(path, _MAX_BYTES)
    except OSError as error:
        raise ConfigError(
            "a plan must be readable",
            f"{path}: {reason(error)}",
            "check the path and its permissions",
        ) from error
    except BadJson as error:
        raise _refused(path, str(error)) from error
    if not isinstance(data, dict):
        raise _refused(path, "JSON that is no object")
    return data


def _config(path: str, settings: Mapping[str, Any], n_layers: int) -> XQuantConfig:
    unknown = [name for name in settings if name not in FLAGS]
    if unknown:
        raise _refused(path, f"unknown settings {', '.join(unknown)}")
    try:
        config = XQuantConfig(**settings)
    except ConfigError as error:
        raise _refused(
            path, f"settings that are not allowed ({error.rule}: {error.value})"
        ) from error
    for name in ("k_layers", "v_layers"):
        text = getattr(config, name)
        repeats = text is not None and text.endswith("*")  # a preset's pattern
        if text is not None and not repeats and len(text.split("/")) != n_layers:
            raise _refused(path, f"{len(text.split('/'))} {name} for {n_layers} layers")
    return config


def _refused(path: str, what: str) -> ConfigError:
    return ConfigError(
        f"{path} must be a plan of this version of xquant_gguf",
        what,
        "make it again: python -m xquant_gguf.calibrate MODEL",
    )
