"""How closely the packed cache of a tiny model agrees with f16, and what it does with the model.

Tokens are random: 600 of a prompt, then 64 one by one, whose logits are compared.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

PROMPT, REPLY = 600, 64
HERE = Path(__file__).parent
F16_RAN = "f16 has read the tokens"  # told at once, for an assertion may end the process later


@dataclass
class Agreement:
    """What was found of one model. Errors are NMSE of logits against f16 without flash attention.

    Attributes:
        name: the spec in ``specs.py``.
        outcome: "packed", "nothing to pack" or "refused: " and the reason.
        exact: with window 4096, so that nothing is sealed.
        sealed: ``lossless`` as it is, with most of the prompt sealed.
        q4_0: llama.cpp's own type, for comparison; None where it refuses the model.
        layers: packed layers, and all layers of the model.
    """

    name: str
    outcome: str
    exact: float | None = None
    sealed: float | None = None
    q4_0: float | None = None
    layers: tuple[int, int] | None = None


def write(name: str, folder: Path, library: Path) -> Path:
    """Write the tiny model in a process of its own, for the loader aborts on some metadata."""
    command = [sys.executable, HERE / "make_tiny.py", "--lib", library, "--out", folder, name]
    subprocess.run(command, check=True, capture_output=True)
    return folder / f"{name}.gguf"


def measure(name: str, path: Path) -> Agreement:
    """Compare the caches on one model."""
    from xquant_gguf.errors import XQuantError

    truth = _logits(path, kv="f16", flash_attn=False)
    print(F16_RAN, file=sys.stderr, flush=True)
    try:
        exact, layers = _packed(path, window=4096)
    except XQuantError as error:
        return Agreement(name, f"refused: {error}")
    if not layers[0]:
        return Agreement(name, "nothing to pack", layers=layers)
    sealed, _ = _packed(path)
    try:
        q4_0 = nmse(_logits(path, kv="q4_0"), truth)
    except XQuantError:
        q4_0 = None
    return Agreement(name, "packed", nmse(exact, truth), nmse(sealed, truth), q4_0, layers)


def nmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Squared error over the variance of the truth, token by token, then the mean."""
    spread = ((truth - truth.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return float((((found - truth) ** 2).sum(axis=1) / spread).mean())


def _packed(path: Path, **settings: Any) -> tuple[np.ndarray, tuple[int, int]]:
    found: list[tuple[int, int]] = []
    logits = _logits(path, kv="lossless", look=found.append, **settings)
    return logits, found[0]


def _logits(path: Path, *, look: Any = None, **settings: Any) -> np.ndarray:
    from xquant_gguf import Llama

    tokens = np.random.default_rng(1).integers(3, 500, PROMPT + REPLY).tolist()
    llm = Llama(
        path, n_ctx=1024, n_threads=2, n_threads_batch=2, swa_full=False, verbose=False, **settings
    )
    try:
        rows = []
        llm.eval(tokens[:PROMPT])
        for token in tokens[PROMPT:]:
            llm.eval([token])
            rows.append(np.array(llm._ctx.get_logits_ith(-1)[: llm.n_vocab()], dtype=np.float64))
        if look:
            look((len(llm.kv_cache.layers), llm.model_info.n_layers))
        return np.stack(rows)
    finally:
        llm.close()


def main() -> int:
    """Measure one model and print the result as JSON: a crash then costs one row."""
    import json

    print(json.dumps(asdict(measure(sys.argv[1], Path(sys.argv[2])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
