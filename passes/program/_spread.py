"""Even spacing: vector work among multiplications, where one stream of instructions feeds all pipes.

What overlaps is what stands close together, so no pipe may get its work in a burst: each run of vector work is
spread over the run of other statements in front of it, in proportion to the time that both take.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from math import prod

from opc.machine.model import Machine
from opc.program.cost import cycles
from opc.program.dependence import Dependences, touches
from opc.program.ir import Instr, Loop, Program, Stmt, instructions
from opc.program.pipes import pipe_of


def spread(program: Program, machine: Machine) -> Program:
    """Every body in an order that keeps its dependences and no pipe waiting for long."""
    spreader = _Spreader(program, machine)
    body = tuple(spreader.inside(s, ()) for s in program.body)
    return program if body == program.body else program.with_body(body)


Names = tuple[
    frozenset[str], frozenset[str]
]  # buffers that a statement reads and writes, and those that share bytes


class _Spreader:
    def __init__(self, program: Program, machine: Machine) -> None:
        self.machine = machine
        self.table = program.table()
        self.known = Dependences(program, machine)
        self.costs: dict[tuple[object, ...], tuple[str, float]] = {}

    def inside(self, stmt: Stmt, loops: tuple[Loop, ...]) -> Stmt:
        if isinstance(stmt, Instr):
            return stmt
        body = [self.inside(s, (*loops, stmt)) for s in stmt.body]
        busy = [self.busy(s) for s in body]
        vector, cube = self.machine.vector_pipe, self.machine.cube_pipe
        if any(vector in b for b in busy) and any(cube in b for b in busy):
            order = self.order(body, busy, (*loops, stmt))
            return replace(stmt, body=tuple(body[j] for j in order))
        return replace(stmt, body=tuple(body))

    def busy(self, stmt: Stmt) -> dict[str, float]:
        """How long a statement holds each pipe."""
        found: dict[str, float] = {}
        for instr, loops in instructions((stmt,)):
            pipe, time = self.cost(instr)
            found[pipe] = found.get(pipe, 0.0) + time * prod(loop.extent for loop in loops)
        return found

    def cost(self, instr: Instr) -> tuple[str, float]:
        """Pipe and time; unrolled copies of an instruction are alike."""
        key = (instr.opcode, instr.dims, *(a.buffer for a in (*instr.dst, *instr.sources)))
        if key not in self.costs:
            busy = cycles(instr, self.table, self.machine).occupancy
            self.costs[key] = pipe_of(instr, self.table, self.machine), busy
        return self.costs[key]

    def order(self, body: list[Stmt], busy: list[dict[str, float]], loops: tuple[Loop, ...]) -> list[int]:
        vector, cube = self.machine.vector_pipe, self.machine.cube_pipe
        # A loop that does both has its order already, and nothing passes it.
        groups = [2 if vector in b and cube in b else int(vector in b) for b in busy]
        names = [self.names(s) for s in body]
        before = self.before(body, groups, names, loops)
        products = {j for j, s in enumerate(body) if isinstance(s, Loop) or s.opcode_class == "cube"}
        times = [b.get(vector if g else cube, 0.0) for b, g in zip(busy, groups, strict=True)]
        order: list[int] = []
        row: list[int] = []
        for works, run in groupby(range(len(body)), key=lambda j: groups[j]):
            if works == 1:
                order += _merged(row, list(run), times, before)
                row = []
            elif works:
                order += [*row, *run]
                row = []
            else:
                row = list(run)
                row = _just_in_time(row, products | _final(body, row), names)
        return order + row

    def names(self, stmt: Stmt) -> Names:
        reads: set[str] = set()
        writes: set[str] = set()
        for instr, _ in instructions((stmt,)):
            writes.update([a.buffer for a in instr.dst])
            reads.update([a.buffer for a in instr.sources])
        aliases = self.known.aliases
        return (
            frozenset([a for n in reads for a in aliases(n)]),
            frozenset([a for n in writes for a in aliases(n)]),
        )

    def before(
        self, body: list[Stmt], groups: list[int], names: list[Names], loops: tuple[Loop, ...]
    ) -> list[set[int]]:
        """What each statement must follow of the other group; only buffers that both touch matter."""
        touched = [
            frozenset[str]().union(
                *{x for pair, g in zip(names, groups, strict=True) if g == n for x in pair}
            )
            for n in (0, 1)
        ]
        common = touched[0] & touched[1]
        nodes = [touches(s, common) if g < 2 else () for s, g in zip(body, groups, strict=True)]
        found: list[set[int]] = [set() for _ in body]
        for d in self.known.between(nodes, loops, 0, groups):
            found[d.target].add(d.source)
        return found


def _merged(
    row: list[int], vector: list[int], busy: Sequence[float], before: Sequence[set[int]]
) -> list[int]:
    """The row with the vector statements among it: evenly from where the first of them may stand."""
    place = {j: n + 1 for n, j in enumerate(row)}
    ends = [0.0, *accumulate(busy[j] for j in row)]
    least = [max((place[k] for k in before[j] if k in place), default=0) for j in vector]
    total = sum(busy[j] for j in vector) or 1.0
    start, done = ends[least[0]], 0.0
    behind: list[list[int]] = [[] for _ in ends]
    at = 0
    for j, low in zip(vector, least, strict=True):
        due = start + (ends[-1] - start) * (done + busy[j] / 2) / total
        done += busy[j]
        at = max(at, low, min(bisect_left(ends, due), len(row)))
        behind[at].append(j)
    order = behind[0]
    for j, following in zip(row, behind[1:], strict=True):
        order += [j, *following]
    return order


def _final(body: Sequence[Stmt], row: list[int]) -> set[int]:
    """Drains that the same accumulators' next sums do not follow: nothing else may come between such a drain and
    its sum, whose registers may be given other shapes behind it.
    """
    found: set[int] = set()
    follows: set[str] = set()
    for j in reversed(row):
        stmt = body[j]
        if not isinstance(stmt, Instr):
            follows = set()
        elif stmt.opcode_class != "scale":
            follows = {a.buffer for a in stmt.dst}
        elif not follows & _drained(body, row, j):
            found.add(j)
    return found


def _drained(body: Sequence[Stmt], row: list[int], last: int) -> set[str]:
    """Accumulators of the run of drains that ``last`` belongs to."""
    at = row.index(last)
    found: set[str] = set()
    for step in (-1, 1):
        n = at
        while 0 <= n < len(row) and isinstance(stmt := body[row[n]], Instr) and stmt.opcode_class == "scale":
            found |= {a.buffer for a in stmt.sources}
            n += step
    return found


def _just_in_time(row: list[int], products: set[int], names: Sequence[Names]) -> list[int]:
    """The row with loads, drains and zeros directly before the first product that they may not pass."""
    order: list[int] = []
    waiting: list[int] = []
    for j in row:
        if j not in products:
            waiting.append(j)
            continue
        due = _due(waiting, j, names)
        order += [*due, j]
        waiting = [k for k in waiting if k not in due]
    return order + waiting


def _due(waiting: Sequence[int], j: int, names: Sequence[Names]) -> list[int]:
    """Those waiting that must precede ``j``, and those that must precede these."""
    due: list[int] = []
    for k in reversed(waiting):
        if any(names[k][1] & (names[t][0] | names[t][1]) or names[k][0] & names[t][1] for t in (j, *due)):
            due.insert(0, k)
    return due
