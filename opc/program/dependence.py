"""Which instructions of a body must keep their order, and across how many iterations.

Two accesses conflict when one writes and their regions may meet: in one buffer when the slots may be
equal and the boxes (with the lattice of their steps) may overlap on every axis; in two local buffers,
or two of the packed or workspace blob, when their planned ranges share bytes. Loops inside a statement
are summarised by letting their variables range freely.

Distances count iterations of the enclosing loops as one flattened sequence, so a dependence that
crosses the end of an inner loop has a distance too. Every answer errs towards "conflict" and towards
the shorter distance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from math import gcd
from typing import NamedTuple

from opc.affine import Affine
from opc.machine.model import Machine
from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt
from opc.program.memory import slot_size
from opc.program.opcodes import OPCODES

FAR = 8  # distances beyond it are reported as FAR + 1
KINDS = ("RAW", "WAR", "WAW")
_ENUMERABLE = 256

Shift = Mapping[str, int | range]  # loop variable -> how much later the second access is
Extents = Mapping[str, int]
Terms = tuple[tuple[str, int], ...]
Ranges = tuple[tuple[str, int], ...]  # variable and extent; of two with one name the last counts
Pairs = frozenset[tuple[int, int]]  # slots of two buffers that share bytes


class Dep(NamedTuple):
    """Statement ``target`` must follow statement ``source``, ``distance`` iterations later (0: the
    same iteration). No conflict between the two is closer; farther ones may exist.
    """

    source: int
    target: int
    kind: str
    distance: int
    buffer: str


class Span(NamedTuple):
    """Values ``base + low … base + high`` in steps of ``step`` (0: one value); ``base`` is a form of
    the loop variables outside.
    """

    base: Affine
    low: int
    high: int
    step: int


class Touch(NamedTuple):
    """One access: what it does to which region."""

    buffer: str
    reads: bool
    writes: bool
    slot: Span
    axes: tuple[Span, ...]


def touches(stmt: Stmt, only: Collection[str] | None = None) -> tuple[Touch, ...]:
    """All accesses of a statement as seen from outside it, or those of ``only`` some buffers."""
    if isinstance(stmt, Instr):
        return tuple(instr_touches(stmt, {}, only))
    found: dict[Touch, None] = {}
    stack: list[tuple[Stmt, dict[str, int]]] = [(stmt, {})]
    while stack:
        s, inside = stack.pop()
        if isinstance(s, Loop):
            deeper = {**inside, s.var: s.extent}
            stack.extend((inner, deeper) for inner in reversed(s.body))
        else:
            found.update(dict.fromkeys(instr_touches(s, inside, only)))
    return tuple(found)


def instr_touches(instr: Instr, inside: Extents, only: Collection[str] | None = None) -> list[Touch]:
    """Accesses of one instruction; the variables in ``inside`` range freely. A prefetch has none."""
    sources, dst = instr.sources, instr.dst
    if only is not None:
        sources = tuple([a for a in sources if a.buffer in only])
        dst = tuple([a for a in dst if a.buffer in only])
    if instr.op == "prefetch" or not (sources or dst):
        return []
    ranges = (*inside.items(), *instr.dims)
    found = [_touch(a, ranges, True, False) for a in sources]
    overwrites = instr.init is not None and instr.init.is_const and instr.init.const == 0
    updates = OPCODES[instr.opcode].reduces and not overwrites
    return found + [_touch(a, ranges, updates, True) for a in dst]


def _touch(access: Access, ranges: Ranges, reads: bool, writes: bool) -> Touch:
    return Touch(access.buffer, reads, writes, _span(access.slot, ranges), _spans(access.index, ranges))


@lru_cache(maxsize=4096)  # unrolled code repeats itself
def _spans(forms: tuple[Affine, ...], ranges: Ranges) -> tuple[Span, ...]:
    return tuple([_span(form, ranges) for form in forms])


def _span(form: Affine, ranges: Ranges) -> Span:
    if not form.terms:
        return Span(form, 0, 0, 0)
    base, low, high, step = _reach(form.terms, ranges)
    return Span(form if base == form.terms else Affine(base, form.const), low, high, step)


@lru_cache(maxsize=4096)  # unrolled code differs in constants only
def _reach(terms: Terms, ranges: Ranges) -> tuple[Terms, int, int, int]:
    """(terms of other variables, least and largest value of those in ``ranges``, step between values)."""
    extents = dict(ranges)
    base, low, high, step = [], 0, 0, 0
    for name, c in terms:
        extent = extents.get(name)
        if extent is None:
            base.append((name, c))
            continue
        reach = c * (extent - 1)
        low, high = (low + reach, high) if reach < 0 else (low, high + reach)
        if extent > 1:
            step = gcd(step, c)
    return tuple(base), low, high, step


class Dependences:
    """Answers for one program; ``machine`` gives the sizes that planned buffers occupy."""

    def __init__(self, program: Program, machine: Machine) -> None:
        self.buffers = program.table()
        self._shared = _shared_slots(program, machine)
        self._aliases: dict[str, tuple[str, ...]] = {}
        for a, b in self._shared:
            self._aliases[a] = (*self._aliases.get(a, (a,)), b)

    def meet(self, a: Touch, b: Touch, shift: Shift, extents: Extents) -> bool:
        """Whether ``a`` now and ``b`` ``shift`` later may touch a common element.

        ``extents`` holds every loop around both; loops that are not in ``shift`` have no fixed
        relation between the two.
        """
        if a.buffer == b.buffer:
            slots = self.buffers[a.buffer].slots
            if slots > 1 and not _congruent(a.slot, b.slot, shift, extents, slots):
                return False
            return all(_overlap(p, q, shift, extents) for p, q in zip(a.axes, b.axes, strict=True))
        pairs = self._shared[a.buffer, b.buffer]
        counts = (self.buffers[a.buffer].slots, self.buffers[b.buffer].slots)
        return _slots_meet(a.slot, b.slot, shift, extents, counts, pairs)

    def between(
        self,
        nodes: Sequence[tuple[Touch, ...]],
        loops: Sequence[Loop],
        carried: int = 1,
        groups: Sequence[int | None] = (),
    ) -> list[Dep]:
        """Dependences among nodes (each the touches of some statement) of one body.

        ``loops`` are the loops around the body, outermost first. The ``carried`` innermost of them
        count as iterations; of the others both ends see the same iteration. Nodes of one group
        (if not None) are not compared with each other or themselves.
        """
        steps = _Steps(loops, carried)
        found: list[Dep] = []
        by_buffer: dict[str, list[int]] = {}
        sorts: list[dict[str, list[Touch]]] = []
        for n, node in enumerate(nodes):
            sort: dict[str, list[Touch]] = {}
            for touch in node:
                sort.setdefault(touch.buffer, []).append(touch)
            for name in sort:
                by_buffer.setdefault(name, []).append(n)
            sorts.append(sort)
        for s, node in enumerate(nodes):
            names = {name for touch in node for name in self.aliases(touch.buffer)}
            met = {t for name in names for t in by_buffer.get(name, ())}
            # In a single iteration nothing comes after what it precedes.
            for t in sorted(met if steps.total > 1 else (t for t in met if t > s)):
                if not groups or groups[s] is None or groups[s] != groups[t]:
                    found += self._pair(s, node, t, sorts[t], steps)
        return found

    def aliases(self, name: str) -> Iterable[str]:
        """A buffer and those that share bytes with it."""
        return self._aliases.get(name, (name,))

    def _pair(
        self, s: int, source: tuple[Touch, ...], t: int, target: Mapping[str, list[Touch]], steps: _Steps
    ) -> list[Dep]:
        best: dict[str, Dep] = {}
        for a in source:
            for b in (b for name in self.aliases(a.buffer) for b in target.get(name, ())):
                if not (a.writes or b.writes):
                    continue
                distance = steps.first(self, a, b, int(s >= t))
                if distance is None:
                    continue
                for kind in kinds_of(a, b):
                    if kind not in best or distance < best[kind].distance:
                        best[kind] = Dep(s, t, kind, distance, a.buffer)
        return [best[k] for k in KINDS if k in best]


def dependences(
    body: Sequence[Stmt], loops: Sequence[Loop], program: Program, machine: Machine, carried: int = 1
) -> list[Dep]:
    """Dependences among the statements of ``body``, which ``loops`` (outermost first) surround.

    For each ordered pair and kind the least distance, 0 only where the source comes first. The
    ``carried`` innermost loops count as iterations (pass 0 for order inside one iteration only).
    """
    return Dependences(program, machine).between([touches(s) for s in body], loops, carried)


def kinds_of(a: Touch, b: Touch) -> list[str]:
    """What the second of two conflicting accesses waits for."""
    holds = (a.writes and b.reads, a.reads and b.writes, a.writes and b.writes)
    return [kind for kind, true in zip(KINDS, holds, strict=True) if true]


class _Steps:
    """The distances to try: for each the shifts of the loop variables that it can mean."""

    def __init__(self, loops: Sequence[Loop], carried: int) -> None:
        self.extents = {loop.var: loop.extent for loop in loops}
        split = len(loops) - carried
        self.fixed: dict[str, int | range] = {loop.var: 0 for loop in loops[:split]}
        self.carriers = [(loop.var, loop.extent) for loop in loops[split:]]
        self.total = 1
        for _, extent in self.carriers:
            self.total *= extent
        self._shifts: dict[int, list[dict[str, int | range]]] = {}

    def first(self, known: Dependences, a: Touch, b: Touch, least: int) -> int | None:
        """The least distance at which ``b`` conflicts with ``a``; None if there is none."""
        if not known.meet(a, b, self.fixed, self.extents):
            return None
        for distance in range(least, min(self.total, FAR + 1)):
            if any(known.meet(a, b, shift, self.extents) for shift in self.shifts(distance)):
                return distance
        if self.total > FAR + 1 and any(known.meet(a, b, shift, self.extents) for shift in self.far()):
            return FAR + 1
        return None

    def far(self) -> Iterator[Shift]:
        """All shifts of distances beyond FAR (and maybe nearer ones), as few ranges."""
        for n, (var, extent) in enumerate(self.carriers):
            # The outer variables stay, this one moves, the inner ones may be anything.
            least = FAR + 1 if n + 1 == len(self.carriers) else 1
            if extent > least:
                outer = dict.fromkeys((v for v, _ in self.carriers[:n]), 0)
                yield {**self.fixed, **outer, var: range(least, extent)}

    def shifts(self, distance: int) -> list[dict[str, int | range]]:
        """Every way the variables can move when the flattened iteration advances by ``distance``."""
        if distance not in self._shifts:
            partial: list[tuple[int, dict[str, int | range]]] = [(0, dict(self.fixed))]
            rest = distance
            for var, extent in reversed(self.carriers):
                rest, digit = divmod(rest, extent)
                partial = [
                    (up, {**known, var: move})
                    for carry, known in partial
                    for up, move in ((0, digit + carry), (1, digit + carry - extent))
                    if abs(move) < extent
                ]
            # What remains to carry beyond the outermost loop would leave the sequence.
            self._shifts[distance] = [known for carry, known in partial if carry + rest == 0]
        return self._shifts[distance]


def _difference(p: Span, q: Span, shift: Shift, extents: Extents) -> tuple[int, int, int, int]:
    """(constant, low, high, step) of q's value minus p's, q being ``shift`` later."""
    const = q.base.const - p.base.const
    low, high, step = q.low - p.high, q.high - p.low, gcd(p.step, q.step)
    # The lattices start at the low ends.
    offset = q.low - p.low
    if p.base.terms == q.base.terms:
        for name, c in q.base.terms:
            move = shift.get(name)
            if not isinstance(move, int):
                break
            const += c * move
        else:
            return const + offset, low - offset, high - offset, step
        const = q.base.const - p.base.const
    first, second = dict(p.base.terms), dict(q.base.terms)
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name, 0), second.get(name, 0)
        # A variable with a fixed shift is one unknown, any other is two.
        for free in (b - a,) if name in shift else (-a, b):
            reach = free * (extents[name] - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
            step = gcd(step, free) if extents[name] > 1 else step
        const += b * _fixed(shift, name)
        move = shift.get(name, 0)
        if isinstance(move, range) and len(move) > 1:
            reach = b * (len(move) - 1)
            low, high, step = low + min(reach, 0), high + max(reach, 0), gcd(step, b)
    return const + offset, low - offset, high - offset, step


def _fixed(shift: Shift, name: str) -> int:
    """The least shift of a variable."""
    move = shift.get(name, 0)
    return move if isinstance(move, int) else move.start


def _overlap(p: Span, q: Span, shift: Shift, extents: Extents) -> bool:
    const, low, high, step = _difference(p, q, shift, extents)
    if not const + low <= 0 <= const + high:
        return False
    return const % step == 0 if step else const == 0


def _congruent(p: Span, q: Span, shift: Shift, extents: Extents, slots: int) -> bool:
    const, _, _, step = _difference(p, q, shift, extents)
    return const % gcd(step, slots) == 0


def _slots_meet(
    p: Span, q: Span, shift: Shift, extents: Extents, counts: tuple[int, int], pairs: Pairs
) -> bool:
    """Whether slots of two different buffers that share bytes can be live at the two ends."""
    names = sorted(p.base.names | q.base.names)
    if p.step or q.step or not all(isinstance(shift.get(name), int) for name in names):
        return True
    ranges = [range(min(extents[name], counts[0] * counts[1])) for name in names]
    size = 1
    for r in ranges:
        size *= len(r)
    if size > _ENUMERABLE:
        return True
    for point in product(*ranges):
        now = dict(zip(names, point, strict=True))
        later = {name: value + _fixed(shift, name) for name, value in now.items()}
        if (p.base.evaluate(now) % counts[0], q.base.evaluate(later) % counts[1]) in pairs:
            return True
    return False


def _shared_slots(program: Program, machine: Machine) -> dict[tuple[str, str], Pairs]:
    """For pairs of different buffers the pairs of slots whose planned ranges share bytes."""
    found: dict[tuple[str, str], Pairs] = {}
    planned = [b for b in program.buffers if b.offsets]
    size = {b.name: slot_size(machine, b) for b in planned}
    ends = {b.name: (min(b.offsets), max(b.offsets) + size[b.name]) for b in planned}
    for i, a in enumerate(planned):
        low, high = ends[a.name]
        for b in planned[i + 1 :]:
            first, last = ends[b.name]
            if low >= last or first >= high or (a.space, a.kind, a.lender) != (b.space, b.kind, b.lender):
                continue
            pairs = _sharing(a, b, size)
            if pairs:
                found[a.name, b.name] = frozenset(pairs)
                found[b.name, a.name] = frozenset((j, i) for i, j in pairs)
    return found


def _sharing(a: Buffer, b: Buffer, size: Mapping[str, int]) -> list[tuple[int, int]]:
    size_a, size_b = size[a.name], size[b.name]
    return [
        (i, j)
        for i, x in enumerate(a.offsets)
        for j, y in enumerate(b.offsets)
        if x < y + size_b and y < x + size_a
    ]
