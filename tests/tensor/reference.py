"""A second tensor interpreter, one scalar at a time, sharing no code with the oracle.

It computes in the dtypes the IR names (f32 scalars, f16 storage) and, given a generator, sums in a random
order and tree, contracts products into sums at random and rounds intermediates at random: any result it
gives must lie inside the oracle's bound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from opc.dtypes import DType, promote
from opc.tensor.ir import Call, Const, DimValue, Expr, Function, Op, Piece, Read

CASTS = {str(d) for d in DType}
COMPARE = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


class Machine:
    """``wide`` computes floats in float64 and never rounds; otherwise as an implementation does."""

    def __init__(self, random: np.random.Generator | None = None, wide: bool = False) -> None:
        self.random = random
        self.wide = wide

    def float(self, value: Any, dtype: DType) -> Any:
        if self.wide or dtype is DType.F64:
            return np.float64(value)
        return np.float32(value)

    def stored(self, value: Any, dtype: DType) -> Any:
        """A value converted to ``dtype`` for storage (or a cast)."""
        if not dtype.is_float:
            low, high = (-128, 127) if dtype is DType.I8 else (-(2**31), 2**31 - 1)
            if isinstance(value, int):
                return min(max(value, low), high)
            if math.isnan(value):
                return 0
            if math.isinf(value):
                return high if value > 0 else low
            whole = int(np.rint(value)) if dtype is DType.I8 else int(value)
            return min(max(whole, low), high)
        if self.wide:
            return np.float64(value)
        return np.asarray(value).astype(dtype.numpy).astype(dtype.compute.numpy)[()]

    def coin(self) -> bool:
        return self.random is not None and bool(self.random.integers(2))

    def run(self, f: Function, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Results and updated inout arguments, floats rounded to their dtype."""
        with np.errstate(all="ignore"):
            return self._run(f, arrays)

    def _run(self, f: Function, arrays: Mapping[str, Any]) -> dict[str, Any]:
        tables = f.tensors()
        memory: dict[str, Any] = {}
        for arg in f.args:
            t = arg.tensor
            given = np.asarray(arrays[t.name])
            memory[t.name] = np.empty(t.shape, dtype=object)
            for at in np.ndindex(*t.shape):
                value = given[at]
                memory[t.name][at] = self.float(value, t.dtype.compute) if t.dtype.is_float else int(value)
        types = {a.tensor.name: a.tensor.dtype for a in f.args}
        touched = []
        for op in f.ops:
            made = self.op(op, memory, types)
            memory.update(made)
            types.update((t.name, t.dtype) for t in op.outputs)
            touched += [t.name for t in op.outputs]
        inout = [a.tensor.name for a in f.args if a.kind == "inout" and a.tensor.name in touched]
        found = {}
        for name in dict.fromkeys([*f.results, *inout]):
            dtype = tables[name].dtype
            if dtype.is_float:
                values = np.empty(tables[name].shape, dtype=np.float64)
                for at in np.ndindex(*tables[name].shape):
                    value = memory[name][at]
                    exact = np.float64(value) if self.wide else np.asarray(value).astype(dtype.numpy)
                    values[at] = float(exact)
                found[name] = values
            else:
                found[name] = memory[name].astype(np.int64)
        return found

    def op(self, op: Op, memory: dict[str, Any], types: dict[str, DType]) -> dict[str, Any]:
        made = {}
        for t in op.outputs:
            fill = op.fill if op.fill is not None else 0
            start = self.stored(_int_limit(fill, t.dtype) if not t.dtype.is_float else float(fill), t.dtype)
            made[t.name] = np.empty(t.shape, dtype=object)
            for at in np.ndindex(*t.shape):
                made[t.name][at] = start
        keep = [t.dtype in (DType.F16, DType.BF16) and self.coin() for t in op.outputs]
        for piece in op.pieces:
            names = [d.name for d in piece.dims]
            parallel = [g for g in piece.guards if g.names <= set(names)]
            for point in itertools.product(*(range(d.extent) for d in piece.dims)):
                env = dict(zip(names, point, strict=True))
                if any(g.evaluate(env) < 0 for g in parallel):
                    continue
                at = tuple(form.evaluate(env) for form in piece.index)
                results = self.element(op, piece, env, memory, types)
                for t, value, unrounded in zip(op.outputs, results, keep, strict=True):
                    made[t.name][at] = value if unrounded else self.stored(value, t.dtype)
        return made

    def element(
        self, op: Op, piece: Piece, env: dict[str, int], memory: dict[str, Any], types: dict[str, DType]
    ) -> list[Any]:
        if op.monoid is None:
            return [self.value(piece.body, env, memory, types, op.outputs[0].dtype)[0]]
        terms: list[tuple[int, Any]] = []
        dtype = op.accumulate
        for number, point in enumerate(itertools.product(*(range(d.extent) for d in piece.reduce))):
            inner = env | dict(zip((d.name for d in piece.reduce), point, strict=True))
            if all(g.evaluate(inner) >= 0 for g in piece.guards):
                value, kind = self.value(piece.body, inner, memory, types, op.outputs[0].dtype)
                dtype = dtype or kind
                if dtype is not None and dtype.is_float:
                    value = self.float(value, dtype)
                terms.append((number, value))
        return self.reduce(op.monoid, terms, dtype or DType.F32)

    def reduce(self, monoid: str, terms: list[tuple[int, Any]], dtype: DType) -> list[Any]:
        if monoid in ("argmax", "argmin"):
            return [_arg(monoid, terms)]
        values = [v for _, v in terms]
        if monoid in ("max", "min"):
            if not values:
                worst = -math.inf if monoid == "max" else math.inf
                return [self.float(worst, dtype) if dtype.is_float else _int_limit(worst, DType.I32)]
            if any(v != v for v in values):
                return [self.float(math.nan, dtype)]
            return [max(values) if monoid == "max" else min(values)]
        if monoid == "sum":
            zero = self.float(0, dtype) if dtype.is_float else 0
            return [self.tree(values, lambda a, b: a + b if dtype.is_float else _wrap(a + b), zero)]
        zero = self.float(0, dtype)
        parts = [(self.float(1, dtype), v, zero) for v in values]
        merged = self.tree(parts, self.chan, (zero, zero, zero))
        return [merged[1], merged[2]]

    @staticmethod
    def chan(a: Any, b: Any) -> Any:
        n = a[0] + b[0]
        d = b[1] - a[1]
        mean = a[1] + d * (b[0] / n)
        return n, mean, a[2] + b[2] + d * d * (a[0] * b[0] / n)

    def tree(self, parts: list[Any], join: Any, empty: Any) -> Any:
        """Combine in a random order and association."""
        parts = list(parts)
        if not parts:
            return empty
        if self.random is None:
            total = parts[0]
            for part in parts[1:]:
                total = join(total, part)
            return total
        self.random.shuffle(parts) if not isinstance(parts[0], tuple) else None
        chain = self.coin()
        while len(parts) > 1:
            i = 0 if chain else int(self.random.integers(len(parts) - 1))
            parts[i : i + 2] = [join(parts[i], parts[i + 1])]
        return parts[0]

    def value(
        self, expr: Expr, env: dict[str, int], memory: dict[str, Any], types: dict[str, DType], default: DType
    ) -> tuple[Any, DType | None]:
        """Value and compute type; a type of None is a literal that adapts."""
        value, kind = self._value(expr, env, memory, types, default)
        if kind is None:
            if isinstance(value, int) and not default.is_float:
                return value, DType.I32
            kind = default.compute if default.is_float else DType.F32
            value = self.float(value, kind)
        return value, kind

    def _value(
        self, expr: Expr, env: dict[str, int], memory: dict[str, Any], types: dict[str, DType], default: DType
    ) -> tuple[Any, Any]:
        if isinstance(expr, Const):
            if expr.dtype is None:
                return expr.value, None
            if expr.dtype.is_float:
                return self.stored(float(expr.value), expr.dtype), expr.dtype.compute
            return _int_limit(expr.value, expr.dtype), DType.I32
        if isinstance(expr, DimValue):
            return expr.form.evaluate(env), DType.I32
        if isinstance(expr, Read):
            return self.read(expr, env, memory, types[expr.tensor])
        args = [self._value(a, env, memory, types, default) for a in expr.args]
        return self.call(expr, args, default)

    def read(
        self, read: Read, env: dict[str, int], memory: dict[str, Any], dtype: DType
    ) -> tuple[Any, DType]:
        array = memory[read.tensor]
        at = tuple(form.evaluate(env) for form in read.index)
        if all(0 <= i < n for i, n in zip(at, array.shape, strict=True)):
            return array[at], dtype.compute
        assert read.fill is not None, "a read left its tensor"
        if dtype.is_float:
            return self.stored(float(read.fill), dtype), dtype.compute
        return _int_limit(read.fill, dtype), DType.I32

    def call(self, expr: Call, args: list[tuple[Any, Any]], default: DType) -> tuple[Any, Any]:
        fn = expr.fn
        if fn in CASTS:
            value, kind = args[0]
            if kind is None and not isinstance(value, int):
                value = self.float(value, DType(fn).compute if DType(fn).is_float else DType.F32)
            return self.stored(value, DType(fn)), DType(fn).compute
        operands = args[1:] if fn == "select" else args
        common = self.common(operands)
        if common is None and (fn not in COMPARE or any(not isinstance(v, int) for v, _ in operands)):
            common = default.compute
            if not common.is_float and any(not isinstance(v, int) for v, _ in operands):
                common = DType.F32
        elif common is None:
            common = DType.I32
        floating = fn in ("exp", "log", "sqrt", "rsqrt", "tanh", "erf", "sigmoid", "div")
        if floating and not common.is_float:
            common = DType.F32
        values = [self.float(v, common) if common.is_float else _int_limit(v, DType.I32) for v, _ in operands]
        if fn in COMPARE:
            return COMPARE[fn](*values), "condition"
        if fn == "select":
            return (values[0] if args[0][0] else values[1]), common
        return self.compute(fn, values, common), common

    def common(self, operands: list[tuple[Any, Any]]) -> DType | None:
        found: DType | None = None
        for _, kind in operands:
            if kind is not None:
                found = kind if found is None else promote(found, kind)
        if found is DType.I32 and any(k is None and not isinstance(v, int) for v, k in operands):
            return DType.F32
        return found

    def compute(self, fn: str, v: list[Any], dtype: DType) -> Any:
        if not dtype.is_float:
            return _integer(fn, v)
        one = self.float(1, dtype)
        if fn in ("max", "min"):
            return (np.maximum if fn == "max" else np.minimum)(*v)
        if fn == "rsqrt":
            return one / np.sqrt(v[0])
        if fn == "erf":
            return self.float(math.erf(float(v[0])), dtype)
        if fn == "sigmoid":
            return one / (one + np.exp(-v[0]))
        table = {
            "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
            "abs": np.abs, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "tanh": np.tanh,
        }  # fmt: skip
        return table[fn](*v)


def _integer(fn: str, v: list[int]) -> int:
    table = {
        "add": lambda: v[0] + v[1], "sub": lambda: v[0] - v[1], "mul": lambda: v[0] * v[1],
        "neg": lambda: -v[0], "abs": lambda: abs(v[0]), "max": lambda: max(v), "min": lambda: min(v),
    }  # fmt: skip
    return _wrap(table[fn]())


def _wrap(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def _int_limit(value: Any, dtype: DType) -> int:
    low, high = (-128, 127) if dtype is DType.I8 else (-(2**31), 2**31 - 1)
    if isinstance(value, float) and math.isinf(value):
        return high if value > 0 else low
    return int(value)


def _arg(monoid: str, terms: list[tuple[int, Any]]) -> int:
    best: tuple[int, Any] | None = None
    for number, value in terms:
        if value != value:
            return number
        if best is None or (value > best[1] if monoid == "argmax" else value < best[1]):
            best = (number, value)
    return best[0] if best is not None else 0
