"""What a translation unit declares. Bodies of functions stay tokens until they are called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from .preprocess import SourceError, Token
from .types import NAMES, SPACES, Type

QUALIFIERS = {"const", "static", "inline", "struct", *SPACES}


@dataclass
class Function:
    name: str
    result: Type
    params: list[tuple[Type, str]]
    template: list[tuple[str, str]]  # ("int", name) or ("class", name)
    body: list[Token] | None  # None: the device layer has it


@dataclass
class Program:
    structs: dict[str, list[tuple[Type, str]]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    typedefs: dict[str, Type] = field(default_factory=dict)
    functions: dict[str, list[Function]] = field(default_factory=dict)

    def words(self, type: Type) -> int:
        """Words of shared memory: a number takes one, whatever its size."""
        if type.name in self.structs:
            one = sum(self.words(t) for t, _ in self.structs[type.name])
        else:
            one = 1
        return one * max(type.array, 1)


class Cursor:
    """Tokens, one after the other."""

    def __init__(self, tokens: list[Token], program: Program, classes: dict[str, Type]) -> None:
        self.tokens = tokens
        self.at = 0
        self.program = program
        self.classes = classes

    @property
    def text(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    @property
    def place(self) -> str:
        return self.tokens[min(self.at, len(self.tokens) - 1)].place if self.tokens else "nowhere"

    def fail(self, what: str) -> SourceError:
        return SourceError(f"{self.place}: {what}")

    def next(self) -> Token:
        if self.at >= len(self.tokens):
            raise self.fail("unexpected end")
        self.at += 1
        return self.tokens[self.at - 1]

    def take(self, text: str) -> bool:
        if self.text == text:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise self.fail(f"expected {text!r}, found {self.text!r}")

    def name(self) -> str:
        token = self.next()
        if token.kind != "name":
            raise SourceError(f"{token.place}: expected a name, found {token.text!r}")
        return token.text

    def braced(self) -> list[Token]:
        """All up to the brace that closes the one just taken."""
        depth, start = 1, self.at
        while depth:
            depth += {"{": 1, "}": -1}.get(self.next().text, 0)
        return self.tokens[start : self.at - 1]

    def named(self, name: str) -> Type | None:
        if name in self.classes:
            return self.classes[name]
        if name in self.program.typedefs:
            return self.program.typedefs[name]
        if name in NAMES:
            return Type(NAMES[name])
        return Type(name) if name in self.program.structs else None

    def starts_type(self) -> bool:
        return self.text in QUALIFIERS or self.named(self.text) is not None

    def type(self) -> Type:
        space, const = "", False
        while self.text in QUALIFIERS:
            word = self.next().text
            space = SPACES.get(word, space)
            const = const or word == "const"
        found = self.named(self.name())
        if found is None:
            raise self.fail("expected a type")
        const = self.take("const") or const
        found = found.to(space=space, const=const)
        if self.take("*"):
            return found.to(pointer=True)
        return found.to(reference=True) if self.take("&") else found


def parse(tokens: list[Token], constant: Constant) -> Program:
    program = Program()
    cursor = Cursor(tokens, program, {})
    while cursor.text:
        if cursor.take(";"):
            continue
        if cursor.take("enum"):
            cursor.expect("{")
            value = 0
            while not cursor.take("}"):
                program.constants[cursor.name()] = value
                value += 1
                cursor.take(",")
        elif cursor.take("typedef"):
            if cursor.take("struct"):
                fields = struct(cursor, constant)
                program.structs[cursor.name()] = fields
            else:
                known = cursor.type()
                program.typedefs[cursor.name()] = known
        elif cursor.text == "struct" and cursor.tokens[cursor.at + 2].text == "{":
            cursor.next()
            name = cursor.name()
            program.structs[name] = struct(cursor, constant)
        else:
            function(cursor)
    return program


def struct(cursor: Cursor, constant: Constant) -> list[tuple[Type, str]]:
    cursor.expect("{")
    fields = []
    while not cursor.take("}"):
        first = cursor.type()
        while True:
            name = cursor.name()
            size = constant(cursor, first) if cursor.take("[") else 0
            fields.append((first.to(array=size), name))
            if not cursor.take(","):
                break
        cursor.expect(";")
    return fields


def function(cursor: Cursor) -> None:
    template = []
    if cursor.take("template"):
        cursor.expect("<")
        while not cursor.take(">"):
            kind = cursor.name()
            template.append((kind, cursor.name()))
            cursor.take(",")
    cursor.classes = {name: Type(name) for kind, name in template if kind == "class"}
    result = cursor.type()
    name = cursor.name()
    cursor.expect("(")
    params = []
    while not cursor.take(")"):
        type = cursor.type()
        params.append((type, cursor.name() if cursor.text not in (",", ")") else ""))
        cursor.take(",")
    body = None
    if not cursor.take(";"):
        cursor.expect("{")
        body = cursor.braced()
    cursor.classes = {}
    known = cursor.program.functions.setdefault(name, [])
    if body is None or not any(f.body is None for f in known):
        known.append(Function(name, result, params, template, body))


class Constant(Protocol):
    """Reads a constant and the bracket behind it."""

    def __call__(self, cursor: Cursor, type: Type) -> int: ...
