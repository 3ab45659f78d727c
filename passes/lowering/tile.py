"""Tiling: fused groups of a function become loop nests of a prepare and a run program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import MachineError, PassError, fail
from opc.machine import load, names
from opc.machine.model import Machine
from opc.pipeline import FAST, Context
from opc.program.ir import Module, Program
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Dim, Function, Op, Piece, Tensor, reads, walk
from opc.tensor.roles import roles_of
from passes.lowering._chain import ChainNest
from passes.lowering._contractions import nest_type
from passes.lowering._emit import Emitter
from passes.lowering._guards import Rectangle, without_guards
from passes.lowering._knobs import Knobs, parse_plans
from passes.lowering._matmul import ContractionNest, operand_type
from passes.lowering._matmul_registers import RegisterNest
from passes.lowering._matmul_spaces import SpaceNest
from passes.lowering._pieces import PieceNest, overlapping
from passes.lowering._rows import RowNest
from passes.lowering._windows import window_nest
from passes.tensor._contraction import Contraction, classify_contraction


@dataclass(frozen=True)
class Tile:
    """Lower every group to a nest of the five instruction classes, on buffers in role spaces.

    Tile sizes come from a cost model over the machine's capacities and rates; this is the only
    place a capacity failure can return to: a group that does not fit is split into its ops.

    Before:
        func v1 double {
          arg x: f32[64] input
          op y: f32[64] group g0 {
            piece i<64 at i = mul(x[i], 2.0)
          }
          return y
        }

    After:
        program v1 double machine avx2 {
          buffer x: f32[64]@gm input
          buffer y: f32[64]@gm output
          buffer in: f32[32]@vector local
          parallel i_o < 2 {
            copy_in.copy in[i] = x[i + i_o*32] for i<32
            vector.mul in[i] = in[i], 2.0 for i<32
            copy_out.copy y[i + i_o*32] = in[i] for i<32
          }
        }
    """

    plans: str = ""  # choices for the contractions of run, in order, separated by ";" (see `_knobs.py`)

    name: ClassVar[str] = "tile"
    level: ClassVar[str] = "lowering"

    def run(self, function: Function, context: Context) -> Module:
        """The module of both programs, buffers still in role spaces. Raises MachineError E062x, E0630, and
        PassError E0707.
        """
        check_dtypes(function, context.machine)
        prepare = Lowering(function, context.machine, True).run()
        licensed = context.numerics == FAST
        run = Lowering(function, context.machine, False, parse_plans(self.plans), licensed).run()
        return Module(prepare, run)


def check_dtypes(function: Function, machine: Machine) -> None:
    """Reject element types that the machine lacks, naming machines that have them."""
    for tensor in function.tensors().values():
        _need(tensor.dtype, "memory", machine, f"tensor '{tensor.name}'")
        _need(tensor.dtype.compute, "vector", machine, f"arithmetic on '{tensor.name}'")
    for op in function.ops:
        if op.accumulate is not None:
            _need(op.accumulate, "vector", machine, f"the sum of '{op.name}'")
        for node in (n for p in op.pieces for n in walk(p.body)):
            if isinstance(node, Call) and FUNCTIONS[node.fn].kind == "cast":
                _need(DType(node.fn), "vector", machine, f"a conversion in '{op.name}'")
            if isinstance(node, Const) and node.dtype is not None:
                _need(node.dtype.compute, "vector", machine, f"a constant in '{op.name}'")
        c = classify_contraction(op, function)
        if c is not None and c.is_cube:
            _check_factors(c, op, function.tensors(), machine)


def _check_factors(c: Contraction, op: Op, tensors: dict[str, Tensor], machine: Machine) -> None:
    """A cube that is fed multiplies numbers of one type; one that reads memory itself widens them."""
    what, types = f"the contraction '{op.name}'", [tensors[r.tensor].dtype for r in (c.a, c.b)]
    for dtype in types:
        _need(dtype, "cube", machine, what)
    if types[0] is not types[1] and all(map(machine.feeds, types)):
        message = (
            f"{what} multiplies {types[0]} by {types[1]}, and the cube of '{machine.name}' takes one type"
        )
        help_ = f"convert one of them in a clause of its own, as in `v[i, j] = {types[0]}(w[i, j])`"
        raise fail(MachineError, "E0620", message, help=help_)


def _need(dtype: DType, unit: str, machine: Machine, what: str) -> None:
    if dtype in machine.dtypes.get(unit, ()):
        return
    able = [n for n in names() if dtype in load(n).dtypes.get(unit, ())]
    raise fail(
        MachineError,
        "E0620",
        f"{what} is {dtype}, which the {unit} unit of '{machine.name}' does not have",
        help=f"machines that have it: {', '.join(able) or 'none'}; or choose one of "
        + ", ".join(machine.dtypes.get(unit, ())),
    )


@dataclass
class Lowering:
    """Makes one of a function's two programs. ``plans`` fixes choices of its contractions, in order. ``licensed``: sums
    may start from what is added to them.
    """

    function: Function
    machine: Machine
    prepare: bool
    plans: tuple[Knobs, ...] = ()
    licensed: bool = False

    def __post_init__(self) -> None:
        self.emit = Emitter(self.function.name, self.machine)
        self.tensors = self.function.tensors()
        self.groups = list(self._groups())

    def run(self) -> Program:
        """The whole program."""
        self._declare()
        cubes = [group for group in self.groups if self._is_cube(group)]
        nests = {id(g[0]): nest for g, nest in zip(cubes, self.contractions(), strict=True)}
        inside = {id(n.packing) for n in nests.values() if isinstance(n, ContractionNest) and n.packs}
        for group in self.groups:
            if len(group) > 1 or id(group[0]) not in inside:
                self._group(group, nests.get(id(group[0])))
        return self.emit.program()

    def contractions(self) -> list[ContractionNest | ChainNest]:
        """The nests of the groups that the cube takes, in program order. Raises PassError E0707."""
        found = [group for group in self.groups if self._is_cube(group)]
        if len(self.plans) > len(found):
            message = f"{len(self.plans)} plans for {len(found)} contractions"
            raise fail(PassError, "E0707", message, help="give one plan per contraction, separated by ';'")
        plans = (*self.plans, *[Knobs()] * (len(found) - len(self.plans)))
        return [self._nest(group, knobs) for group, knobs in zip(found, plans, strict=True)]

    def _nest(self, group: tuple[Op, ...], knobs: Knobs) -> ContractionNest | ChainNest:
        c = None if _in_pieces(group) else self._cube(root_of(group))
        if c is None:
            return ChainNest(self.emit, group, self.function, self.tensors, self._stored(group), knobs)
        make = nest_type(c, self.tensors, self.machine)
        packing = make.packing_of(c, self.function)
        stored = self._stored(group)
        return make(self.emit, group, c, self.tensors, stored, knobs, packing, self.licensed)

    def _is_cube(self, group: tuple[Op, ...]) -> bool:
        if _in_pieces(group):
            return self._chained(group)
        return self._cube(root_of(group)) is not None

    def _chained(self, group: tuple[Op, ...]) -> bool:
        """Whether a chain has one contraction, which needs no operand spaces."""
        found = [c for op in group if (c := self._cube(op)) is not None]
        return len(found) == 1 and not self.machine.feeds(operand_type(found[0], self.tensors, self.machine))

    def _groups(self) -> Iterator[tuple[Op, ...]]:
        numbered = enumerate(op for op in self.function.ops if op.prepare == self.prepare)
        for _, members in groupby(numbered, key=lambda item: item[1].group or item[0]):
            yield from self._apart(tuple(op for _, op in members))

    def _apart(self, group: tuple[Op, ...]) -> Iterator[tuple[Op, ...]]:
        """The group; where the machine cannot work on an operand on its way to the cube, what it can do at once.
        Contractions that make one tensor together follow each other.
        """
        alone = _contractions(group[0]) if len(group) == 1 else []
        if alone and all(self._cube(op) is not None for op in alone):
            yield from ((part.op,) for part in _filled(group[0]))
            yield from ((op,) for op in alone)
            return
        found = roles_of(group)
        c = self._cube(found.root) if found is not None else None
        make = nest_type(c, self.tensors, self.machine) if c is not None else None
        if found is None or make is SpaceNest:
            yield group
            return
        yield from ((op,) for op in found.before)
        yield tuple(op for op in found.inside if make is not None or op not in found.statistics)
        yield from ((op,) for op in found.statistics if make is None)

    def _declare(self) -> None:
        """Memory buffers of this program: its arguments, what crosses from prepare, workspace, results."""
        mine = [op for op in self.function.ops if op.prepare == self.prepare]
        read = {r.tensor for op in mine for r in reads(op)}
        for arg in self.function.args:
            wanted = arg.kind == "param" if self.prepare else arg.kind != "param"
            if wanted and not any(t.name == arg.tensor.name for op in mine for t in op.outputs):
                self.emit.memory(arg.tensor, "input" if arg.kind == "donated" else arg.kind)
            elif wanted:
                self.emit.memory(arg.tensor, "inout")
        run_reads = {r.tensor for op in self.function.ops if not op.prepare for r in reads(op)}
        for op in self.function.ops:
            for t in op.outputs:
                if op.prepare and t.name in run_reads and (self.prepare or t.name in read):
                    self.emit.memory(t, "packed")
                elif op.prepare == self.prepare and t.name in self.function.results:
                    self.emit.memory(t, "output")

    def _stored(self, group: tuple[Op, ...]) -> frozenset[str]:
        """Outputs that are results, packed, or read by another group or from memory."""
        inside = set(map(id, group))
        outside = {r.tensor for op in self.function.ops if id(op) not in inside for r in reads(op)}
        found = roles_of(group)
        if found is not None and not self.machine.role("vector").addressable:
            outside |= {r.tensor for op in found.statistics for r in reads(op)}
        return frozenset(
            t.name for op in group for t in op.outputs if t.name in outside or t.name in self.function.results
        )

    def _group(self, group: tuple[Op, ...], contraction: ContractionNest | ChainNest | None) -> None:
        stored = self._stored(group)
        if contraction is not None:
            self._workspace(stored)
            contraction.run()
            return
        windows = window_nest(self.emit, group, self.tensors, stored)
        if windows is not None:
            self._workspace(stored)
            windows.run()
            return
        if len(group) > 1 and _fits_one_nest(group):
            nest = RowNest(self.emit, group, self.tensors, stored)
            if not nest.plan.spilled:
                self._workspace(stored)
                nest.run()
                return
        for op in group:
            alone = frozenset(t.name for t in op.outputs if t.name in stored or len(group) > 1)
            self._workspace(alone)
            c = self._cube(op)
            if c is not None:
                nest_type(c, self.tensors, self.machine)(
                    self.emit, (op,), c, self.tensors, alone, Knobs()
                ).run()
                continue
            if overlapping(op) and not self.machine.role("vector").addressable:
                PieceNest(self.emit, (op,), self.tensors, alone).run()
                continue
            for part in _parts(op):
                RowNest(self.emit, (part.op,), self.tensors, alone, part.number).run()

    def _workspace(self, stored: frozenset[str]) -> None:
        for name in sorted(stored):
            self.emit.memory(self.tensors[name], "workspace")

    def _cube(self, op: Op) -> Contraction | None:
        c = classify_contraction(op, self.function) if len(op.pieces) == 1 and op.fill is None else None
        if c is None or not c.is_cube or not _packing_guards(op, c):
            return None
        # A cube that reads b where it lies has nothing to fill it with; choose-layouts packs b, but not in prepare.
        direct = nest_type(c, self.tensors, self.machine) is RegisterNest
        return None if direct and c.b.fill is not None else c


def root_of(group: tuple[Op, ...]) -> Op:
    """The op that the others of a group go with."""
    found = roles_of(group)
    return found.root if found is not None else group[0]


def _in_pieces(group: tuple[Op, ...]) -> bool:
    """Whether the group is a chain, which any op may begin, the contraction too."""
    return len(group) > 1 and any(len(op.pieces) > 1 for op in group)


def _fits_one_nest(group: tuple[Op, ...]) -> bool:
    """Whether a row nest takes the group: ops of one piece, no guards, and no op reads past the edge of another's
    tensor (on chip there is nothing to fill such a read from).
    """
    if _in_pieces(group):
        return False
    inside = {t.name for op in group for t in op.outputs}
    padded = any(r.tensor in inside and r.fill is not None for op in group for r in reads(op))
    return not padded and not any(p.guards for op in group for p in op.pieces)


def _packing_guards(op: Op, c: Contraction) -> bool:
    """Whether the op's only guard, if any, is the ragged last block that choose-layouts leaves."""
    guards = op.pieces[0].guards
    if not guards:
        return True
    if len(guards) > 1 or len(c.n) < 2:
        return False
    block, inner = c.n[-2:]
    return guards[0].terms == Affine.of({block.name: -inner.extent, inner.name: -1}).terms


def _contractions(op: Op) -> list[Op]:
    """An op for each piece of a sum that has several, or leaves elements out: the phases of a strided gradient."""
    if op.monoid != "sum" or (len(op.pieces) == 1 and op.fill is None):
        return []
    return [replace(op, pieces=(piece,), fill=None) for piece in op.pieces]


def _filled(op: Op) -> Iterator[Rectangle]:
    """What writes the fill of an op, everywhere, before its pieces."""
    for out in op.outputs if op.fill is not None else ():
        dims = tuple(Dim(f"f{axis}", extent) for axis, extent in enumerate(out.shape))
        index = tuple(Affine.var(d.name) for d in dims)
        yield Rectangle(Op((out,), (Piece(dims, index, Const(op.fill or 0)),), line=op.line), Affine())


def _parts(op: Op) -> Iterator[Rectangle]:
    """One single-piece op per piece; a fill becomes a piece over everything that runs first."""
    yield from _filled(op)
    # Pieces that become a select write fill values around themselves, so they run before exact ones.
    resolved = [without_guards(replace(op, pieces=(piece,))) for piece in op.pieces]
    slanted = [any(len(g.terms) > 1 for g in p.guards) for p in op.pieces]
    for wanted in (True, False):
        for parts, slant in zip(resolved, slanted, strict=True):
            if slant is wanted:
                yield from (replace(part, op=replace(part.op, fill=None)) for part in parts)
