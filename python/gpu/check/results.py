"""``gpu.json``: replaced as a whole after every line of every step, so a kill loses nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from xquant_gguf._files import BadJson, read_json, write_whole

PASSED, FAILED, SKIPPED, LATE, RUNNING = "passed", "failed", "skipped", "out of time", "running"
FINISHED = (PASSED, FAILED, SKIPPED)
"""What a second run in the same folder does not repeat."""

FORMAT = 1
MOST = 16 << 20

Step = dict[str, Any]


class Results:
    """What ran, by step, in the order in which it ran.

    Args:
        folder: holds ``gpu.json`` and ``gpu.log``. bundle: what was packed (``bundle.json``).
    """

    def __init__(self, folder: Path, bundle: dict[str, Any]) -> None:
        self.path = folder / "gpu.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.data: dict[str, Any] = {"format": FORMAT, "bundle": bundle, "steps": {}}
        if self.path.exists():
            try:
                found = read_json(self.path, MOST)
            except BadJson as error:
                raise SystemExit(f"{self.path} is {error}: choose another --out") from error
            if found.get("format") != FORMAT or found.get("bundle") != bundle:
                raise SystemExit(f"{self.path} is of another bundle: choose another --out")
            self.data = found

    def step(self, name: str) -> Step | None:
        found: Step | None = self.data["steps"].get(name)
        return found

    def finished(self, name: str) -> bool:
        step = self.step(name)
        return step is not None and step["status"] in FINISHED

    def begin(self, name: str, stage: str, limit: float) -> Step:
        step = {"stage": stage, "status": RUNNING, "limit": round(limit, 1), "rows": []}
        self.data["steps"].pop(name, None)  # so that it comes last
        self.data["steps"][name] = step
        self.save()
        return step

    def end(self, step: Step, status: str, seconds: float, why: str = "") -> None:
        step["status"], step["seconds"] = status, round(seconds, 2)
        if why:
            step["why"] = why
        self.save()

    def save(self) -> None:
        self.data["written"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_whole(self.path, json.dumps(self.data, indent=1).encode() + b"\n")
