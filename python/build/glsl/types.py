"""Types of the bodies, and how GLSL writes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

# name in C++ -> name here
NAMES = {
    "void": "void",
    "bool": "bool",
    "float": "float",
    "int": "int",
    "int32_t": "int",
    "uint32_t": "uint",
    "uint16_t": "u16",
    "uint8_t": "u8",
    "int64_t": "int64",
    "size_t": "int64",
}
SIZES = {"float": 4, "int": 4, "uint": 4, "u16": 2, "u8": 1, "int64": 8}
GLSL = {"int64": "int64_t", "u8": "uint", "u16": "uint"}
RANK = {"bool": 0, "u8": 0, "u16": 0, "int": 1, "uint": 2, "int64": 3, "float": 4}
SPACES = {"XQ_GLOBAL": "global", "XQ_SHARED": "shared", "XQ_LOCAL": "local", "XQ_CONST": "const"}


@dataclass(frozen=True)
class Type:
    name: str
    space: str = ""  # of what a pointer points to
    pointer: bool = False
    reference: bool = False
    const: bool = False
    array: int = 0  # elements, 0 for none

    @property
    def number(self) -> bool:
        return self.name in RANK and not self.pointer and not self.array

    @property
    def glsl(self) -> str:
        if self.pointer and self.space == "global":
            return "uint64_t"
        if self.pointer and self.space == "shared":
            return "int"
        return GLSL.get(self.name, self.name)

    def to(self, **changes: object) -> Type:
        return replace(self, **changes)  # type: ignore[arg-type]


INT = Type("int")
UINT = Type("uint")
BOOL = Type("bool")
FLOAT = Type("float")
INT64 = Type("int64")
VOID = Type("void")


def promoted(a: Type) -> Type:
    """C computes with nothing smaller than int."""
    return INT if RANK[a.name] == 0 else Type(a.name)


def common(a: Type, b: Type) -> Type:
    return max(promoted(a), promoted(b), key=lambda t: RANK[t.name])
