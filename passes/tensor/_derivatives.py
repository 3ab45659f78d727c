"""Derivatives of scalar expressions: one product for every read that the value depends on.

An expression is a tree, so one way leads from its root to an occurrence of a read, and the derivative along it is a
product of the derivatives of the calls on the way. Conditions stay apart from the factors: a term that a ``select``
leaves out is left out, not multiplied by zero.

Where functions have no derivative the conventions are PyTorch's: 0 for ``abs`` at 0 and for ``max(x, literal)`` where
the literal is as large, half for each of two equal operands that both are tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from opc.dtypes import DType
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Expr, Read, walk
from passes.tensor._rules import exact


@dataclass(frozen=True, slots=True)
class Term:
    """``scale * product(factors) / product(divisors)`` where all conditions hold (or do not: False), else 0."""

    factors: tuple[Expr, ...] = ()
    divisors: tuple[Expr, ...] = ()
    conditions: tuple[tuple[Expr, bool], ...] = ()
    scale: float = 1.0

    def times(self, *factors: Expr) -> Term:
        """The product with ``factors``, taken apart into what they are products of."""
        term = self
        for factor in factors:
            term = _multiply(term, factor)
        return term

    def over(self, divisor: Expr) -> Term:
        return replace(self, divisors=(*self.divisors, divisor))

    def where(self, condition: Expr, holds: bool = True) -> Term:
        """The term only where ``condition`` has the given truth."""
        known = (condition, holds)
        return self if known in self.conditions else replace(self, conditions=(*self.conditions, known))

    def map(self, change: Callable[[Expr], Expr]) -> Term:
        """The term with every expression changed."""
        conditions = tuple((change(c), holds) for c, holds in self.conditions)
        return Term(
            tuple(map(change, self.factors)), tuple(map(change, self.divisors)), conditions, self.scale
        )

    def split(self, inside: Callable[[Expr], bool]) -> tuple[Term, Term]:
        """The product of what is ``inside``, and of the rest; everything is inside if nothing would be."""
        kept, rest = [
            Term(
                tuple(f for f in self.factors if inside(f) is wanted),
                tuple(d for d in self.divisors if inside(d) is wanted),
                tuple(c for c in self.conditions if inside(c[0]) is wanted),
            )
            for wanted in (True, False)
        ]
        return (kept.scaled(self.scale), rest) if kept != Term() else (self, Term())

    def scaled(self, by: float) -> Term:
        return replace(self, scale=self.scale * by)


def _multiply(term: Term, factor: Expr) -> Term:
    if isinstance(factor, Const) and factor.dtype is None:
        return term.scaled(float(factor.value))
    if isinstance(factor, Call) and factor.fn == "mul":
        return _multiply(_multiply(term, factor.args[0]), factor.args[1])
    if isinstance(factor, Call) and factor.fn == "neg":
        return _multiply(term, factor.args[0]).scaled(-1.0)
    if isinstance(factor, Call) and factor.fn == "div":
        return _multiply(term, factor.args[0]).over(factor.args[1])
    return replace(term, factors=(*term.factors, factor))


def derivatives(
    body: Expr,
    seed: Term,
    wanted: Callable[[str], bool],
    stored: Read | None = None,
    dtype: DType | None = None,
) -> Iterator[tuple[Read, Term]]:
    """``seed`` times the derivative of ``body`` by every occurrence of a read of a wanted tensor.

    ``stored`` reads the value of ``body`` itself, as ``dtype``, for functions whose derivative their value tells.
    """
    depends: dict[int, bool] = {}
    for node in walk(body):
        if isinstance(node, Call):
            depends[id(node)] = any(depends[id(node.args[i])] for i in _differentiable(node))
        else:
            depends[id(node)] = isinstance(node, Read) and wanted(node.tensor)
    root = _under_casts(body)
    stack = [(body, seed)]
    while stack:
        node, term = stack.pop()
        if not depends[id(node)]:
            continue
        if isinstance(node, Read):
            yield node, term
        elif isinstance(node, Call):
            value = stored if node is root and stored is not None else node
            chosen = [i for i in _differentiable(node) if depends[id(node.args[i])]]
            stack.extend((node.args[i], _local(node, i, term, value, dtype)) for i in reversed(chosen))


def _under_casts(body: Expr) -> Expr:
    while isinstance(body, Call) and FUNCTIONS[body.fn].kind == "cast":
        body = body.args[0]
    return body


def _differentiable(node: Call) -> range:
    """The arguments that a gradient flows to."""
    function = FUNCTIONS[node.fn]
    if function.kind == "compare" or (function.kind == "cast" and not DType(node.fn).is_float):
        return range(0)
    return range(1 if function.kind == "select" else 0, len(node.args))


def _local(node: Call, i: int, term: Term, value: Expr, dtype: DType | None) -> Term:
    """``term`` times the derivative of ``node``, which ``value`` is equal to, by its argument ``i``."""
    if node.fn in ("max", "min"):
        return _extremum(node, i, term, value if dtype is not None else node, dtype)
    if node.fn == "select":
        return term.where(node.args[0], i == 1)
    if FUNCTIONS[node.fn].kind == "cast":
        return term
    return _RULES[node.fn](node.args, i, value, term)


def _extremum(node: Call, i: int, term: Term, value: Expr, dtype: DType | None) -> Term:
    mine, other = node.args[i], node.args[1 - i]
    if not any(isinstance(n, Read) for n in walk(other)):
        never = "le" if node.fn == "max" else "ge"
        told = isinstance(other, Const) and exact(other.value, dtype)
        return term.where(Call(never, (value if told else mine, other)), False)
    loses = "lt" if node.fn == "max" else "gt"
    half = Call("select", (Call("eq", (mine, other)), Const(0.5), Const(1.0)))
    return term.where(Call(loses, (mine, other)), False).times(half)


def _div(args: tuple[Expr, ...], i: int, value: Expr, term: Term) -> Term:
    divided = term.over(args[1])
    return divided if i == 0 else divided.times(value).scaled(-1.0)


def _abs(args: tuple[Expr, ...], i: int, value: Expr, term: Term) -> Term:
    (a,) = args
    sign = Call("select", (Call("gt", (a, Const(0))), Const(1.0), a))
    return term.times(Call("select", (Call("lt", (a, Const(0))), Const(-1.0), sign)))


def _erf(args: tuple[Expr, ...], i: int, value: Expr, term: Term) -> Term:
    (a,) = args
    return term.times(Call("exp", (Call("neg", (Call("mul", (a, a)),)),))).scaled(2 / math.sqrt(math.pi))


def _tanh(args: tuple[Expr, ...], i: int, value: Expr, term: Term) -> Term:
    return term.times(Call("sub", (Const(1.0), Call("mul", (value, value)))))


_RULES: dict[str, Callable[[tuple[Expr, ...], int, Expr, Term], Term]] = {
    "add": lambda args, i, value, term: term,
    "sub": lambda args, i, value, term: term.scaled(-1.0) if i else term,
    "mul": lambda args, i, value, term: term.times(args[1 - i]),
    "div": _div,
    "neg": lambda args, i, value, term: term.scaled(-1.0),
    "abs": _abs,
    "exp": lambda args, i, value, term: term.times(value),
    "log": lambda args, i, value, term: term.over(args[0]),
    "sqrt": lambda args, i, value, term: term.over(value).scaled(0.5),
    "rsqrt": lambda args, i, value, term: term.times(value, value, value).scaled(-0.5),
    "tanh": _tanh,
    "erf": _erf,
    "sigmoid": lambda args, i, value, term: term.times(value, Call("sub", (Const(1.0), value))),
}


def collected(terms: Sequence[Term]) -> list[Term]:
    """Equal terms added up; factors after the first, the gradient from outside, in an order of their own."""
    scales: dict[Term, float] = {}
    for term in terms:
        first, rest = term.factors[:1], sorted(term.factors[1:], key=repr)
        key = replace(term, factors=(*first, *rest), scale=1.0)
        scales[key] = scales.get(key, 0.0) + term.scale
    return [replace(term, scale=scale) for term, scale in scales.items()]


def expression(term: Term) -> Expr:
    """The term as an expression."""
    value = _product(term)
    for condition, holds in reversed(term.conditions):
        value = Call("select", (condition, value, Const(0.0)) if holds else (condition, Const(0.0), value))
    return value


def _product(term: Term) -> Expr:
    """The term without its conditions."""
    factors: list[Expr] = list(term.factors)
    scale = term.scale
    if scale == -1.0 and factors:
        factors[0], scale = Call("neg", (factors[0],)), 1.0
    if scale != 1.0 or not factors:
        factors.append(Const(scale))
    product = factors[0]
    for factor in factors[1:]:
        product = Call("mul", (product, factor))
    for divisor in term.divisors:
        product = Call("div", (product, divisor))
    return product
