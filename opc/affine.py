"""Affine forms ``sum(coefficient * variable) + constant``: the only index arithmetic in opc.

Both IRs index tensors and buffers with these, so overlap, bounds and injectivity
can be decided exactly instead of guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(r"\s*(?:(?P<num>\d+)|(?P<name>[A-Za-z_][A-Za-z0-9_.]*)|(?P<op>[-+*]))")


@dataclass(frozen=True, slots=True)
class Affine:
    """An affine form; ``terms`` is sorted by variable and holds no zero coefficient."""

    terms: tuple[tuple[str, int], ...] = ()
    const: int = 0

    @staticmethod
    def var(name: str, coefficient: int = 1) -> Affine:
        """The form ``coefficient * name``."""
        return Affine(((name, coefficient),), 0) if coefficient else Affine()

    @staticmethod
    def of(terms: Mapping[str, int], const: int = 0) -> Affine:
        """Canonical form of a coefficient map."""
        kept = [(v, c) for v, c in terms.items() if c]
        kept.sort()
        return Affine(tuple(kept), const)

    @staticmethod
    def parse(text: str) -> Affine:
        """Read what ``str`` prints. Raises ``ValueError`` with the offending text."""
        terms: dict[str, int] = {}
        const, position, sign, expect_operand = 0, 0, 1, True
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ValueError(f"not an affine form: {text!r}")
            position = match.end()
            if match["op"] is not None:
                if match["op"] == "*" or (expect_operand and match["op"] == "+"):
                    raise ValueError(f"not an affine form: {text!r}")
                sign = -sign if (match["op"] == "-" and expect_operand) else (-1 if match["op"] == "-" else 1)
                expect_operand = True
                continue
            if not expect_operand:
                raise ValueError(f"not an affine form: {text!r}")
            factors = [match]
            while (star := re.compile(r"\s*\*").match(text, position)) is not None:
                operand = _TOKEN.match(text, star.end())
                if operand is None or operand["op"] is not None:
                    raise ValueError(f"not an affine form: {text!r}")
                factors.append(operand)
                position = operand.end()
            names = [f["name"] for f in factors if f["name"]]
            scale = sign
            for f in factors:
                scale *= int(f["num"]) if f["num"] else 1
            if len(names) > 1:
                raise ValueError(f"not an affine form: {text!r}")
            if names:
                terms[names[0]] = terms.get(names[0], 0) + scale
            else:
                const += scale
            sign, expect_operand = 1, False
        if expect_operand:
            raise ValueError(f"not an affine form: {text!r}")
        return Affine.of(terms, const)

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.terms, self.const + other)
        if not self.terms or not other.terms:
            return Affine(self.terms or other.terms, self.const + other.const)
        merged = dict(self.terms)
        for name, c in other.terms:
            merged[name] = merged.get(name, 0) + c
        return Affine.of(merged, self.const + other.const)

    def __sub__(self, other: Affine | int) -> Affine:
        return self + (other * -1 if isinstance(other, Affine) else -other)

    def __mul__(self, factor: int) -> Affine:
        if factor == 0:
            return Affine()
        return Affine(tuple([(v, c * factor) for v, c in self.terms]), self.const * factor)

    __rmul__ = __mul__

    @property
    def is_const(self) -> bool:
        return not self.terms

    @property
    def names(self) -> frozenset[str]:
        return frozenset([v for v, _ in self.terms])

    def coefficient(self, name: str) -> int:
        """Coefficient of ``name``, 0 if it does not occur."""
        for v, c in self.terms:
            if v == name:
                return c
        return 0

    def as_var(self) -> str | None:
        """The variable's name if this is exactly one bare variable."""
        if self.const == 0 and len(self.terms) == 1 and self.terms[0][1] == 1:
            return self.terms[0][0]
        return None

    def substitute(self, values: Mapping[str, Affine | int]) -> Affine:
        """Replace variables by affine forms or numbers."""
        for v, _ in self.terms:
            if v in values:
                break
        else:
            return self
        terms: dict[str, int] = {}
        const = self.const
        for name, c in self.terms:
            value = values.get(name)
            if value is None:
                terms[name] = terms.get(name, 0) + c
            elif isinstance(value, int):
                const += c * value
            else:
                const += c * value.const
                for inner, ic in value.terms:
                    terms[inner] = terms.get(inner, 0) + c * ic
        return Affine.of(terms, const)

    def evaluate(self, env: Mapping[str, int]) -> int:
        """Value with every variable bound in ``env``."""
        return self.const + sum(c * env[v] for v, c in self.terms)

    def interval(self, extents: Mapping[str, int]) -> tuple[int, int]:
        """Least and greatest value, both inclusive, for ``0 <= v < extents[v]``."""
        low = high = self.const
        for v, c in self.terms:
            reach = c * (extents[v] - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high

    def split(self, names: Iterable[str]) -> tuple[Affine, Affine]:
        """(part over ``names`` without constant, the rest with the constant)."""
        if not self.terms:
            return self if not self.const else Affine(), self
        chosen = names if isinstance(names, (dict, frozenset, set)) else frozenset(names)
        inside = tuple([t for t in self.terms if t[0] in chosen])
        outside = tuple([t for t in self.terms if t[0] not in chosen])
        return Affine(inside, 0), Affine(outside, self.const)

    def __str__(self) -> str:
        parts: list[str] = []
        for name, c in self.terms:
            body = name if abs(c) == 1 else f"{name}*{abs(c)}"
            sign = "-" if c < 0 else "+"
            parts.append(f"-{body}" if not parts and c < 0 else body if not parts else f" {sign} {body}")
        if self.const or not parts:
            if not parts:
                return str(self.const)
            parts.append(f" {'-' if self.const < 0 else '+'} {abs(self.const)}")
        return "".join(parts)
