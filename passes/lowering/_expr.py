"""Scalar expressions to vector instructions on a tile.

Every node becomes one instruction on a buffer over just the axes it depends on; a dead
temporary of the right shape is reused in place, so an epilogue needs few buffers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from opc.affine import Affine
from opc.dtypes import DType, promote
from opc.program import evaluate
from opc.program.ir import Access, Imm, Operand
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, DimValue, Expr, Read, walk
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter


@dataclass(frozen=True, slots=True)
class Value:
    """A computed operand: where it lies, the axes it varies over, its type; ``dtype`` None: a literal."""

    operand: Operand
    axes: tuple[Axis, ...] = ()
    dtype: DType | None = None
    temporary: bool = False


Load = Callable[[Read], Value]
_PICKING = frozenset(("select", "max", "min", "neg", "abs"))  # functions that round nothing


@dataclass
class Evaluator:
    """Evaluates expressions of one op on one tile. ``load`` supplies the values of reads; ``common`` has narrow ones
    that other ops need as well, and what they were converted to.
    """

    emit: Emitter
    frame: Frame
    load: Load
    common: dict[Operand, Value | None] = field(default_factory=dict)

    def value(self, expr: Expr) -> Value:
        """Emit the instructions of ``expr``; its value."""
        return next(self.values([expr]))

    def values(self, exprs: Sequence[Expr]) -> Iterator[Value]:
        """One value after the other, emitted when it is asked for; what expressions share is computed once."""
        number, nodes = _numbered(exprs)
        uses = Counter(number[id(e)] for e in exprs)
        calls = {number[id(n)]: n for own in nodes for n in own if isinstance(n, Call)}
        args = {at: [number[id(a)] for a in n.args] for at, n in calls.items()}
        for found in args.values():
            uses.update(found)
        products = self._products(calls, args, uses)
        entering = set(products.values())
        done = _Done(uses)
        for expr, own in zip(exprs, nodes, strict=True):
            for node in own:
                at = number[id(node)]
                if at in done.values or at in entering:
                    continue
                if at in products:
                    done.values[at] = self._multiply_add(args[products[at]], args[at], products[at], done)
                else:
                    done.values[at] = self._node(node, args.get(at, []), done, node is expr)
            yield done.values[number[id(expr)]]
            uses[number[id(expr)]] -= 1

    def stored(self, expr: Expr, dtype: DType) -> Value:
        """The value of what is stored as ``dtype``: a bound that is exact there is applied after the rounding, which is
        monotone, so that the vector unit works on the narrower type.
        """
        narrow = self._native(dtype)
        if not (narrow and dtype.is_float and isinstance(expr, Call) and expr.fn in ("max", "min")):
            return self.value(expr)
        limits = [a for a in expr.args if isinstance(a, Const) and _exact(a.value, dtype)]
        others = [a for a in expr.args if a not in limits]
        if len(limits) != 1 or len(others) != 1:
            return self.value(expr)
        value = self.convert(self.stored(others[0], dtype), dtype)
        dead = [value] if value.temporary else []
        return self._new(f"vector.{expr.fn}", [value, Value(Imm(limits[0].value))], value.axes, dtype, dead)

    def _native(self, dtype: DType) -> bool:
        """Whether a vector unit works on a type narrower than what it computes in. CPUs would widen it again."""
        machine = self.emit.machine
        return (
            dtype.compute is not dtype and machine.kind == "npu" and dtype in machine.dtypes.get("vector", ())
        )

    def _node(self, node: Expr, numbers: list[int], done: _Done, whole: bool) -> Value:
        if isinstance(node, Const):
            return Value(Imm(node.value), dtype=node.dtype)
        if isinstance(node, DimValue):
            return self._iota(self.frame.global_form(node.form))
        if isinstance(node, Read):
            value = self.load(node)
            # A move keeps its type: nothing is computed.
            return value if whole or self._lasting(value) else self.widen(value)
        if self._rounds_nothing(node, [done.values[a] for a in numbers]):
            return self._call(node.fn, *done.used(numbers))
        return self._call(node.fn, *self._widened(numbers, done))

    def _widened(self, numbers: list[int], done: _Done) -> tuple[list[Value], list[Value]]:
        """Operands of what is computed in their wider type; each is converted once."""
        for a in dict.fromkeys(numbers):
            value = done.values[a]
            if a not in done.wide and value.dtype is not None and value.dtype.compute is not value.dtype:
                done.wide[a] = self.wide(value)  # kept narrow so far, or what a cast gave
        return done.used(numbers, done.wide)

    def _lasting(self, value: Value) -> bool:
        """Whether a value may stay in its narrow type until something is computed from it."""
        return value.dtype is not None and value.dtype.is_float and self._native(value.dtype)

    def _rounds_nothing(self, node: Expr, values: list[Value]) -> bool:
        """Whether a function only picks or compares narrow values, which needs no wider type."""
        if not isinstance(node, Call) or _rounds(node.fn):
            return False
        operands = values[1:] if FUNCTIONS[node.fn].kind == "select" else values
        types = {v.dtype for v in operands if not isinstance(v.operand, Imm)}
        if len(types) != 1 or not any(self._lasting(v) for v in operands):
            return False
        (dtype,) = types
        assert dtype is not None
        literals = [v for v in operands if isinstance(v.operand, Imm)]
        return all(v.dtype is None and _exact(_literal(v), dtype) for v in literals)

    def _products(
        self, calls: dict[int, Call], args: dict[int, list[int]], uses: Counter[int]
    ) -> dict[int, int]:
        """By sum the product that enters it and nothing else, where a processor does both at once."""
        if "fma" not in self.emit.machine.features:
            return {}
        found: dict[int, int] = {}
        for at, call in calls.items():
            factors = [a for a in args[at] if a in calls and calls[a].fn == "mul" and uses[a] == 1]
            if call.fn == "add" and factors:
                found[at] = factors[0]
        return found

    def _multiply_add(self, factors: list[int], terms: list[int], product: int, done: _Done) -> Value:
        """One instruction for a product and its sum; two for integers, where one has a type of its own, or where the
        product varies over fewer axes: it is then cheap, and one operand of the sum instead of two.
        """
        other = terms[0] if terms[1] == product else terms[1]
        values, dead = self._widened([*factors, other], done)
        dtype, axes = self.result_type(values[:2], ""), self._spanned(values)
        typed = dtype.is_float and all(v.dtype in (dtype, None) for v in values)
        if typed and axes == self._spanned(values[:2]):
            return self._new("vector.fma", values, axes, dtype, dead)
        summand = values[2]
        both = self._call("mul", values[:2], [v for v in dead if v is not summand])
        return self._call("add", [both, summand], [both, *(v for v in dead if v is summand)])

    def _spanned(self, args: list[Value]) -> tuple[Axis, ...]:
        return tuple(a for a in self.frame.axes if any(a in v.axes for v in args))

    def widen(self, value: Value) -> Value:
        """The value in its compute type: narrow types are converted when they enter arithmetic."""
        if value.dtype is None or value.dtype.compute is value.dtype:
            return value
        return self.convert(value, value.dtype.compute)

    def wide(self, value: Value) -> Value:
        """The value in its compute type, converted once for all ops that need it."""
        if value.operand not in self.common:
            return self.widen(value)
        found = self.common[value.operand] or replace(self.widen(value), temporary=False)
        self.common[value.operand] = found
        return found

    def convert(self, value: Value, dtype: DType) -> Value:
        """The value in ``dtype``, by a conversion instruction unless it is a literal."""
        if value.dtype is dtype or isinstance(value.operand, Imm):
            return Value(value.operand, value.axes, dtype)
        return self._new("vector.copy", [value], value.axes, dtype, [])

    def _cast(self, value: Value, dtype: DType) -> Value:
        """The value rounded to ``dtype``, a literal here and now."""
        if not isinstance(value.operand, Imm):
            return self.convert(value, dtype)
        import numpy as np

        source = self.result_type([value], "").numpy.type(value.operand.value)
        with np.errstate(over="ignore"):
            found = evaluate.convert(source, dtype).item()
        return Value(Imm(found), value.axes, dtype)

    def _iota(self, form: Affine) -> Value:
        axes = self.frame.used([form])
        out = self.buffer(axes, DType.I32)
        self.emit.emit("vector.iota", self.frame.dims(axes), [self._at_dims(out, axes)], [], form=form)
        return Value(self.at(out, axes), axes, DType.I32, True)

    def _call(self, fn: str, args: list[Value], dead: list[Value]) -> Value:
        kind = FUNCTIONS[fn].kind
        if kind == "cast":
            return self._cast(args[0], DType(fn))
        operands = args[1:] if kind == "select" else args
        types = {v.dtype for v in operands if not isinstance(v.operand, Imm)}
        narrow = next((t for t in types if t is not None and t.compute is not t), None)
        dtype = narrow or self.result_type(operands, kind)
        args = [*args[: len(args) - len(operands)], *(self._as(v, dtype) for v in operands)]
        axes = self._spanned(args)
        result = dtype
        if kind == "compare":
            result = DType.I8 if narrow else DType.I32
        return self._new(f"vector.{fn}", args, axes, result, dead)

    @staticmethod
    def result_type(operands: list[Value], kind: str) -> DType:
        """Promotion over the operands that have a type; literals adapt."""
        found: DType | None = None
        for v in operands:
            if v.dtype is not None:
                found = v.dtype.compute if found is None else promote(found, v.dtype)
        if found is None:
            whole = all(isinstance(v.operand, Imm) and isinstance(v.operand.value, int) for v in operands)
            found = DType.I32 if whole else DType.F32
        return DType.F32 if kind == "float" and not found.is_float else found

    def _as(self, value: Value, dtype: DType) -> Value:
        return value if value.dtype in (dtype, None) else self.convert(value, dtype)

    def _new(
        self, opcode: str, args: list[Value], axes: tuple[Axis, ...], dtype: DType, dead: list[Value]
    ) -> Value:
        reuse = next((v for v in dead if v.axes == axes and v.dtype is dtype), None)
        out = reuse.operand if reuse is not None else self.at(self.buffer(axes, dtype), axes)
        assert isinstance(out, Access)
        self.emit.emit(opcode, self.frame.axis_dims(axes), [out], [v.operand for v in args])
        return Value(out, axes, dtype, True)

    def buffer(self, axes: tuple[Axis, ...], dtype: DType, hint: str = "t") -> str:
        """A new temporary over the axes (one element if there is none)."""
        return self.emit.local(hint, dtype, [a.size for a in axes] or [1], "vector")

    @staticmethod
    def at(buffer: str, axes: tuple[Axis, ...]) -> Access:
        """Access by whole axes."""
        return Access(
            buffer, tuple(Affine.var(a.name) if a.size > 1 else Affine() for a in axes) or (Affine(),)
        )

    @staticmethod
    def _at_dims(buffer: str, axes: tuple[Axis, ...]) -> Access:
        return Access(buffer, tuple(a.flat() for a in axes) or (Affine(),))

    def dense(self, source: Access, axes: tuple[Axis, ...], dtype: DType, fill: float | int | None) -> Value:
        """Copy a source over the axes' dimensions into a dense tile."""
        out = self.buffer(axes, dtype, "in")
        self.emit.emit("copy_in.copy", self.frame.dims(axes), [self._at_dims(out, axes)], [source], fill=fill)
        return Value(self.at(out, axes), axes, dtype, True)


@dataclass
class _Done:
    """Values by number. ``uses``: how often each is still needed; ``wide``: those that were converted."""

    uses: Counter[int]
    values: dict[int, Value] = field(default_factory=dict)
    wide: dict[int, Value] = field(default_factory=dict)

    def used(
        self, numbers: list[int], wide: Mapping[int, Value] | None = None
    ) -> tuple[list[Value], list[Value]]:
        """The operands of one instruction, and the temporaries among them that nothing needs afterwards."""
        for a in numbers:
            self.uses[a] -= 1
        over = [a for a in dict.fromkeys(numbers) if not self.uses[a]]
        forms = [own[a] for own in (self.values, self.wide) for a in over if a in own]
        return [(wide or {}).get(a, self.values[a]) for a in numbers], [v for v in forms if v.temporary]


def _rounds(fn: str) -> bool:
    """Whether a function may give what its operands' type does not hold."""
    return fn not in _PICKING and FUNCTIONS[fn].kind != "compare"


def _literal(value: Value) -> float | int:
    assert isinstance(value.operand, Imm)
    return value.operand.value


def _exact(value: float | int, dtype: DType) -> bool:
    """Whether rounding to the type leaves the value as it is."""
    return float(dtype.numpy.type(value)) == float(value)


def no_load(read: Read) -> Value:
    """For evaluators of values that are on chip already."""
    raise AssertionError(f"no reads here: {read}")


def _numbered(exprs: Sequence[Expr]) -> tuple[dict[int, int], list[list[Expr]]]:
    """A number for each node by its id, one for all that are equal; the nodes that each expression brings, children
    first. Hashing whole subtrees instead would take their sizes times their depths.
    """
    number: dict[int, int] = {}
    table: dict[object, int] = {}
    nodes: list[list[Expr]] = []
    for expr in exprs:
        nodes.append([])
        for node in walk(expr):
            if id(node) in number:
                continue
            key = (node.fn, *[number[id(a)] for a in node.args]) if isinstance(node, Call) else node
            number[id(node)] = table.setdefault(key, len(table))
            nodes[-1].append(node)
    return number, nodes
