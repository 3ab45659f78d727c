"""Even spacing: vector work among multiplications, where one stream of instructions feeds all pipes.

What overlaps is what stands close together, so no pipe may get its work in a burst: each run of vector work is
spread over the run of other statements in front of it, in proportion to the time that both take.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby

from opc.machine.model import Machine
from opc.program.dependence import Dependences, touches
from opc.program.estimate import Unit
from opc.program.ir import Loop, Stmt


def spread(
    body: Sequence[Stmt], units: Sequence[Unit], loops: Sequence[Loop], known: Dependences, machine: Machine
) -> list[int]:
    """An order of the statements that keeps their dependences; the given one where nothing can be spread."""
    given = range(len(body))
    is_vector = [machine.vector_pipe in unit.names for unit in units]
    if not any(is_vector) or not any(machine.cube_pipe in unit.names for unit in units):
        return list(given)
    before: list[set[int]] = [set() for _ in given]
    for d in known.between([touches(s) for s in body], loops, 0, [int(v) for v in is_vector]):
        before[d.target].add(d.source)
    products = {j for j, s in enumerate(body) if isinstance(s, Loop) or s.opcode_class == "cube"}
    busy = [
        _busy(unit, machine.vector_pipe if v else machine.cube_pipe)
        for unit, v in zip(units, is_vector, strict=True)
    ]
    order: list[int] = []
    row: list[int] = []
    for vector, run in groupby(given, key=lambda j: is_vector[j]):
        if vector:
            order += _merged(row, list(run), busy, before)
            row = []
        else:
            row = _just_in_time(body, list(run), products, known)
    return order + row


def _busy(unit: Unit, pipe: str) -> float:
    return sum(end - begin for name, begin, end in unit.pipes if name == pipe)


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


def _just_in_time(body: Sequence[Stmt], row: list[int], products: set[int], known: Dependences) -> list[int]:
    """The row with loads, drains and zeros directly before the first product that they may not pass."""
    names = {j: _names(body[j], known) for j in row}
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


Names = tuple[frozenset[str], frozenset[str]]  # what a statement reads, what it writes


def _due(waiting: Sequence[int], j: int, names: dict[int, Names]) -> list[int]:
    """Those waiting that must precede ``j``, and those that must precede these."""
    due: list[int] = []
    for k in reversed(waiting):
        if any(names[k][1] & (names[t][0] | names[t][1]) or names[k][0] & names[t][1] for t in (j, *due)):
            due.insert(0, k)
    return due


def _names(stmt: Stmt, known: Dependences) -> Names:
    """Buffers that a statement reads and writes, with those that share their bytes."""
    found = touches(stmt)
    return (
        _with_aliases((t.buffer for t in found if t.reads), known),
        _with_aliases((t.buffer for t in found if t.writes), known),
    )


def _with_aliases(names: Iterable[str], known: Dependences) -> frozenset[str]:
    return frozenset(alias for name in names for alias in known.aliases(name))
