"""Random valid program IR: nested loops, slots, gathers with fill, elementwise work, every reduction,
values carried around loops, row-wise access and matrix products, for a machine of either kind.

Programs are small (a few hundred dynamic instructions), so that one is interpreted in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from opc import machine as machines
from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access, Buffer, Imm, Instr, Loop, Operand, Program, Stmt

MACHINES = ("ascend910", "avx2")
_UNARY = ("neg", "abs", "exp", "copy")
_BINARY = ("add", "sub", "mul", "max", "min", "lt", "eq")


@dataclass(frozen=True)
class Tile:
    """A local buffer that holds a value, with the slot this life of it uses."""

    buffer: Buffer
    slot: Affine

    def at(self, *index: Affine | str | int) -> Access:
        return Access(self.buffer.name, tuple(_form(x) for x in index), self.slot)


@dataclass(frozen=True)
class Scope:
    """The loops around a body and the tiles that hold values there."""

    loops: tuple[tuple[str, int], ...]
    tiles: tuple[Tile, ...]

    @property
    def sequential(self) -> tuple[tuple[str, int], ...]:
        return tuple(x for x in self.loops if x[0] != "core")


def _form(x: Affine | str | int) -> Affine:
    return Affine.var(x) if isinstance(x, str) else Affine((), x) if isinstance(x, int) else x


class _Builder:
    def __init__(self, draw: Any, name: str) -> None:
        self.draw = draw
        self.machine = machines.load(name)
        self.element = self.machine.default_dtype
        self.memory, self.vector = self.machine.roles["memory"], self.machine.roles["vector"]
        self.buffers: list[Buffer] = []
        self.loop_count = 0
        self.finished: list[Buffer] = []  # workspace that earlier phases have written completely

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def buffer(
        self, space: str, shape: tuple[int, ...], dtype: DType, kind: str = "local", slots: int = 1
    ) -> Buffer:
        b = Buffer(f"{kind[0]}{len(self.buffers)}", dtype, shape, space, kind, slots)
        self.buffers.append(b)
        return b

    def tile(self, scope: Scope, shape: tuple[int, ...], dtype: DType, space: str | None = None) -> Tile:
        """A new local buffer; inside loops sometimes with slots chosen by the loop variables."""
        slots = self.pick(1, 1, 2, 3) if scope.sequential else 1
        slot = Affine((), self.number(0, 2) if slots > 1 else 0)
        for name, extent in scope.sequential if slots > 1 else ():
            slot = slot * extent + Affine.var(name, self.number(0, 2))
        return Tile(self.buffer(space or self.vector, shape, dtype, slots=slots), slot)

    def load(self, scope: Scope) -> tuple[list[Stmt], list[Tile]]:
        """A gather from memory: strided, shifted, transposed, sometimes with fill."""
        shape = (self.number(1, 4), self.pick(4, 5, 8))
        reusable = [t for t in scope.tiles if len(t.buffer.shape) == 2 and t.buffer.dtype == self.element]
        reuse = bool(reusable) and self.pick(True, False, False)
        tile = self.pick(*reusable) if reuse else self.tile(scope, shape, self.element)
        instr = self.gather(scope, tile, self.memory)
        return [instr], ([] if reuse else [tile])

    def gather(self, scope: Scope, tile: Tile, space: str) -> Instr:
        fill = self.pick(None, 0.0, 1.5)
        extents = dict(scope.loops) | {"d0": tile.buffer.shape[0], "d1": tile.buffer.shape[1]}
        source_index, shape = [], []
        for dim in ("d0", "d1"):
            form = Affine.var(dim, self.number(1, 2)) + self.number(0 if fill is None else -3, 2)
            for name, _ in scope.loops:
                form = form + Affine.var(name, self.number(0, 2))
            _, high = form.interval(extents)
            source_index.append(form)
            shape.append(high + 1 if fill is None else self.number(1, max(1, high + 2)))
        if self.pick(True, False):
            source_index.reverse()
            shape.reverse()
        made = [b for b in self.finished if b.dtype == tile.buffer.dtype and len(b.shape) == 2]
        if made and fill is not None and space == self.memory and self.pick(True, False):
            # With fill any shape will do, so an earlier phase's result can be the source.
            source = self.pick(*made)
        else:
            source = self.buffer(space, tuple(shape), tile.buffer.dtype, "input")
        dims = (("d0", extents["d0"]), ("d1", extents["d1"]))
        return Instr(
            "copy_in.copy",
            dims,
            (tile.at("d0", "d1"),),
            (Access(source.name, tuple(source_index)),),
            fill=fill,
        )

    def elementwise(self, scope: Scope) -> tuple[list[Stmt], list[Tile]]:
        """A function of two-axis tiles of one shape, a literal or a broadcast row; in place or not."""
        flat = [t for t in scope.tiles if len(t.buffer.shape) == 2]
        if not flat:
            return self.load(scope)
        first = self.pick(*flat)
        rows, columns = first.buffer.shape
        same = [t for t in flat if t.buffer.shape == first.buffer.shape]
        operands: list[Operand] = [first.at("d0", "d1"), self.pick(*same).at("d0", "d1"), Imm(0.5)]
        if self.pick(True, False):
            operands[1] = first.at(self.number(0, rows - 1), "d1")
        kind = self.pick("unary", "binary", "literal", "select", "fma")
        op, src = {
            "unary": (self.pick(*_UNARY), operands[:1]),
            "binary": (self.pick(*_BINARY), operands[:2]),
            "literal": (self.pick(*_BINARY), [operands[0], operands[2]]),
            "select": ("select", [operands[1], operands[0], operands[2]]),
            "fma": ("fma", operands),
        }[kind]
        in_place = kind in ("unary", "literal") and self.pick(True, False)
        target = first if in_place else self.tile(scope, (rows, columns), self.pick(self.element, DType.F32))
        dims = (("d0", rows), ("d1", columns))
        instr = Instr(f"vector.{op}", dims, (target.at("d0", "d1"),), tuple(src))
        return [instr], ([] if in_place else [target])

    def row_wise(self, scope: Scope) -> tuple[list[Stmt], list[Tile]]:
        """One row of a tile, chosen by a loop variable, changed in place."""
        found = [
            (t, name)
            for t in scope.tiles
            for name, extent in scope.sequential
            if len(t.buffer.shape) == 2 and t.buffer.shape[0] >= extent
        ]
        if not found:
            return self.elementwise(scope)
        tile, name = self.pick(*found)
        row = tile.at(name, "d1")
        return [Instr("vector.add", (("d1", tile.buffer.shape[1]),), (row,), (row, Imm(1.0)))], []

    def iota(self, scope: Scope) -> tuple[list[Stmt], list[Tile]]:
        shape = (self.number(1, 3), 4)
        tile = self.tile(scope, shape, DType.I32)
        form = Affine.of(
            {"d0": 7, "d1": self.number(-1, 2)} | {n: 1 for n, _ in scope.loops}, self.number(-2, 2)
        )
        dims = (("d0", shape[0]), ("d1", shape[1]))
        return [Instr("vector.iota", dims, (tile.at("d0", "d1"),), form=form)], [tile]

    def reduction(self, scope: Scope, over: str | None = None) -> tuple[list[Stmt], list[Tile]]:
        """One of the reductions of a tile; ``over`` is a loop it continues around."""
        flat = [t for t in scope.tiles if len(t.buffer.shape) == 2 and t.buffer.dtype != DType.I32]
        if not flat:
            return [], []
        source = self.pick(*flat)
        rows, columns = source.buffer.shape
        kept, dropped, extent, count = self.pick(("d0", "d1", rows, columns), ("d1", "d0", columns, rows))
        outer = replace(scope, loops=tuple(x for x in scope.loops if x[0] != over))
        init = Affine.var(over) if over is not None else Affine()
        chain = count * prod(e for _, e in scope.loops)
        dims = (("d0", rows), ("d1", columns))
        value = source.at("d0", "d1")

        def result(dtype: DType = DType.F32) -> Tile:
            return self.tile(outer, (extent,), dtype)

        op = self.pick("sum", "max", "min", "argmax", "argmin", "moments")
        if op in ("argmax", "argmin"):
            index = self.tile(scope, (rows, columns), DType.I32)
            label = Instr("vector.iota", dims, (index.at("d0", "d1"),), form=Affine.var(dropped))
            best, where = result(), result(DType.I32)
            both = (best.at(kept), where.at(kept))
            sources = (value, index.at("d0", "d1"))
            return [label, Instr(f"vector.reduce_{op}", dims, both, sources, init=init)], [best, where]
        if op == "moments":
            mean, m2 = result(), result()
            form = init * count
            both = (mean.at(kept), m2.at(kept))
            return [Instr(f"vector.reduce_{op}", dims, both, (value,), init, form=form, chain=chain)], [
                mean,
                m2,
            ]
        total = result()
        return [Instr(f"vector.reduce_{op}", dims, (total.at(kept),), (value,), init, chain=chain)], [total]

    def store(self, scope: Scope) -> tuple[list[Stmt], list[Tile]]:
        """A tile to its own place in a new output, so that no two iterations meet."""
        if not scope.tiles:
            return self.load(scope)
        return [self.store_tile(scope, self.pick(*scope.tiles))], []

    def store_tile(self, scope: Scope, tile: Tile) -> Instr:
        around = tuple(e for _, e in scope.loops)
        kind = self.pick("output", "output", "workspace")
        dims = tuple((f"d{n}", e) for n, e in enumerate(tile.buffer.shape))
        index = [Affine.var(n) for n, _ in (*scope.loops, *dims)]
        if kind == "workspace":
            # Two axes, so that a later phase can gather from it.
            rows = Affine()
            for n, e in (*scope.loops, *dims[:-1]):
                rows = rows * e + Affine.var(n)
            index = [rows, index[-1]]
            shape = (prod(around) * prod(tile.buffer.shape[:-1]), tile.buffer.shape[-1])
        else:
            shape = (*around, *tile.buffer.shape)
        target = self.buffer(self.memory, shape, tile.buffer.dtype, kind)
        return Instr(
            "copy_out.copy", dims, (Access(target.name, tuple(index)),), (tile.at(*(n for n, _ in dims)),)
        )

    def loop(self, scope: Scope, depth: int) -> tuple[list[Stmt], list[Tile]]:
        """A nested loop, sometimes with a reduction that continues around it and is read after it."""
        var, extent = f"i{self.loop_count}", self.number(1, 4)
        self.loop_count += 1
        inner = Scope((*scope.loops, (var, extent)), scope.tiles)
        body, seen = self.body(inner, depth + 1)
        found: list[Tile] = []
        if self.pick(True, False):
            more, found = self.reduction(seen, over=var)
            body += more
            if found and self.pick(True, False):
                body.append(self.store_tile(seen, found[0]))
        return [Loop(var, extent, tuple(body))], found

    def product(self, scope: Scope) -> tuple[list[Stmt], list[Tile]]:
        """A matrix product, accumulated over a loop, on the way the machine provides."""
        m, n, k, steps = self.number(1, 4), self.pick(4, 8), self.number(1, 5), self.number(1, 3)
        var = f"i{self.loop_count}"
        self.loop_count += 1
        inner = Scope((*scope.loops, (var, steps)), scope.tiles)
        acc = self.tile(scope, (m, n), DType.F32, self.machine.roles["accumulator"])
        body: list[Stmt] = []
        operands = []
        for role, shape, dims in (("operand_a", (m, k), ("m", "k")), ("operand_b", (k, n), ("k", "n"))):
            staged = self.tile(inner, shape, self.element, self.machine.roles["stage"])
            body.append(self.gather(inner, staged, self.memory))
            if self.machine.has_role(role):
                tile = self.tile(inner, shape, self.element, self.machine.roles[role])
                box = (("d0", shape[0]), ("d1", shape[1]))
                body.append(Instr("copy_in.copy", box, (tile.at("d0", "d1"),), (staged.at("d0", "d1"),)))
                staged = tile
            operands.append(staged.at(*dims))
        chain = k * steps
        box = (("m", m), ("n", n), ("k", k))
        body.append(
            Instr("cube.mma", box, (acc.at("m", "n"),), tuple(operands), init=Affine.var(var), chain=chain)
        )
        loop = Loop(var, steps, tuple(body))
        if acc.buffer.space == self.vector:
            return [loop], [acc]
        drained = self.tile(scope, (m, n), DType.F32)
        forms = self.pick((), ("relu",)) if self.machine.scale_forms else ()
        out = Instr("scale.drain", box[:2], (drained.at("m", "n"),), (acc.at("m", "n"),), scale=forms)
        return [loop, out], [drained]

    def body(self, scope: Scope, depth: int) -> tuple[list[Stmt], Scope]:
        """A few steps, each seeing the tiles of those before; ends with a store."""
        statements, found = self.load(scope)
        steps = [
            self.load,
            self.elementwise,
            self.elementwise,
            self.reduction,
            self.row_wise,
            self.iota,
            self.store,
        ]
        steps += [self.product] if depth < 3 else []
        for _ in range(self.number(1, 4)):
            scope = replace(scope, tiles=(*scope.tiles, *found))
            choice = self.pick(*steps, *(["loop"] * 2 if depth < 3 else []))
            more, found = self.loop(scope, depth) if choice == "loop" else choice(scope)
            statements += more
        scope = replace(scope, tiles=(*scope.tiles, *found))
        more, _ = self.store(scope)
        return [*statements, *more], scope

    def phase(self) -> Stmt:
        self.loop_count = 0
        self.finished = [b for b in self.buffers if b.kind == "workspace"]
        parallel = self.pick(True, True, False)
        var, extent = "core" if parallel else "top", self.number(1, 3)
        body, _ = self.body(Scope(((var, extent),), ()), 1)
        return Loop(var, extent, tuple(body), parallel)


@st.composite
def programs(draw: Any, machine: str | None = None) -> Program:
    """A valid program of one to three top-level loops, for ``machine`` or either of MACHINES."""
    name = machine or draw(st.sampled_from(MACHINES))
    builder = _Builder(draw, name)
    body = tuple(builder.phase() for _ in range(draw(st.integers(1, 3))))
    return Program("random", name, tuple(builder.buffers), body)


def arguments(program: Program, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Small random integers for inputs, zeros for outputs, no workspace: sums of them are exact."""
    random = np.random.default_rng(seed)
    found = {}
    for b in program.buffers:
        if b.kind in ("input", "output"):
            data = random.integers(-4, 5, b.shape) if b.kind == "input" else np.zeros(b.shape)
            found[b.name] = data.astype(b.dtype.numpy)
    return found
