"""What a core does first and last, in parts, so that what waits for it starts with the first of them.

The cube waits for the first tile of both operands, though its first product takes a slice of them; after its last
product the vector unit waits for a whole tile, and the way to memory for the vector unit. In between other tiles fill
such gaps. A choice here says which instructions of straight code stand in parts; what it is worth is for the caller
to find out, because every part takes a flag and event ids are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.machine.model import Machine
from opc.program.ir import Access, Buffer, Instr, Program, hull
from opc.program.rewrite import substitute

_LEAST = 8192  # bytes of a part that is loaded

Parts = dict[int, tuple[Instr, ...]]  # by the place of the instruction that they stand for


def choices(body: Sequence[Instr], program: Program, machine: Machine, parts: int) -> list[Parts]:
    """What could be cut in up to so many parts each, the most promising first. Choices may overlap."""
    cutter = _Cutter(body, program.table(), machine, parts)
    return [found for found in (*cutter.results(), *cutter.loads(), *cutter.products()) if found]


def with_parts(body: Sequence[Instr], parts: Parts) -> tuple[Instr, ...]:
    """The body with some instructions in parts."""
    return tuple(part for n, i in enumerate(body) for part in parts.get(n, (i,)))


def _cut(i: Instr, name: str, places: Sequence[int]) -> tuple[Instr, ...]:
    """The instruction along one of its dims, from one place to the next."""
    found = []
    for start, end in zip((0, *places), (*places, i.extents[name]), strict=True):
        dims = tuple((n, end - start if n == name else e) for n, e in i.dims)
        moved = substitute(i, {name: Affine.var(name) + start}) if start else i
        assert isinstance(moved, Instr)
        found.append(replace(moved, dims=dims))
    return tuple(found)


@dataclass(frozen=True)
class _Cutter:
    """Straight code, whose slots are numbers."""

    body: Sequence[Instr]
    table: Mapping[str, Buffer]
    machine: Machine
    parts: int

    def loads(self) -> Iterator[Parts]:
        """The first and the last copy from memory to each slot of the staging memory, where readers' slices end."""
        stage, written = self.machine.roles.get("stage", ""), dict[tuple[str, int], list[int]]()
        for n, i in enumerate(self.body):
            if i.opcode_class == "copy_in" and self.table[i.dst[0].buffer].space == stage:
                written.setdefault(self._slot(i.dst[0]), []).append(n)
        for places in written.values():
            for n in dict.fromkeys((places[0], places[-1])):
                yield self._in_slices(n, self._ends(n))

    def _slot(self, a: Access) -> tuple[str, int]:
        return a.buffer, a.slot.const % self.table[a.buffer].slots

    def _ends(self, written: int) -> list[set[int]]:
        """By axis, where the slices end that are read before the buffer is written again."""
        found: list[set[int]] = []
        slot = self._slot(self.body[written].dst[0])
        for i in self.body[written + 1 :]:
            if slot in map(self._slot, i.dst):
                break
            for a in i.sources:
                if self._slot(a) == slot:
                    boxes = [(low.const, size) for low, size in hull(a, i.extents)]
                    found = found or [set() for _ in boxes]
                    for axis, (low, size) in enumerate(boxes):
                        found[axis] |= {low, low + size}
        return found

    def _in_slices(self, n: int, ends: Sequence[set[int]]) -> Parts:
        """Along the axis of which the first slice is the smallest part."""
        i, best = self.body[n], (1.0, "", list[int]())
        buffer = self.table[i.dst[0].buffer]
        for axis, at in enumerate(ends):
            extent, form = buffer.shape[axis], i.dst[0].index[axis]
            inside = sorted(end for end in at if 0 < end < extent)
            name = next(iter(form.names), "")
            if inside and form == Affine.var(name) and i.extents.get(name) == extent:
                least = max(extent // self.parts, -(-_LEAST * extent // buffer.slot_bytes))
                best = min(best, (inside[0] / extent, name, _spaced(inside, extent, least)))
        _, name, places = best
        return {n: _cut(i, name, places)} if places else {}

    def results(self) -> Iterator[Parts]:
        """What becomes of the last tile and of the first, by rows: drain, work and store, and of the products that make
        it the last, all, or none.
        """
        drains = [n for n, i in enumerate(self.body) if i.opcode_class == "scale"]
        for n in dict.fromkeys(drains[-1:] + drains[:1]):
            after, before = self._after(n), self._before(n)
            for count in (
                dict.fromkeys(min(n, len(before)) for n in (1, 2, 3, len(before), 0)) if after else ()
            ):
                yield self._by_rows([*before[len(before) - count :], *after])

    def _before(self, drain: int) -> list[int]:
        """What made the tile that is drained, since it was drained before."""
        tile, found = self._slot(self.body[drain].sources[0]), list[int]()
        for n in range(drain - 1, -1, -1):
            if tile in map(self._slot, self.body[n].dst):
                found.append(n)
            elif tile in map(self._slot, self.body[n].sources):
                break
        return found[::-1]

    def _after(self, drain: int) -> list[int]:
        """What is done with a tile up to its store; nothing if more than elementwise work is."""
        made, chain = {self._slot(self.body[drain].dst[0])}, [drain]
        for n in range(drain + 1, len(self.body)):
            i = self.body[n]
            if not made & set(map(self._slot, (*i.dst, *i.sources))):
                continue
            if i.opcode_class not in ("vector", "copy_in", "copy_out") or i.op.startswith("reduce"):
                break
            chain.append(n)
            if i.opcode_class == "copy_out":
                return chain
            made |= set(map(self._slot, i.dst))
        return []

    def products(self) -> Iterator[Parts]:
        """The first product by rows, with what loads them and what the sum starts from."""
        first = next((n for n, i in enumerate(self.body) if i.opcode_class == "cube"), None)
        if first is None:
            return
        chain, wanted = [first], set(map(self._slot, (*self.body[first].dst, *self.body[first].sources)))
        for n in range(first - 1, -1, -1):
            if wanted & set(map(self._slot, self.body[n].dst)):
                chain.append(n)
                wanted |= set(map(self._slot, self.body[n].sources))
        yield self._by_rows(chain[::-1])

    def _by_rows(self, chain: Sequence[int]) -> Parts:
        """Instructions that walk the rows of a tile, each along its slowest dim; products in whole blocks."""
        cube = next((self.body[n] for n in chain if self.body[n].opcode_class == "cube"), None)
        tile = self.body[chain[-1]] if cube is None else cube
        rows = self.table[(tile.dst if cube is not None else tile.sources)[0].buffer].shape[0]
        walked = {n: w for n in chain if (w := self._rows(self.body[n], rows)) is not None}
        stored = [step for n, (_, step) in walked.items() if self.body[n].opcode_class == "copy_out"]
        unit = max(stored, default=1)
        places = sorted({rows // unit * part // self.parts * unit for part in range(1, self.parts)} - {0})
        block = self._block(cube)
        blocks = sorted({-(-p // block) * block for p in places} - {rows})
        found: Parts = {}
        for n, (name, step) in walked.items():
            at = places if stored and self.body[n].opcode_class in ("scale", "vector", "copy_out") else blocks
            if at and not any(p % step for p in at) and max(at) < rows:
                found[n] = _cut(self.body[n], name, [p // step for p in at])
        return found

    def _block(self, cube: Instr | None) -> int:
        if cube is None:
            return 1
        return self.machine.cube_shape[self.table[cube.sources[0].buffer].dtype][0]

    def _rows(self, i: Instr, rows: int) -> tuple[str, int] | None:
        """The slowest dim along which an instruction walks all rows of a tile, and its step in rows."""
        forms = {
            a.index[0]
            for a in (*i.dst, *i.sources)
            if (b := self.table[a.buffer]).kind == "local" and len(b.shape) > 1 and b.shape[0] == rows
        }
        slowest = {max(((c, n) for n, c in f.terms), default=(0, "")) for f in forms if not f.const}
        if len(slowest) != 1 or len(forms) != len({f for f in forms if not f.const}):
            return None
        ((step, name),) = slowest
        return (name, step) if step and i.extents.get(name, 0) * step == rows else None


def _spaced(at: Sequence[int], extent: int, least: int) -> list[int]:
    """Where to cut: after the first slice, before the last, and between them in parts that are long enough."""
    found = [at[0]]
    for n in at[1:]:
        if n - found[-1] >= least or n == at[-1]:
            found.append(n)
    return found
