"""What a program means: execution on NumPy arrays, and the trace of its dynamic instructions.

An instruction reads all its operands, computes, then writes. Sync instructions do nothing here: program
order per core already satisfies them. Each parallel iteration starts with poisoned local buffers, so
iterations may run in any order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opc.errors import IRError, fail
from opc.machine.model import Machine
from opc.program import evaluate
from opc.program.ir import Access, Imm, Instr, Loop, Program, Stmt
from opc.program.opcodes import OPCODES
from opc.program.storage import Reference, Storage
from opc.program.text import print_stmt

Array = Any  # np.ndarray of any element type
Env = dict[str, int]
Dims = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Instance:
    """One dynamic instruction. ``phase`` counts top-level statements (grid barriers between them),
    ``iteration`` the parallel iteration (0 outside parallel loops); ``env`` binds the loop variables.
    """

    phase: int
    iteration: int
    instr: Instr
    env: Mapping[str, int]


def trace(program: Program) -> Iterator[Instance]:
    """Every dynamic instruction in program order, parallel iterations one after the other."""
    for phase, stmt in enumerate(program.body):
        if isinstance(stmt, Loop) and stmt.parallel:
            for n in range(stmt.extent):
                for instr, env in _expand(stmt.body, {stmt.var: n}):
                    yield Instance(phase, n, instr, env)
        else:
            for instr, env in _expand((stmt,), {}):
                yield Instance(phase, 0, instr, env)


def _expand(body: tuple[Stmt, ...], env: Env) -> Iterator[tuple[Instr, Env]]:
    for stmt in body:
        if isinstance(stmt, Instr):
            yield stmt, env
        else:
            for n in range(stmt.extent):
                yield from _expand(stmt.body, {**env, stmt.var: n})


def run(
    program: Program,
    arrays: Mapping[str, Array],
    *,
    order: int | None = None,
    check: bool = False,
    machine: Machine | None = None,
) -> None:
    """Execute in place on ``arrays``: one array per buffer that is not local (workspace may be absent).

    ``order`` seeds a shuffle of parallel iterations, which must not change the result. ``check``
    raises IRError (E0404) when an element is read that nobody wrote, or that another buffer has
    overwritten since. ``machine`` defaults to the shipped one of the program's name.
    """
    import numpy as np

    runner = _Runner(program, Storage(program, arrays, machine or _shipped(program.machine), check), check)
    with np.errstate(all="ignore"):
        fresh = False
        for stmt in program.body:
            if isinstance(stmt, Loop) and stmt.parallel:
                iterations = list(range(stmt.extent))
                if order is not None:
                    random.Random(order).shuffle(iterations)
                for n in iterations:
                    runner.storage.forget()
                    runner.body(stmt.body, {stmt.var: n})
                fresh = False
            else:
                if not fresh:
                    runner.storage.forget()
                    fresh = True
                runner.body((stmt,), {})


def _shipped(name: str) -> Machine | None:
    from opc.machine import load, names

    return load(name) if name in names() else None


class _Runner:
    """Executes statements; an instruction is prepared on its first execution."""

    def __init__(self, program: Program, storage: Storage, check: bool) -> None:
        self.table = program.table()
        self.storage = storage
        self.check = check
        self.prepared: dict[int, Callable[[Env], None]] = {}

    def body(self, body: tuple[Stmt, ...], env: Env) -> None:
        for stmt in body:
            if isinstance(stmt, Instr):
                step = self.prepared.get(id(stmt))
                if step is None:
                    step = self.prepared[id(stmt)] = self.prepare(stmt)
                step(env)
                continue
            for n in range(stmt.extent):
                env[stmt.var] = n
                self.body(stmt.body, env)
            env.pop(stmt.var, None)

    def prepare(self, i: Instr) -> Callable[[Env], None]:
        if i.opcode_class == "sync" or i.op == "prefetch":
            return lambda env: None
        if i.opcode_class == "cube":
            return self.cube(i)
        if OPCODES[i.opcode].reduces:
            return self.reduction(i)
        if i.op == "iota":
            return self.iota(i)
        return self.elementwise(i)

    def reader(self, i: Instr, access: Access, dims: Dims) -> Callable[[Env], Array]:
        """A function from loop values to the operand's elements."""
        reference = Reference(access, dims, i.extents)
        slots = self.storage.slots[access.buffer]
        owners = self.storage.owners.get(access.buffer)
        mark = self.storage.mark(access.buffer)

        # Marks have their own strides, hence their own reference.
        marks = Reference(access, dims, i.extents)

        def read(env: Env) -> Array:
            found = reference.elements(slots, env, i.fill)
            if owners is not None:
                filler = None if i.fill is None else mark
                if not (marks.elements(owners, env, filler) == mark).all():
                    raise _uninitialised(i, access, env)
            return found

        return read

    def writer(self, i: Instr, access: Access, dims: Dims) -> Callable[[Env, Array], None]:
        """A function that stores elements, one axis per dim, in the buffer's type."""
        reference = Reference(access, dims, i.extents)
        slots = self.storage.slots[access.buffer]
        owners = self.storage.owners.get(access.buffer)
        mark = self.storage.mark(access.buffer)
        dtype = self.table[access.buffer].dtype

        marks = Reference(access, dims, i.extents)

        def write(env: Env, values: Array) -> None:
            reference.view(slots, env)[...] = evaluate.convert(values, dtype)
            if owners is not None:
                marks.view(owners, env)[...] = mark

        return write

    def elementwise(self, i: Instr) -> Callable[[Env], None]:
        import numpy as np

        dims = list(i.dims)
        target = self.table[i.dst[0].buffer].dtype
        typed = i.src[1:] if i.op == "select" else i.src
        kinds = [self.table[s.buffer].dtype for s in typed if isinstance(s, Access)]
        kind = evaluate.compute_type(kinds, [s.value for s in typed if isinstance(s, Imm)], target)
        write = self.writer(i, i.dst[0], dims)
        readers: list[Callable[[Env], Array]] = []
        for s in i.src:
            if isinstance(s, Access):
                readers.append(self.reader(i, s, dims))
            else:
                literal = np.full((1,) * len(dims), s.value, kind.numpy)
                readers.append(lambda env, literal=literal: literal)  # type: ignore[misc]
        if i.opcode_class == "scale":
            first, *extra = readers
            drained = kind.numpy
            return lambda env: write(
                env, evaluate.drain(first(env).astype(drained), i.scale, [r(env) for r in extra])
            )
        return lambda env: write(env, evaluate.elementwise(i.op, [r(env) for r in readers], kind))

    def iota(self, i: Instr) -> Callable[[Env], None]:
        import numpy as np

        assert i.form is not None
        local, base = i.form.split(i.extents)
        rank = len(i.dims)
        grid = np.zeros((1,) * rank, np.int32)
        for axis, (name, extent) in enumerate(i.dims):
            line = np.arange(extent, dtype=np.int32) * local.coefficient(name)
            grid = grid + line.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1))
        write = self.writer(i, i.dst[0], list(i.dims))
        return lambda env: write(env, grid + np.int32(base.evaluate(env)))

    def cube(self, i: Instr) -> Callable[[Env], None]:
        extents = i.extents
        a, b = i.sources
        contraction = evaluate.Contraction(i.dims, _names(a), _names(b), _names(i.dst[0]))
        read_a = self.reader(i, a, [(n, extents[n]) for n in (*contraction.a_dims, *contraction.a_only)])
        read_b = self.reader(i, b, [(n, extents[n]) for n in (*contraction.b_dims, *contraction.b_only)])
        kept = [(n, extents[n]) for n in contraction.kept]
        read, write = self.reader(i, i.dst[0], kept), self.writer(i, i.dst[0], kept)
        kind = self.table[i.dst[0].buffer].dtype.compute

        def step(env: Env) -> None:
            product = contraction(read_a(env), read_b(env), kind)
            write(env, product if _starts(i, env) else read(env).astype(kind.numpy) + product)

        return step

    def reduction(self, i: Instr) -> Callable[[Env], None]:
        dims = list(i.dims)
        kept_names = _names(i.dst[0])
        kept = [(n, e) for n, e in dims if n in kept_names]
        axes = tuple(axis for axis, (n, _) in enumerate(dims) if n not in kept_names)
        reads = [self.reader(i, d, kept) for d in i.dst]
        writes = [self.writer(i, d, kept) for d in i.dst]
        sources = [self.reader(i, s, dims) for s in i.sources]
        kind = self.table[i.dst[0].buffer].dtype.compute.numpy

        def step(env: Env) -> None:
            old = None if _starts(i, env) else [r(env) for r in reads]
            values = sources[0](env).astype(kind)
            results: tuple[Array, ...]
            if i.op in ("reduce_argmax", "reduce_argmin"):
                before = None if old is None else (old[0].astype(kind), old[1])
                results = evaluate.reduce_winner(i.op[7:], values, sources[1](env), axes, before)
            elif i.op == "reduce_moments":
                merged = i.form.evaluate(env) if i.form is not None else 0
                pair = None if old is None else (old[0].astype(kind), old[1].astype(kind))
                results = evaluate.reduce_moments(values, axes, merged, pair)
            else:
                start = None if old is None else old[0].astype(kind)
                results = (evaluate.reduce_plain(i.op[7:], values, axes, start),)
            for write, value in zip(writes, results, strict=True):
                write(env, value)

        return step


def _names(access: Access) -> frozenset[str]:
    return frozenset(n for form in access.index for n in form.names)


def _starts(i: Instr, env: Env) -> bool:
    return i.init is not None and i.init.evaluate(env) == 0


def _uninitialised(i: Instr, access: Access, env: Env) -> Exception:
    where = ", ".join(f"{k}={v}" for k, v in env.items())
    message = f"'{access.buffer}' is read before it is written, or after other data took its place"
    return fail(IRError, "E0404", message, notes=(f"in `{print_stmt(i)}`", f"at {where or 'top level'}"))
