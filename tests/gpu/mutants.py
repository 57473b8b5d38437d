"""Deliberate defects (mutants.txt), compiled side by side and switched on one at a time.

An expression becomes ``(xq_mutant == 7 ? (defect) : (text))``, a statement without a
defect ``if (xq_mutant != 7) { text }``; a defect that says MUTANT replaces the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .build import HERE, copied, emulated

SWITCH = """
int xq_mutant = 0;
extern "C" __attribute__((visibility("default"))) void xq_set_mutant(int i) { xq_mutant = i; }
"""


@dataclass(frozen=True)
class Mutant:
    number: int
    name: str
    file: str
    nth: int
    impl: str
    text: str
    defect: str | None

    def put(self, source: str) -> str:
        at = -1
        for _ in range(self.nth):
            at = source.find(self.text, at + 1)
            assert at >= 0, f"{self.name}: no longer in {self.file}: {self.text}"
        here = f"xq_mutant == {self.number}"
        if self.defect is None:
            new = f"if (!({here})) {{ {self.text} }}"
        elif "MUTANT" in self.defect:
            new = self.defect.replace("MUTANT", here)
        else:
            new = f"({here} ? ({self.defect}) : ({self.text}))"
        return source[:at] + new + source[at + len(self.text) :]


def mutants(name: str = "mutants.txt") -> list[Mutant]:
    found = []
    text = (HERE / name).read_text(encoding="utf-8")
    for number, paragraph in enumerate(text.strip().split("\n\n")[1:], 1):
        name, place, *change = paragraph.splitlines()
        file, *more = place.split()
        nth = next((int(word) for word in more if word.isdigit()), 1)
        impl = "metal-emulated" if "metal" in more else "cuda-emulated"
        old, new = (change + [""])[:2]
        defect = new[2:] if new.startswith("+ ") else None
        found.append(Mutant(number, name, file, nth, impl, old.removeprefix("- "), defect))
    return found


def build(out: Path, impl: str) -> Path:
    """An emulated library with every mutant in it, and xq_set_mutant to choose."""
    cpp = copied(out)
    # the last place first, so that places before it keep their number
    for mutant in sorted(mutants(), key=lambda m: -m.nth):
        path = cpp / "kernels/gpu" / mutant.file
        path.write_text(mutant.put(path.read_text(encoding="utf-8")), encoding="utf-8")
    device = cpp / "kernels/gpu/device.h"
    text = device.read_text(encoding="utf-8")
    device.write_text(text.replace("#pragma once", "#pragma once\nextern int xq_mutant;", 1))
    with (cpp / "kernels/gpu/emulated/api.cpp").open("a", encoding="utf-8") as file:
        file.write(SWITCH)
    return emulated(impl, out, cpp, ("-w",))
