"""Expressions: parsed, typed and written in one go."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .preprocess import Token
from .program import Cursor, Function, Program
from .types import BOOL, FLOAT, INT, INT64, SIZES, UINT, Type, common, promoted

LEVELS = [
    ["||"],
    ["&&"],
    ["|"],
    ["^"],
    ["&"],
    ["==", "!="],
    ["<", ">", "<=", ">="],
    ["<<", ">>"],
    ["+", "-"],
    ["*", "/", "%"],
]
EXACT = {"+": "xq_add", "-": "xq_sub", "*": "xq_mul", "/": "xq_div"}
RESERVED = {"in", "out", "shared", "half", "input", "output", "sample", "filter", "active", "all"}


@dataclass
class Value:
    text: str
    type: Type
    store: Callable[[str], str] | None = None  # how to assign to it


def renamed(name: str) -> str:
    return name + "_" if name in RESERVED else name


def folded(text: str) -> str:
    """A constant as a number, anything else as it is."""
    if re.fullmatch(r"[\d\s()+*/-]+", text):
        return str(int(eval(text.replace("/", "//"))))
    return text


class Expressions(Cursor):
    """Reads expressions of one function; `call` makes sure that what they call is written first."""

    def __init__(
        self,
        tokens: list[Token],
        program: Program,
        classes: dict[str, Type],
        names: dict[str, Value],
        call: Callable[[Expressions, str, list[str], list[Value]], Value],
        exact: bool,
    ) -> None:
        super().__init__(tokens, program, classes)
        self.scopes = [names]
        self.call = call
        self.exact = exact

    # ---- conversions ----

    def to(self, value: Value, type: Type) -> str:
        """The value as C would convert it."""
        have = value.type
        if not (have.number and type.number):
            same = have.glsl == type.glsl and have.pointer == type.pointer
            if not same or have.array != type.array:
                raise self.fail(f"cannot make a {type} of {value.text}, a {have}")
            return value.text
        if have.name == type.name:
            return value.text
        if type.name == "bool":
            return f"({value.text} != {self.to(Value('0', INT), promoted(have))})"
        if type.name in ("u8", "u16"):
            return f"(uint({value.text}) & {'0xFFu' if type.name == 'u8' else '0xFFFFu'})"
        if type.name == "float" and re.fullmatch(r"\d+", value.text):
            return value.text + ".0"
        return f"{type.glsl}({value.text})"

    def boolean(self, value: Value) -> str:
        return self.to(value, BOOL)

    # ---- memory ----

    def element(self, pointer: Value, index: Value) -> Value:
        if pointer.type.array:
            one = pointer.type.to(array=0, space="")
            return plain(f"{pointer.text}[{self.to(index, INT)}]", one)
        return self.at_address(self.moved(pointer, index, "+"))

    def at_address(self, pointer: Value) -> Value:
        type = pointer.type.to(pointer=False, space="", const=False)
        name = type.name
        if pointer.type.space == "global" and name in SIZES:
            place = f"xq_{name}_at({pointer.text}).v"
            kept = {"u8": "uint8_t({})", "u16": "uint16_t({})"}.get(name, "{}")
            load = f"int({place})" if name in ("u8", "u16") else place
            return Value(load, promoted(type), lambda v: f"{place} = {kept.format(v)}")
        if pointer.type.space == "shared":
            place = f"xq_memory[{pointer.text}]"
            if type.array:
                return Value(pointer.text, type.to(array=0, pointer=True, space="shared"))
            if name == "float":
                return Value(
                    f"uintBitsToFloat({place})", type, lambda v: f"{place} = floatBitsToUint({v})"
                )
            if name in ("int", "u16"):
                return Value(f"int({place})", INT, lambda v: f"{place} = uint({v})")
        raise self.fail(f"cannot read what {pointer.text}, a {pointer.type}, points to")

    def moved(self, pointer: Value, by: Value, sign: str) -> Value:
        type = pointer.type
        if by.text == "0":
            return pointer
        if type.space == "global":
            size = SIZES[type.name]
            steps = self.to(by, INT64) + (f"*{size}" if size > 1 else "")
            return Value(f"({pointer.text} {sign} uint64_t({steps}))", type)
        if type.space == "shared":
            words = self.program.words(type)
            steps = self.to(by, INT) + (f"*{words}" if words > 1 else "")
            return Value(f"({pointer.text} {sign} {steps})", type)
        raise self.fail(f"cannot move {pointer.text}, a {type}")

    def member(self, value: Value, name: str) -> Value:
        fields = self.program.structs.get(value.type.name)
        offset = 0
        for type, field in fields or []:
            if field == name:
                if value.type.pointer:
                    place = Value(
                        f"({value.text} + {offset})", type.to(pointer=True, space="shared")
                    )
                    return self.at_address(place)
                return plain(f"{value.text}.{renamed(name)}", type)
            offset += self.program.words(type)
        raise self.fail(f"{value.type.name} has no {name}")

    # ---- operators ----

    def binary(self, sign: str, a: Value, b: Value) -> Value:
        if sign in ("&&", "||"):
            return Value(f"({self.boolean(a)} {sign} {self.boolean(b)})", BOOL)
        if a.type.pointer and sign in ("+", "-"):
            return self.moved(a, b, sign)
        if not (a.type.number and b.type.number):
            raise self.fail(f"no {sign} for {a.type} and {b.type}")
        if sign in ("<<", ">>"):
            type = promoted(a.type)
            count = self.to(b, promoted(b.type))
            return Value(f"({self.to(a, type)} {sign} {count})", type)
        type = common(a.type, b.type)
        left, right = self.to(a, type), self.to(b, type)
        if sign in ("==", "!=", "<", ">", "<=", ">="):
            return Value(f"({left} {sign} {right})", BOOL)
        if type == FLOAT and self.exact and sign == "+" and right == "0.0f":
            return Value(f"xq_plus_zero({left})", FLOAT)
        if type == FLOAT and self.exact and sign in EXACT:
            return Value(f"{EXACT[sign]}({left}, {right})", FLOAT)
        return Value(folded(f"({left} {sign} {right})"), type)

    def expression(self) -> Value:
        left = self.ternary()
        sign = self.text
        if sign == "=":
            self.next()
            return self.assigned(left, self.expression())
        if sign in ("+=", "-=", "*=", "/=", "|=", "&=", "^="):
            self.next()
            return self.assigned(left, self.binary(sign[:-1], left, self.expression()))
        return left

    def assigned(self, left: Value, right: Value) -> Value:
        if left.store is None:
            raise self.fail(f"cannot assign to {left.text}")
        return Value(left.store(self.to(right, left.type)), left.type)

    def ternary(self) -> Value:
        condition = self.level(0)
        if not self.take("?"):
            return condition
        a = self.ternary()
        self.expect(":")
        b = self.ternary()
        type = common(a.type, b.type) if a.type.number else a.type
        if a.type == b.type == BOOL:
            type = BOOL
        return Value(f"({self.boolean(condition)} ? {self.to(a, type)} : {self.to(b, type)})", type)

    def level(self, n: int) -> Value:
        if n == len(LEVELS):
            return self.unary()
        left = self.level(n + 1)
        while self.text in LEVELS[n]:
            left = self.binary(self.next().text, left, self.level(n + 1))
        return left

    def unary(self) -> Value:
        sign = self.text
        if sign == "(" and self.is_cast():
            self.next()
            type = self.type()
            self.expect(")")
            value = self.unary()
            if type.pointer or type.name == "void":
                return Value(value.text, type)
            return Value(self.to(value, type), type)
        if sign not in ("-", "!", "~", "++", "--", "*"):
            return self.postfix(self.primary())
        self.next()
        value = self.unary()
        if sign == "*":
            return self.at_address(value)
        if sign == "!":
            return Value(f"(!{self.boolean(value)})", BOOL)
        if sign in ("++", "--"):
            return self.assigned(value, self.binary(sign[0], value, Value("1", INT)))
        type = promoted(value.type)
        return Value(f"({sign}{self.to(value, type)})", type)

    def is_cast(self) -> bool:
        self.at += 1
        found = self.starts_type()
        self.at -= 1
        return found

    def postfix(self, value: Value) -> Value:
        while True:
            if self.take("["):
                value = self.element(value, self.expression())
                self.expect("]")
            elif self.take(".") or self.take("->"):
                value = self.member(value, self.name())
            else:
                return value

    def primary(self) -> Value:
        if self.take("("):
            value = self.expression()
            self.expect(")")
            return value
        token = self.next()
        if token.kind == "number":
            return self.number(token.text)
        if token.text in ("true", "false"):
            return Value(token.text, BOOL)
        if token.text == "sizeof":
            self.expect("(")
            words = self.program.words(self.type())
            self.expect(")")
            return Value(str(4 * words), INT)
        if token.kind != "name":
            self.at -= 1
            raise self.fail(f"unexpected {token.text!r}")
        if token.text in self.program.functions:
            return self.called(token.text)
        return self.variable(token.text)

    def number(self, text: str) -> Value:
        if text.lower().startswith("0x"):
            return Value(text, UINT if text[-1] in "uU" else INT)
        if re.fullmatch(r"\d+", text):
            return Value(text, INT)
        return Value(text, UINT if text[-1] in "uU" else FLOAT)

    def variable(self, name: str) -> Value:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        if name in self.program.constants:
            return Value(str(self.program.constants[name]), INT)
        raise self.fail(f"nothing is called {name}")

    def called(self, name: str) -> Value:
        given = []
        if self.take("<"):
            while not self.take(">"):
                given.append(self.level(LEVELS.index(["+", "-"])).text)
                self.take(",")
        self.expect("(")
        args = []
        while not self.take(")"):
            args.append(self.expression())
            self.take(",")
        return self.call(self, name, given, args)

    # ---- for declarations ----

    def initial(self, type: Type) -> str:
        """What stands behind = in a declaration, lists in braces included."""
        if not self.take("{"):
            return self.to(self.expression(), type)
        parts = []
        if type.array:
            types = [type.to(array=0)] * type.array
        else:
            types = [t for t, _ in self.program.structs[type.name]]
        for part in types:
            parts.append(self.initial(part))
            self.take(",")
        self.expect("}")
        return f"{type.name}{f'[{type.array}]' if type.array else ''}({', '.join(parts)})"


def plain(text: str, type: Type) -> Value:
    """What GLSL itself can assign to."""
    return Value(text, type, lambda v: f"{text} = {v}")


def variable(name: str, type: Type) -> Value:
    return plain(renamed(name), type)


__all__ = ["Expressions", "Function", "Value", "folded", "renamed", "variable"]
