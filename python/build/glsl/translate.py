"""Functions: statements, and one GLSL function for each set of template arguments."""

from __future__ import annotations

from pathlib import Path

from .expressions import Expressions, Value, folded, renamed, variable
from .preprocess import Preprocessor
from .program import Constant, Cursor, Function, parse
from .types import INT, Type

MACROS = {
    "XQ_GLSL": "1",
    "XQ_FN": "",
    "XQ_BODY": "",
    "XQG_UNROLL": "XQG_UNROLL",
    "XQG_UNROLL_WORDS": "",
    "XQG_NO_UNROLL": "XQG_NO_UNROLL",
    "INFINITY": "xqg_infinity()",
}
LOOPS = {"XQG_UNROLL": "[[unroll]]", "XQG_NO_UNROLL": "[[dont_unroll]]"}


class Bracket(Constant):
    def __call__(self, cursor: Cursor, type: Type) -> int:
        reader = Expressions(cursor.tokens, cursor.program, {}, {}, no_calls, False)
        reader.at = cursor.at
        size = int(reader.expression().text)
        reader.expect("]")
        cursor.at = reader.at
        return size


def no_calls(reader: Expressions, name: str, given: list[str], args: list[Value]) -> Value:
    raise reader.fail(f"{name} is no constant")


class Translator:
    """`exact`: no operation on floats is fused with another one."""

    def __init__(self, root: Path, header: str, macros: dict[str, str], exact: bool) -> None:
        source = Preprocessor(root, {**MACROS, **macros})
        self.program = parse(source.include(header), Bracket())
        self.files = source.files
        self.exact = exact
        self.out: list[str] = []
        # structs that the device layer writes are there already
        self.written: dict[object, str] = {"xqg_sum": "", "xqg_place": ""}

    # ---- what is called ----

    def entry(self, name: str, given: list[str]) -> str:
        function = self.program.functions[name][0]
        return self.instance(function, given, [t for t, _ in function.params])

    def call(self, reader: Expressions, name: str, given: list[str], args: list[Value]) -> Value:
        function = self.overload(reader, name, args)
        classes = self.classes(function, args)
        given = given or [""] * sum(kind == "int" for kind, _ in function.template)
        types = []
        texts = []
        for (type, _), arg in zip(function.params, args):
            wanted = self.param(type, classes)
            if wanted.pointer and wanted.space == "local":
                wanted = wanted.to(pointer=False, array=arg.type.array)
            types.append(wanted)
            plain = wanted.to(reference=False)
            texts.append(arg.text if wanted.array or wanted.reference else reader.to(arg, plain))
        written = self.instance(function, given, types)
        result = function.result.to(const=False)
        for type in [result, *types]:
            self.need(type)
        return Value(f"{written}({', '.join(texts)})", result)

    def overload(self, reader: Expressions, name: str, args: list[Value]) -> Function:
        def fits(type: Type, arg: Value) -> bool:
            if type.number or type.pointer:
                return arg.type.number if type.number else True
            return type.name == arg.type.name or type.name not in self.program.structs

        for function in self.program.functions[name]:
            if len(function.params) == len(args) and all(
                fits(type, arg) for (type, _), arg in zip(function.params, args)
            ):
                return function
        raise reader.fail(f"no {name} takes {[a.type.name for a in args]}")

    def classes(self, function: Function, args: list[Value]) -> dict[str, Type]:
        names = {name for kind, name in function.template if kind == "class"}
        return {
            type.name: Type(arg.type.name)
            for (type, _), arg in zip(function.params, args)
            if type.name in names
        }

    @staticmethod
    def param(type: Type, classes: dict[str, Type]) -> Type:
        return type.to(name=classes[type.name].name) if type.name in classes else type

    def need(self, type: Type) -> None:
        """Writes a struct before what uses it."""
        fields = self.program.structs.get(type.name)
        if fields is None or type.pointer or type.name in self.written:
            return
        self.written[type.name] = type.name
        lines = []
        for part, name in fields:
            self.need(part)
            size = f"[{part.array}]" if part.array else ""
            lines.append(f"    {part.glsl} {renamed(name)}{size};")
        self.out.append("\n".join([f"struct {type.name} {{", *lines, "};"]))

    def instance(self, function: Function, given: list[str], types: list[Type]) -> str:
        if function.body is None:
            for type in types:
                self.need(type)
            return function.name
        sizes = [t.array for t in types if t.array]
        suffix = "".join(f"_{part}" for part in [*given, *sizes] if part)
        key = (function.name, tuple(given), tuple((t.name, t.array) for t in types))
        if key not in self.written:
            self.written[key] = function.name + suffix
            self.out.append(Body(self, function, given, types, function.name + suffix).text())
        return self.written[key]


class Body:
    """One function with its template arguments."""

    def __init__(
        self, unit: Translator, function: Function, given: list[str], types: list[Type], name: str
    ) -> None:
        self.unit = unit
        self.function = function
        self.types = types
        self.name = name
        numbers = [n for kind, n in function.template if kind == "int"]
        names = {n: Value(text, INT) for n, text in zip(numbers, given)}
        classes = {}
        for (type, _), actual in zip(function.params, types):
            if ("class", type.name) in function.template:
                classes[type.name] = Type(actual.name)
        for (_, param), type in zip(function.params, types):
            names[param] = variable(param, type.to(reference=False))
        self.read = Expressions(
            function.body or [], unit.program, classes, names, unit.call, unit.exact
        )
        self.lines: list[str] = []

    def text(self) -> str:
        params = []
        for (_, name), type in zip(self.function.params, self.types):
            self.unit.need(type)
            changed = type.space == "local" and not type.const
            size = f"[{type.array}]" if type.array else ""
            params.append(f"{'inout ' if changed else ''}{type.glsl} {renamed(name)}{size}")
        result = self.function.result
        self.unit.need(result)
        while self.read.text:
            self.statement(1)
        head = f"{result.glsl} {self.name}({', '.join(params)}) {{"
        return "\n".join([head, *self.lines, "}"])

    def put(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def block(self, depth: int) -> None:
        """A statement, in braces whether or not it came with them."""
        self.read.scopes.append({})
        if self.read.take("{"):
            while not self.read.take("}"):
                self.statement(depth)
        else:
            self.statement(depth)
        self.read.scopes.pop()

    def statement(self, depth: int) -> None:
        read = self.read
        word = read.text
        if word == "{":
            self.put(depth, "{")
            self.block(depth + 1)
            self.put(depth, "}")
        elif word in ("if", "while", "switch"):
            read.next()
            read.expect("(")
            value = read.expression()
            read.expect(")")
            condition = value.text if word == "switch" else read.boolean(value)
            self.put(depth, f"{word} ({condition}) {{")
            self.block(depth + 1)
            while word == "if" and read.take("else"):
                self.put(depth, "} else {")
                self.block(depth + 1)
            self.put(depth, "}")
        elif word == "for" or word in LOOPS:
            self.loop(depth)
        elif word in ("case", "default"):
            read.next()
            label = f"case {read.ternary().text}" if word == "case" else word
            read.expect(":")
            self.put(depth, f"{label}:")
        elif word in ("continue", "break"):
            read.next()
            read.expect(";")
            self.put(depth, f"{word};")
        elif word == "return":
            read.next()
            value_text = ""
            if read.text != ";":
                value_text = " " + read.to(read.expression(), self.function.result)
            read.expect(";")
            self.put(depth, f"return{value_text};")
        elif read.take(";"):
            pass
        elif read.starts_type():
            for line in self.declaration():
                self.put(depth, line + ";")
            read.expect(";")
        else:
            self.put(depth, read.expression().text + ";")
            read.expect(";")

    def loop(self, depth: int) -> None:
        read = self.read
        hint = ""
        if read.text in LOOPS:
            hint = LOOPS[read.next().text] + " "
        read.expect("for")
        read.expect("(")
        read.scopes.append({})
        first = self.declaration() if read.starts_type() else [read.expression().text]
        if len(first) != 1:
            raise read.fail("one variable for a loop")
        read.expect(";")
        condition = read.boolean(read.expression())
        read.expect(";")
        steps = [read.expression().text]
        while read.take(","):
            steps.append(read.expression().text)
        read.expect(")")
        self.put(depth, f"{hint}for ({first[0]}; {condition}; {', '.join(steps)}) {{")
        self.block(depth + 1)
        read.scopes.pop()
        self.put(depth, "}")

    def declaration(self) -> list[str]:
        read = self.read
        first = read.type().to(const=False)
        if not first.pointer:
            first = first.to(space="")
        lines = []
        while True:
            name = read.name()
            type = first
            if read.take("["):
                type = first.to(array=int(folded(read.expression().text)))
                read.expect("]")
            self.unit.need(type)
            start = f" = {read.initial(type)}" if read.take("=") else ""
            read.scopes[-1][name] = variable(name, type)
            size = f"[{type.array}]" if type.array else ""
            lines.append(f"{type.glsl} {renamed(name)}{size}{start}")
            if not read.take(","):
                return lines
            if first.pointer:
                raise read.fail("one pointer for a declaration")


__all__ = ["Translator"]
