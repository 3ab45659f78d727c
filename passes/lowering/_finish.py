"""What the way of an accumulator tile out of the cube costs: drain, epilogue and store, tried on two small tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from opc.affine import Affine
from opc.machine.model import Machine
from opc.program.cost import cycles
from opc.program.ir import Buffer, Instr, instructions
from opc.program.pipes import pipe_of
from opc.tensor.ir import Op, Read, Tensor
from passes.lowering._axes import Axis, Frame
from passes.lowering._cube_sums import CubeSums
from passes.lowering._emit import Emitter, Tile
from passes.lowering._epilogue import Epilogue
from passes.lowering._expr import Evaluator, Value
from passes.lowering._first import start
from passes.lowering._plan import Shape
from passes.lowering.fold_drain import folded

# Sides of the tiles that are tried; costs between and beyond them lie on a line.
_TRIED = (64, 128)
_SLOTS = 2  # of what passes from one pipe to another


@dataclass(frozen=True, slots=True)
class Finish:
    """``pipes``: (fixed, per element) cycles of a tile on each pipe; dependent work of an unordered pipe includes the
    wait for what is before it. ``bytes``: of the vector unit's memory, (per column, per element).
    """

    pipes: dict[str, tuple[float, float]]
    bytes: tuple[float, float]

    def cycles(self, elements: int) -> dict[str, float]:
        """Each pipe's share of a tile."""
        return {pipe: fixed + each * elements for pipe, (fixed, each) in self.pipes.items()}

    def rows(self, columns: int, room: float) -> int:
        """How many rows of that many columns fit next to the vector unit at once."""
        left = room - self.bytes[0] * columns
        return max(0, int(left / (self.bytes[1] * columns))) if self.bytes[1] else int(left > 0) << 30


def finish(
    ops: tuple[Op, ...],
    tensors: dict[str, Tensor],
    stored: frozenset[str],
    shape: Shape,
    machine: Machine,
    first: tuple[Op, Read] | None = None,
    multiplied: tuple[Op, ...] = (),
) -> Finish:
    """Of a group's ops after its contraction, the first, and of what it starts from. ``multiplied``: what the cube sums
    up of its result.
    """
    small, large = (_Trial(ops, tensors, stored, shape, machine, side, first, multiplied) for side in _TRIED)
    pipes = {}
    for pipe, most in large.pipes.items():
        least = small.pipes.get(pipe, 0.0)
        each = (most - least) / max(1, large.size - small.size)
        pipes[pipe] = (max(0.0, least - each * small.size), each)
    if shape.reductions:
        cost = machine.vector_costs.get("reduce") or machine.vector_costs["default"]
        fixed, each = pipes.get(machine.vector_pipe, (0.0, 0.0))
        passes = shape.reductions * shape.accumulator.bytes / machine.vector_bytes * cost.slope
        fixed += shape.reductions * (cost.head + cost.tail)
        pipes[machine.vector_pipe] = (fixed, each + passes)
    return Finish(pipes, (large.columns / _TRIED[1], large.elements / large.size))


class _Trial:
    """One square tile, emitted into a program of its own."""

    def __init__(
        self,
        ops: tuple[Op, ...],
        tensors: dict[str, Tensor],
        stored: frozenset[str],
        shape: Shape,
        machine: Machine,
        side: int,
        first: tuple[Op, Read] | None,
        multiplied: tuple[Op, ...],
    ) -> None:
        self.machine = machine
        emit = Emitter("trial", machine)
        for tensor in tensors.values():
            emit.memory(tensor, "inout")
        inside = tuple(op for op in ops if op is ops[0] or op.monoid is None or op in multiplied)
        epilogue = Epilogue(emit, inside, tensors, stored, first=first)
        if multiplied:
            epilogue.sums = CubeSums(emit, multiplied, tensors, stored, shape, "", 1, columns=side, rows=side)
            tiles = {d.name: Tile(Affine(), min(side, d.extent), Affine()) for d in (*shape.m, *shape.n)}
            epilogue.sums.prepare()
            epilogue.sums.begin(tiles, None)
            epilogue.sums.tiles = tiles
        dims = (*shape.batch, *shape.m, *shape.n)
        names = [s[-1].name if s else "" for s in (shape.m, shape.n)]
        axes = tuple(
            Axis(axis, ((name, side),) if name else ())
            for axis, name in zip(("m_", "n_"), names, strict=True)
        )
        self.size = prod(a.size for a in axes)
        frame = Frame(axes, {d.name: Affine() for d in dims})
        values = epilogue.columns(frame, {d.name for d in shape.m})
        before = len(emit.program().body)
        drained = emit.local("drained", shape.accumulator, [a.size for a in axes], "vector")
        acc = emit.local("acc", shape.accumulator, [a.size for a in axes], "accumulator")
        if first is not None:
            start(emit, frame, acc, values[first[1]])
        target = Evaluator.at(drained, axes)
        emit.emit("scale.drain", frame.axis_dims(axes), [target], [Evaluator.at(acc, axes)])
        epilogue.apply(frame, Value(target, axes, shape.accumulator, True), values)
        program = folded(emit.program(), machine)
        self.buffers = {b.name: self._placed(b) for b in program.buffers}
        code = [i for i, _ in instructions(program.body[before:])]
        self.pipes = self._pipes(code)
        self.columns, self.elements = self._bytes(code)

    def _placed(self, b: Buffer) -> Buffer:
        return replace(b, space=self.machine.roles.get(b.space, b.space))

    def _pipes(self, code: list[Instr]) -> dict[str, float]:
        found: dict[str, float] = {}
        for i in code:
            pipe = pipe_of(i, self.buffers, self.machine)
            cost = cycles(i, self.buffers, self.machine)
            waits = pipe in self.machine.unordered_pipes and i.opcode_class in ("vector", "scale")
            busy = cost.latency + self.machine.sync_cycles if waits else cost.occupancy
            found[pipe] = found.get(pipe, 0.0) + busy
        return found

    def _bytes(self, code: list[Instr]) -> tuple[float, float]:
        """Of buffers that hold columns, and of those that hold the tile; those that pass between pipes twice."""
        pipes: dict[str, set[str]] = {}
        for i in code:
            for a in (*i.dst, *i.sources):
                pipes.setdefault(a.buffer, set()).add(pipe_of(i, self.buffers, self.machine))
        columns = elements = 0.0
        for b in self.buffers.values():
            if b.kind != "local" or b.space != self.machine.roles["vector"]:
                continue
            if b.slot_bytes < self.size:
                columns += b.slot_bytes
            else:
                elements += b.slot_bytes * (_SLOTS if len(pipes.get(b.name, ())) > 1 else 1)
        return columns, elements
