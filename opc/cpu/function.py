"""A function under construction: LLVM text in nested scopes, with addresses hoisted as they are made.

Text is several times faster to build than objects, and structured emission makes dominance trivial:
a value placed in the head of an open scope dominates everything emitted later in that scope. Every
partial address is placed in the scope of the innermost variable it reads, so no LICM or CSE is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd

from opc.affine import Affine

Index = int | str  # a constant, or the name of an i64 value
_NAME = re.compile(r"%v(\d+)\b")
_DEFINED = re.compile(r"^  %v(\d+) = ", re.MULTILINE)
_JUMP = re.compile(r"^  (?:br|switch) ", re.MULTILINE)


@dataclass(slots=True)
class _Scope:
    """``head`` follows the phis, ``body`` follows ``head``; ``cache`` maps address keys to names."""

    head: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    cache: dict[tuple[object, ...], str] = field(default_factory=dict)


class Module:
    """Declarations and finished functions of one LLVM module."""

    def __init__(
        self, triple: str = "", vector_bytes: int = 32, features: frozenset[str] = frozenset()
    ) -> None:
        self.triple = triple
        self.vector_bytes = vector_bytes
        self.features = features
        self.declarations: dict[str, str] = {}
        self.functions: list[str] = []
        self.helpers: dict[str, str] = {}
        self.notes: list[str] = []
        self.attributes = "nounwind"
        self.emulate = False

    @property
    def fused(self) -> bool:
        """True if multiply-add is one instruction."""
        return not self.x86 or "fma" in self.features

    @property
    def x86(self) -> bool:
        """True for 64-bit x86."""
        return self.triple.startswith("x86_64")

    def declare(self, name: str, text: str) -> str:
        """Declare ``name`` once; the text is what follows ``declare``."""
        self.declarations.setdefault(name, f"declare {text}")
        return name

    def define(self, name: str, text: str) -> None:
        """Add a helper function once."""
        self.helpers.setdefault(name, text)

    def note(self, text: str) -> str:
        """A metadata node, once."""
        if text not in self.notes:
            self.notes.append(text)
        return f"!{self.notes.index(text)}"

    def text(self) -> str:
        """The whole module."""
        head = [f'target triple = "{self.triple}"'] if self.triple else []
        declarations = [self.declarations[name] for name in sorted(self.declarations)]
        attributes = f"attributes #0 = {{ {self.attributes} }}"
        notes = [f"!{i} = !{{{text}}}" for i, text in enumerate(self.notes)]
        body = [*self.functions, *self.helpers.values(), *declarations]
        return "\n".join([*head, *body, attributes, *notes, ""])


class Function:
    """Emits one function; ``env`` maps variables to constants or i64 values."""

    def __init__(
        self, module: Module, name: str, parameters: str, result: str = "void", linkage: str = ""
    ) -> None:
        self.module = module
        self._header = f"define {linkage} {result} @{name}({parameters})".replace("  ", " ")
        self._entry: list[str] = []
        self._scopes = [_Scope()]
        self._count = 0
        self.env: dict[str, Index] = {}
        self.pinned = False  # whether vector results keep their place among instructions with side effects
        self.opaque = False  # whether loops count in what LLVM knows nothing of, and so leaves as it is
        self._depth: dict[str, int] = {}  # i64 value -> depth of the scope that defines it
        self._texts: dict[object, tuple[list[str], list[tuple[int, int]]]] = {}

    def finish(self, result: str = "void") -> None:
        """Close the function and hand its text to the module."""
        scope = self._scopes[0]
        lines = [
            f"{self._header} #0 {{",
            "entry:",
            *self._entry,
            *scope.head,
            *scope.body,
            f"  ret {result}",
            "}",
        ]
        self.module.functions.append("\n".join(lines))

    # Values

    def name(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def op(self, text: str) -> str:
        """Emit ``%new = text`` and return the new name."""
        name = self.name()
        self._scopes[-1].body.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Emit an instruction without a result."""
        self._scopes[-1].body.append(f"  {text}")

    def repeat(self, key: object, emit: Callable[[], None]) -> None:
        """Emit, the next time with this key as a copy of the same text with new names.

        For code whose addresses do not depend on where it stands. Code that is not straight is emitted anew:
        its labels and counters have no second name.
        """
        body = self._scopes[-1].body
        if key not in self._texts:
            start = len(body)
            emit()
            made = "\n".join(body[start:])
            if not _JUMP.search(made):
                self._texts[key] = _template(made)
            return
        parts, places = self._texts[key]
        names: dict[int, str] = {}
        text = list(parts)
        for at, number in places:
            if number not in names:
                names[number] = self.name()
            text[at] = names[number]
        body.append("".join(text))

    def alloca(self, type_: str, count: int, align: int) -> str:
        """Storage in the entry block."""
        name = self.name()
        self._entry.append(f"  {name} = alloca [{count} x {type_}], align {align}")
        return name

    def call(self, name: str, result: str, arguments: Sequence[str], types: Sequence[str]) -> str:
        """Call a declared function; returns "" for a void result."""
        self.module.declare(name, f"{result} @{name}({', '.join(types)})")
        text = (
            f"call {result} @{name}({', '.join(f'{t} {a}' for t, a in zip(types, arguments, strict=True))})"
        )
        if result == "void":
            self.do(text)
            return ""
        return self.op(text)

    # Index arithmetic

    def _place(self, key: tuple[object, ...], depth: int, text: str) -> str:
        for scope in self._scopes[: depth + 1]:
            if key in scope.cache:
                return scope.cache[key]
        scope = self._scopes[depth]
        name = self.name()
        scope.head.append(f"  {name} = {text}")
        scope.cache[key] = name
        self._depth[name] = depth
        return name

    def _resolve(self, form: Affine) -> tuple[list[tuple[int, str, int]], int]:
        """((depth, value, coefficient) sorted outermost first, constant)."""
        const = form.const
        terms: dict[str, int] = {}
        for variable, coefficient in form.terms:
            value = self.env[variable]
            if isinstance(value, int):
                const += coefficient * value
            else:
                terms[value] = terms.get(value, 0) + coefficient
        found = [(self._depth.get(v, 0), v, c) for v, c in terms.items() if c]
        return sorted(found, key=lambda t: (t[0], t[1])), const

    def index(self, form: Affine) -> Index:
        """Value of an affine form."""
        terms, const = self._resolve(form)
        total: str | None = None
        for depth, value, c in terms:
            scaled = value if c == 1 else self._place(("mul", value, c), depth, f"mul nsw i64 {value}, {c}")
            total = (
                scaled
                if total is None
                else self._place(("add", total, scaled), depth, f"add nsw i64 {total}, {scaled}")
            )
        if total is None:
            return const
        depth = terms[-1][0]
        return self._place(("add", total, const), depth, f"add nsw i64 {total}, {const}") if const else total

    def pointer(self, base: str, form: Affine) -> str:
        """``base`` plus a byte offset."""
        terms, const = self._resolve(form)
        pointer, depth = base, self._depth.get(base, 0)
        for at, value, c in terms:
            depth = max(depth, at)
            scaled = value if c == 1 else self._place(("mul", value, c), at, f"mul nsw i64 {value}, {c}")
            pointer = self._place(
                ("gep", pointer, scaled), depth, f"getelementptr i8, ptr {pointer}, i64 {scaled}"
            )
        if const:
            pointer = self._place(
                ("gep", pointer, const), depth, f"getelementptr i8, ptr {pointer}, i64 {const}"
            )
        return pointer

    def hoisted(self, text: str, *values: str) -> str:
        """The pure operation ``text`` over ``values``, which are arguments or were placed themselves, as far out as
        they allow.
        """
        return self._place(("hoisted", text), max(self._depth.get(v, 0) for v in values), text)

    def alignment(self, form: Affine, most: int) -> int:
        """The largest power of two up to ``most`` that divides every value of the form."""
        terms, const = self._resolve(form)
        return gcd(most, const, *(c for _, _, c in terms))

    def note_depth(self, value: str) -> None:
        """Record that ``value`` (an i64 or pointer just emitted) lives in the current scope's body.

        Addresses over it cannot go into the head, which precedes it, so a nested scope is opened by callers.
        """
        self._depth[value] = len(self._scopes)

    # Control flow

    def _push(self) -> None:
        self._scopes.append(_Scope())

    def _pop(self) -> None:
        scope = self._scopes.pop()
        self._scopes[-1].body += scope.head
        self._scopes[-1].body += scope.body

    def label(self) -> str:
        self._count += 1
        return f"b{self._count}"

    def loop(
        self,
        extent: Index,
        body: Callable[[Index, list[str]], list[str]],
        carried: Sequence[tuple[str, str]] = (),
        start: Index = 0,
        step: int = 1,
    ) -> list[str]:
        """``for i in range(start, extent, step)`` around ``body(i, values)``, which returns the next values.

        ``carried`` are (type, initial value). A constant range of one step emits no loop. A range that is not
        constant is tested before the first step.
        """
        values = [v for _, v in carried]
        if isinstance(start, int) and isinstance(extent, int):
            steps = max(0, -(-(extent - start) // step))
            if steps == 0:
                return values
            if steps == 1:
                return body(start, values)
            return self._rotated(extent, body, carried, start, step, "")
        guard = self.op(f"icmp slt i64 {start}, {extent}")
        return self._rotated(extent, body, carried, start, step, guard)

    def _rotated(
        self,
        extent: Index,
        body: Callable[[Index, list[str]], list[str]],
        carried: Sequence[tuple[str, str]],
        start: Index,
        step: int,
        guard: str,
    ) -> list[str]:
        label = self.label()
        types = [t for t, _ in carried]
        self.do(f"br label %{label}p")
        self.do(f"\n{label}p:")
        self.do(f"br i1 {guard}, label %{label}, label %{label}x" if guard else f"br label %{label}")
        variable = self.name()
        counter = f"{variable}h" if self.opaque else variable
        phis = [self.name() for _ in carried]
        self._push()
        self._depth[variable] = len(self._scopes) - 1
        latest = body(variable, phis)
        scope = self._scopes.pop()
        parent = self._scopes[-1].body
        parent.append(f"{label}:")
        parent.append(f"  {counter} = phi i64 [ {start}, %{label}p ], [ {variable}n, %{label}e ]")
        for phi, type_, (_, first), last in zip(phis, types, carried, latest, strict=True):
            parent.append(f"  {phi} = phi {type_} [ {first}, %{label}p ], [ {last}, %{label}e ]")
        if self.opaque:
            parent.append(f'  {variable} = call i64 asm "", "=r,0"(i64 {counter})')
        parent += scope.head
        parent += scope.body
        parent += [
            f"  br label %{label}e",
            f"{label}e:",
            f"  {variable}n = add nuw nsw i64 {variable}, {step}",
            f"  {variable}c = icmp slt i64 {variable}n, {extent}",
            f"  br i1 {variable}c, label %{label}, label %{label}x",
            f"{label}x:",
        ]
        if not guard:
            return list(latest)
        out = [self.name() for _ in carried]
        for name, type_, (_, first), last in zip(out, types, carried, latest, strict=True):
            parent.append(f"  {name} = phi {type_} [ {first}, %{label}p ], [ {last}, %{label}e ]")
        return out

    def branch(
        self, condition: str, then: Callable[[], None], otherwise: Callable[[], None] | None = None
    ) -> None:
        """``if condition: then() else: otherwise()``."""
        label = self.label()
        other = f"{label}f" if otherwise else f"{label}x"
        self.do(f"br i1 {condition}, label %{label}t, label %{other}")
        self._arm(f"{label}t", then, label)
        if otherwise is not None:
            self._arm(f"{label}f", otherwise, label)
        self.do(f"\n{label}x:")

    def switch(self, value: str, count: int, arm: Callable[[int], None]) -> None:
        """Run ``arm(n)`` where ``value`` is n, nothing where it is no number below ``count``."""
        if count == 1:
            arm(0)
            return
        label = self.label()
        cases = " ".join(f"i64 {n}, label %{label}.{n}" for n in range(count))
        self.do(f"switch i64 {value}, label %{label}x [ {cases} ]")
        for n in range(count):
            self._arm(f"{label}.{n}", lambda n=n: arm(n), label)  # type: ignore[misc]
        self.do(f"\n{label}x:")

    def _arm(self, name: str, body: Callable[[], None], label: str) -> None:
        self.do(f"\n{name}:")
        self.scoped(body)
        self.do(f"br label %{label}x")

    def scoped(self, body: Callable[[], None]) -> None:
        """Run ``body`` in a scope of its own, after everything emitted so far."""
        self._push()
        body()
        self._pop()

    def bind(self, values: Mapping[str, Index]) -> None:
        """Give variables their values."""
        self.env.update(values)

    def derived(self, key: str, form: Affine, texts: Callable[[str], list[str]]) -> Affine:
        """A variable computed from ``form`` by several instructions, placed as far out as the form allows.

        ``texts`` receives the form's value and returns right-hand sides in which ``@N@`` is the N-th result.
        """
        value = self.index(form)
        assert isinstance(value, str)
        depth = max(d for d, _, _ in self._resolve(form)[0])
        names: list[str] = []
        for number, text in enumerate(texts(value)):
            for i, name in enumerate(names):
                text = text.replace(f"@{i}@", name)
            names.append(self._place((key, value, number), depth, text))
        self.env[f"{key}{names[-1]}"] = names[-1]
        return Affine.var(f"{key}{names[-1]}")

    def known(self, form: Affine) -> tuple[dict[str, int], int]:
        """(coefficients of the parts known only at run time, constant part)."""
        terms, const = self._resolve(form)
        return {v: c for _, v, c in terms}, const


def _template(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The text in parts, and which of them are the names that it defines: (part, old number)."""
    defined = set(_DEFINED.findall(text))
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    for n, part in enumerate(_NAME.split(text)):
        if n % 2 and part in defined:
            places.append((len(parts), int(part)))
        parts.append(f"%v{part}" if n % 2 else part)
    return parts, places
