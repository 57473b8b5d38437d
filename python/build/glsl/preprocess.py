"""The preprocessor: a header and all that it includes, as one list of tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PATTERN = re.compile(
    r"(?P<space>\s+|//[^\n]*|/\*.*?\*/)"
    r"|(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?[fFuU]?)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r'|(?P<string>"[^"\n]*")'
    r"|(?P<sign><<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%&|^~!<>=?:;,.(){}\[\]#])",
    re.DOTALL,
)


class SourceError(Exception):
    """What the translator does not take, and where."""


class Token(NamedTuple):
    kind: str  # number, name, string, sign
    text: str
    place: str


def tokens_of(text: str, place: str) -> list[Token]:
    out = []
    at = 0
    line = 1
    while at < len(text):
        match = PATTERN.match(text, at)
        if not match or not match.lastgroup:
            raise SourceError(f"{place}:{line}: unexpected {text[at]!r}")
        if match.lastgroup != "space":
            out.append(Token(match.lastgroup, match.group(), f"{place}:{line}"))
        line += match.group().count("\n")
        at = match.end()
    return out


class Preprocessor:
    """Includes a file once, as its guard would; knows macros without arguments."""

    def __init__(self, root: Path, macros: dict[str, str]) -> None:
        self.root = root
        self.macros = {name: tokens_of(text, name) for name, text in macros.items()}
        self.given = set(macros)
        self.files: list[Path] = []

    def include(self, name: str) -> list[Token]:
        path = self.root / name
        if path in self.files:
            return []
        self.files.append(path)
        text = path.read_text("utf-8")
        out: list[Token] = []
        plain: list[str] = []  # lines since the last directive, and blank ones for those before
        live = [True]
        taken = [True]
        lines = re.sub(r"\\\n", " ", text).split("\n")
        for number, line in enumerate(lines, 1):
            stripped = line.strip()
            if not stripped.startswith("#"):
                plain.append(line if all(live) else "")
                continue
            out += self.expanded(tokens_of("\n".join(plain), name))
            plain = [""] * number
            word, _, rest = stripped[1:].strip().partition(" ")
            rest = rest.split("//")[0].strip()
            if word in ("if", "ifdef", "ifndef"):
                held = {"if": rest, "ifdef": f"defined({rest})", "ifndef": f"!defined({rest})"}
                live.append(all(live) and self.holds(held[word], f"{name}:{number}"))
                taken.append(live[-1])
            elif word in ("elif", "else"):
                here = not taken[-1] and all(live[:-1])
                live[-1] = here and (word == "else" or self.holds(rest, f"{name}:{number}"))
                taken[-1] = taken[-1] or live[-1]
            elif word == "endif":
                live.pop()
                taken.pop()
            elif all(live):
                out += self.directive(word, rest, f"{name}:{number}")
        return out + self.expanded(tokens_of("\n".join(plain), name))

    def directive(self, word: str, rest: str, place: str) -> list[Token]:
        if word == "include" and rest.startswith('"'):
            return self.include(rest.strip('"'))
        if word == "define":
            match = re.fullmatch(r"(\w+)(?!\()\s*(.*)", rest, re.DOTALL)
            if match and match.group(1) not in self.given:
                self.macros[match.group(1)] = tokens_of(match.group(2), place)
        elif word not in ("include", "pragma", "undef"):
            raise SourceError(f"{place}: #{word} is not known")
        return []

    def holds(self, condition: str, place: str) -> bool:
        def value(match: re.Match[str]) -> str:
            macro = self.macros.get(match.group())
            return macro[0].text if macro else "0"

        known = re.sub(
            r"defined\s*\(?\s*(\w+)\s*\)?", lambda m: str(int(m.group(1) in self.macros)), condition
        )
        text = re.sub(r"[A-Za-z_]\w*", value, known)
        text = text.replace("&&", " and ").replace("||", " or ")
        text = re.sub(r"!(?!=)", " not ", text)
        if re.search(r"[^\d\sa-z()<>=!+-]", text):
            raise SourceError(f"{place}: cannot decide {condition!r}")
        return bool(eval(text, {"__builtins__": {}}))

    def expanded(self, tokens: list[Token], within: tuple[str, ...] = ()) -> list[Token]:
        out: list[Token] = []
        for token in tokens:
            macro = self.macros.get(token.text) if token.kind == "name" else None
            if macro is None or token.text in within:
                out.append(token)
            else:
                moved = [Token(t.kind, t.text, token.place) for t in macro]
                out += self.expanded(moved, (*within, token.text))
        return out
