"""Reductions: vector.reduce_sum, max, min, argmax, argmin and moments.

Lanes run along a kept dimension where the source is contiguous there (pooling over channels); otherwise
along a reduced one, with several partial results merged as a tree, so the order of additions is fixed by
the shape alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from math import inf, prod

from opc.affine import Affine
from opc.cpu import access, nest, ops, values
from opc.cpu.function import Function, Index
from opc.cpu.layout import View
from opc.cpu.values import Vec
from opc.program.ir import Instr

PARTIALS = 4  # independent partial results of a horizontal reduction: hides the latency of an addition
UNROLL = 64  # vectors that are reduced without a loop
State = list[Vec]
Change = Callable[[State], State]


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction with its operands linearised."""

    instr: Instr
    dst: tuple[View, ...]
    src: tuple[View, ...]

    @property
    def op(self) -> str:
        return self.instr.op.removeprefix("reduce_")

    @property
    def kind(self) -> str:
        return str(self.dst[0].dtype.compute)


@dataclass(frozen=True, slots=True)
class _Plan:
    """``vector`` carries the lanes; ``across`` tells whether it is a reduced dimension."""

    vector: nest.Dim
    lanes: int
    across: bool
    outer: list[nest.Dim]
    reduced: list[nest.Dim]

    @property
    def steps(self) -> int:
        """Vectors that reduce into one result."""
        found = prod(d.extent for d in self.reduced)
        return found * -(-self.vector.extent // self.lanes) if self.across else found


def emit(f: Function, r: Reduction) -> None:
    """Emit the whole instruction."""
    dims = nest.significant(f, r.instr.dims)
    dims, forms = nest.merge(dims, [v.form for v in (*r.dst, *r.src)])
    count = len(r.dst)
    r = replace(
        r,
        dst=tuple(replace(v, form=x) for v, x in zip(r.dst, forms[:count], strict=True)),
        src=tuple(replace(v, form=x) for v, x in zip(r.src, forms[count:], strict=True)),
    )
    plan = _plan(f, r, dims)
    registers = any(v.register for v in (*r.dst, *r.src))
    results = prod(d.extent for d in plan.outer)
    if not plan.across:
        results *= -(-plan.vector.extent // plan.lanes)
    unroll = results * plan.steps <= UNROLL or (registers and results * plan.steps <= 2 * UNROLL)
    row = _across if plan.across else _along
    nest.walk(f, plan.outer, lambda: row(f, r, plan, unroll), unroll)


def _plan(f: Function, r: Reduction, dims: list[nest.Dim]) -> _Plan:
    kept = [d for d in dims if r.dst[0].form.coefficient(d.name)]
    reduced = [d for d in dims if not r.dst[0].form.coefficient(d.name)]
    width = max(v.dtype.compute.bytes for v in (*r.dst, *r.src))

    def lanes(d: nest.Dim) -> int:
        return min(f.module.vector_bytes // width, 1 << (d.extent - 1).bit_length())

    def merit(d: nest.Dim) -> tuple[bool, bool, int]:
        return r.src[0].stride(d.name) == 1, r.dst[0].stride(d.name) == 1, d.extent

    best = max(kept, key=merit, default=None)
    if best is not None and (merit(best)[0] or not any(merit(d)[0] for d in reduced)):
        return _Plan(
            best, lanes(best), False, nest.by_stride([d for d in kept if d is not best], r.dst[0]), reduced
        )
    if not reduced:
        f.bind({"one.": 0})
        return _Plan(nest.Dim("one.", 1), 1, True, nest.by_stride(kept, r.dst[0]), [])
    inner = max(reduced, key=merit)
    rest = [d for d in reduced if d is not inner]
    return _Plan(inner, lanes(inner), True, nest.by_stride(kept, r.dst[0]), nest.by_stride(rest, r.src[0]))


def _along(f: Function, r: Reduction, plan: _Plan, unroll: bool) -> None:
    """Lanes are different results."""
    name, lanes = plan.vector.name, plan.lanes

    def chunk(live: int) -> None:
        def total(change: Change) -> State:
            if not plan.reduced:
                return change(_loaded(f, r, name, lanes, live))
            if unroll and not r.op.startswith("arg"):
                return _folded(f, r, [change(s) for s in _terms(f, r, plan, live)])

            def inner(states: list[State]) -> list[State]:
                return [_merge(f, r, states[0], change(_loaded(f, r, name, lanes, live)))]

            return _nested(f, plan.reduced, [_identity(f, r, lanes)], inner, unroll)[0]

        _result(f, r, name, lanes, live, total, plan.steps)

    nest.chunks(f, plan.vector, lanes, chunk, unroll)


def _terms(f: Function, r: Reduction, plan: _Plan, live: int) -> Iterator[State]:
    """The operands at every point of the reduced dimensions."""
    for point in product(*(range(d.extent) for d in plan.reduced)):
        f.bind({d.name: at for d, at in zip(plan.reduced, point, strict=True)})
        yield _loaded(f, r, plan.vector.name, plan.lanes, live)


def _folded(f: Function, r: Reduction, terms: list[State]) -> State:
    """All terms merged, one after the other."""
    if r.op in ("max", "min") and r.kind != "i32" and len(terms) > 1:
        return [ops.extreme_of(f, r.op, [t[0] for t in terms])]
    return reduce(lambda a, b: _merge(f, r, a, b), terms)


def _across(f: Function, r: Reduction, plan: _Plan, unroll: bool) -> None:
    """Lanes are parts of one result, merged at the end."""

    def total(change: Change) -> State:
        state = _tree(f, r, _parts(f, r, plan, change, unroll))
        while state[0].lanes > 1:
            half = state[0].lanes // 2
            low = [values.extract(f, v, 0, half) for v in state]
            high = [values.extract(f, v, half, half) for v in state]
            state = _merge(f, r, low, high)
        return state

    _result(f, r, plan.vector.name, 1, 1, total, prod(d.extent for d in (plan.vector, *plan.reduced)))


def _result(
    f: Function, r: Reduction, dim: str, lanes: int, live: int, total: Callable[[Change], State], count: int
) -> None:
    """Reduce and store; moments are a sum for the mean and a second one for the deviations from it."""
    state = total(lambda s: s)
    if r.op != "moments":
        _finish(f, r, dim, lanes, live, state)
        return
    if count == 1:
        _finish_moments(f, r, dim, lanes, live, [state[0], values.splat(r.kind, lanes, 0)], count)
        return
    mean = values.binary(f, "fdiv", state[0], values.splat(r.kind, lanes, count))

    def squared(s: State) -> State:
        centre = values.broadcast(f, mean, s[0].lanes)
        deviation = values.binary(f, "fsub", s[0], centre)
        return [values.binary(f, "fmul", deviation, deviation)]

    _finish_moments(f, r, dim, lanes, live, [mean, total(squared)[0]], count)


def _loaded(f: Function, r: Reduction, dim: str, lanes: int, live: int, by: int = 0) -> State:
    """Operands, ``by`` steps further along ``dim``."""
    ahead = {dim: Affine.var(dim) + by} if by else {}
    found = [access.load(f, replace(v, form=v.form.substitute(ahead)), dim, lanes, live) for v in r.src]
    return [values.to_kind(f, found[0], r.kind), *found[1:]]


def _parts(f: Function, r: Reduction, plan: _Plan, change: Change, unroll: bool) -> list[State]:
    """Partial results: PARTIALS interleaved ones over whole vectors, one for what is left over."""
    name, lanes = plan.vector.name, plan.lanes
    full = plan.vector.extent // lanes * lanes
    parts = _partial(f, r, plan, full, change, unroll) if full else []
    rest = plan.vector.extent - full
    if rest:
        f.bind({name: full})

        def tail(states: list[State]) -> list[State]:
            state = change(_loaded(f, r, name, lanes, rest))
            return [_merge(f, r, states[0], _masked(f, r, state, lanes, rest))]

        parts += _nested(f, plan.reduced, [_identity(f, r, lanes)], tail, unroll)
    return parts


def _partial(f: Function, r: Reduction, plan: _Plan, full: int, change: Change, unroll: bool) -> list[State]:
    """Interleaved partial results over the first ``full`` elements of the vector dimension."""
    name, lanes = plan.vector.name, plan.lanes
    count = min(PARTIALS, full // lanes)
    start = [_identity(f, r, lanes) for _ in range(count)]
    width = count * lanes
    whole = full // width * width

    def step(i: Index, refs: list[str]) -> list[str]:
        f.bind({name: i})
        current = _unpack(start, refs)
        for part in range(count):
            state = change(_loaded(f, r, name, lanes, lanes, part * lanes))
            current[part] = _merge(f, r, current[part], state)
        return _pack(current)

    def inner(states: list[State]) -> list[State]:
        if unroll:
            refs = _pack(states)
            for i in range(0, whole, width):
                refs = step(i, refs)
        else:
            refs = f.loop(whole, step, [(v.type, v.ref) for s in states for v in s], step=width)
        states = _unpack(start, refs)
        for part, i in enumerate(range(whole, full, lanes)):
            f.bind({name: i})
            states[part] = _merge(f, r, states[part], change(_loaded(f, r, name, lanes, lanes)))
        return states

    return _nested(f, plan.reduced, start, inner, unroll)


def _nested(
    f: Function,
    dims: Sequence[nest.Dim],
    states: list[State],
    inner: Callable[[list[State]], list[State]],
    unroll: bool,
) -> list[State]:
    """``inner`` inside loops over ``dims`` that carry the states."""
    if not dims:
        return inner(states)
    first, rest = dims[0], dims[1:]

    def step(i: Index, refs: list[str]) -> list[str]:
        f.bind({first.name: i})
        return _pack(_nested(f, rest, _unpack(states, refs), inner, unroll))

    refs = _pack(states)
    if unroll:
        for i in range(first.extent):
            refs = step(i, refs)
        return _unpack(states, refs)
    return _unpack(states, f.loop(first.extent, step, [(v.type, v.ref) for s in states for v in s]))


def _pack(states: Sequence[State]) -> list[str]:
    return [v.ref for s in states for v in s]


def _unpack(like: Sequence[State], refs: Sequence[str]) -> list[State]:
    left = iter(refs)
    return [[replace(v, ref=next(left)) for v in s] for s in like]


def _tree(f: Function, r: Reduction, parts: list[State]) -> State:
    while len(parts) > 1:
        pairs = [_merge(f, r, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(pairs) * 2 :]
    return parts[0]


def _identity(f: Function, r: Reduction, lanes: int) -> State:
    kind, op = r.kind, r.op
    integer = kind == "i32"
    start: float | int = 0
    if op in ("max", "argmax"):
        start = -(2**31) if integer else -inf
    elif op in ("min", "argmin"):
        start = 2**31 - 1 if integer else inf
    first = values.splat(kind, lanes, start)
    return [first, values.splat("i32", lanes, 2**31 - 1)] if op.startswith("arg") else [first]


def _masked(f: Function, r: Reduction, state: State, lanes: int, live: int) -> State:
    """Dead lanes become the identity."""
    mask = Vec(
        "i1", lanes, "<" + ", ".join(f"i1 {'true' if i < live else 'false'}" for i in range(lanes)) + ">"
    )
    return [values.select(f, mask, v, e) for v, e in zip(state, _identity(f, r, lanes), strict=True)]


def _merge(f: Function, r: Reduction, a: State, b: State) -> State:
    if r.op.startswith("arg"):
        return _winner(f, r.op, a, b)
    op = "add" if r.op in ("sum", "moments") else r.op
    return [ops.apply(f, op, [a[0], b[0]], r.kind, a[0].lanes)]


def _winner(f: Function, op: str, a: State, b: State) -> State:
    """The better of two (value, index) pairs: NaN, then the extreme value, then the lower index."""
    (x, i), (y, j) = a, b
    integer = x.kind == "i32"
    test = {"argmax": ("fcmp ogt", "icmp sgt"), "argmin": ("fcmp olt", "icmp slt")}[op][integer]
    better = values.compare(f, test, y, x)
    equal = values.compare(f, "icmp eq" if integer else "fcmp oeq", y, x)
    if not integer:
        nan_x, nan_y = values.compare(f, "fcmp uno", x, x), values.compare(f, "fcmp uno", y, y)
        equal = values.binary(f, "or", equal, values.binary(f, "and", nan_x, nan_y))
        only = values.binary(f, "and", nan_y, values.compare(f, "fcmp ord", x, x))
        better = values.binary(f, "or", better, only)
    lower = values.compare(f, "icmp slt", j, i)
    take = values.binary(f, "or", better, values.binary(f, "and", equal, lower))
    return [values.select(f, take, y, x), values.select(f, take, j, i)]


def _finish(f: Function, r: Reduction, dim: str, lanes: int, live: int, state: State) -> None:
    """Merge with what the destination holds, unless this is the first part."""
    merged = state
    if _first(f, r) != 0:
        merged = _merge(f, r, _held(f, r, dim, lanes, live), state)
    _store(f, r, dim, live, state, merged)


def _first(f: Function, r: Reduction) -> Index:
    """The value that is 0 where the destination is overwritten."""
    return 1 if r.instr.init is None else f.index(r.instr.init)


def _held(f: Function, r: Reduction, dim: str, lanes: int, live: int) -> State:
    found = [access.load(f, v, dim, lanes, live) for v in r.dst]
    return [values.to_kind(f, found[0], r.kind), *found[1:]]


def _store(f: Function, r: Reduction, dim: str, live: int, fresh: State, merged: State) -> None:
    """Store ``fresh`` at the first part, else ``merged``."""
    init = _first(f, r)
    lanes = fresh[0].lanes
    chosen = fresh if init == 0 else merged
    if not isinstance(init, int):
        first = values.broadcast(f, Vec("i1", 1, f.op(f"icmp eq i64 {init}, 0")), lanes)
        chosen = [values.select(f, first, s, m) for s, m in zip(fresh, merged, strict=True)]
    for v, s in zip(r.dst, chosen, strict=True):
        access.store(f, v, dim, s, live)


def _finish_moments(
    f: Function, r: Reduction, dim: str, lanes: int, live: int, state: State, count: int
) -> None:
    """Chan's rule with the ``form`` elements that the destination holds, which is (0, 0) if there are none
    and nothing restarts it.
    """
    earlier: Index = f.index(r.instr.form) if r.instr.form is not None else 0
    if earlier == 0 or _first(f, r) == 0:
        _store(f, r, dim, live, state, state)
        return
    mean, m2 = _held(f, r, dim, lanes, live)
    kind = r.kind

    def number(value: Index, type_: str) -> Vec:
        if isinstance(value, int):
            return values.splat(type_, 1, value)
        return Vec(type_, 1, f.op(f"sitofp i64 {value} to {values.llvm_type(type_)}"))

    before, added = number(earlier, "f64"), values.splat("f64", 1, count)
    total = values.binary(f, "fadd", before, added)
    share = values.binary(f, "fdiv", added, total)
    weight = values.to_kind(f, values.binary(f, "fmul", before, share), kind)
    share = values.to_kind(f, share, kind)
    delta = values.binary(f, "fsub", state[0], mean)
    moved = values.binary(f, "fadd", mean, values.binary(f, "fmul", delta, values.broadcast(f, share, lanes)))
    # Weighed before it is squared: the weight of a first element is 0, and its square may overflow.
    weighed = values.binary(f, "fmul", delta, values.broadcast(f, weight, lanes))
    held = m2 if count == 1 else values.binary(f, "fadd", m2, state[1])
    merged = [moved, values.binary(f, "fadd", held, values.binary(f, "fmul", weighed, delta))]
    if not isinstance(earlier, int) and r.instr.init is not None:
        none = values.broadcast(f, Vec("i1", 1, f.op(f"icmp eq i64 {earlier}, 0")), lanes)
        merged = [values.select(f, none, s, m) for s, m in zip(state, merged, strict=True)]
    _store(f, r, dim, live, state, merged)
