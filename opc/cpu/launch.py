"""The entry of a program: runs its phases in order, each alone or shared among the threads of an OpenMP team.

What a thread of a team needs travels in a context: the pointers that every phase takes, the phase's number, extent
and scratch per thread, then the two OpenMP queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from opc.cpu.executable import Need
from opc.cpu.function import Function, Module

QUERIES = 2  # omp_get_thread_num, omp_get_num_threads; GOMP_parallel precedes them in the runtime's table
BLOBS = 3
_NUMBERS = 3


def emit(
    module: Module,
    symbol: str,
    names: Sequence[str],
    extents: Sequence[int],
    needs: Sequence[Need],
    lenders: int,
    shared: bool,
) -> None:
    """Add ``symbol(arguments, packed, workspace, scratch, threads, runtime)`` around ``symbol.body``.

    ``names`` are what the body takes before a phase and its range: the arguments, the memory of ``lenders`` and the
    three blobs, of which the last, scratch, starts at another place for each thread. Unless ``shared`` no phase is
    for a team.
    """
    if shared:
        _team(module, symbol, len(names))
    _entry(module, symbol, names, extents, needs, lenders, shared)


def _field(f: Function, base: str, index: int) -> str:
    return f.op(f"getelementptr ptr, ptr {base}, i64 {index}") if index else base


def _load(f: Function, type_: str, base: str, index: int) -> str:
    return f.op(f"load {type_}, ptr {_field(f, base, index)}, align 8")


def _team(module: Module, symbol: str, pointers: int) -> None:
    """``team(context)``: what every thread of a team runs, its share of the current phase."""
    f = Function(module, f"{symbol}.team", "ptr %context", linkage="internal")
    values = [_load(f, "ptr", "%context", i) for i in range(pointers)]
    phase, extent, scratch = (_load(f, "i64", "%context", pointers + i) for i in range(_NUMBERS))
    queries = [_load(f, "ptr", "%context", pointers + _NUMBERS + i) for i in range(QUERIES)]
    thread, team = (f.op(f"zext i32 {f.op(f'call i32 {query}()')} to i64") for query in queries)
    begin = f.op(f"udiv i64 {f.op(f'mul i64 {thread}, {extent}')}, {team}")
    after = f.op(f"add i64 {thread}, 1")
    end = f.op(f"udiv i64 {f.op(f'mul i64 {after}, {extent}')}, {team}")
    values[-1] = f.op(f"getelementptr i8, ptr {values[-1]}, i64 {f.op(f'mul i64 {thread}, {scratch}')}")
    _call(f, symbol, values, phase, begin, end)
    f.finish()


def _call(f: Function, symbol: str, pointers: Sequence[str], phase: str, begin: str, end: str) -> None:
    passed = ", ".join(f"ptr {p}" for p in pointers)
    f.do(f"call void @{symbol}.body({passed}, i64 {phase}, i64 {begin}, i64 {end})")


def _entry(
    module: Module,
    symbol: str,
    names: Sequence[str],
    extents: Sequence[int],
    needs: Sequence[Need],
    lenders: int,
    shared: bool,
) -> None:
    blobs = names[-BLOBS:]
    f = Function(
        module, symbol, f"ptr %arguments, {', '.join(f'ptr {b}' for b in blobs)}, i32 %threads, ptr %runtime"
    )
    given = len(names) - BLOBS
    pointers = [*(_load(f, "ptr", "%arguments", i) for i in range(given)), *blobs]
    rooms = [_load(f, "i64", "%arguments", given + i) for i in range(lenders)]
    lent = list(zip(pointers[given - lenders : given], rooms, strict=True))
    context = f.alloca("ptr", len(names) + _NUMBERS + QUERIES, 8) if shared else ""
    many = f.op("icmp ugt i32 %threads, 1") if shared else ""
    if shared:
        f.branch(many, lambda: _fill(f, context, pointers))
    for number, (extent, need) in enumerate(zip(extents, needs, strict=True)):
        here = [*pointers[:-1], _scratch(f, need, lent, pointers[-1])]
        if shared:
            _phase(f, symbol, here, (number, extent, need.scratch), context, many)
        else:
            _call(f, symbol, here, str(number), "0", str(extent))
    f.finish()


def _scratch(f: Function, need: Need, lent: Sequence[tuple[str, str]], own: str) -> str:
    """Where the scratch of a phase begins: in the memory of a result, if that has room for all threads'."""
    if need.lender < 0:
        return own
    place, room = lent[need.lender]
    team = f.call("llvm.umin.i32", "i32", ["%threads", str(need.extent)], ["i32", "i32"])
    size = f.op(f"mul i64 {f.op(f'zext i32 {team} to i64')}, {need.scratch}")
    fits = f.op(f"icmp ule i64 {f.op(f'add i64 {size}, {need.start}')}, {room}")
    inside = f.op(f"getelementptr i8, ptr {place}, i64 {need.start}")
    return f.op(f"select i1 {fits}, ptr {inside}, ptr {own}")


def _fill(f: Function, context: str, pointers: Sequence[str]) -> None:
    """Everything in the context that stays the same from phase to phase."""
    for i, value in enumerate(pointers):
        f.do(f"store ptr {value}, ptr {_field(f, context, i)}, align 8")
    for i in range(QUERIES):
        query = _load(f, "ptr", "%runtime", 1 + i)
        f.do(f"store ptr {query}, ptr {_field(f, context, len(pointers) + _NUMBERS + i)}, align 8")


def _phase(
    f: Function, symbol: str, pointers: Sequence[str], phase: tuple[int, int, int], context: str, many: str
) -> None:
    number, extent, _ = phase

    def alone() -> None:
        _call(f, symbol, pointers, str(number), "0", str(extent))

    def team() -> None:
        f.do(f"store ptr {pointers[-1]}, ptr {_field(f, context, len(pointers) - 1)}, align 8")
        for i, value in enumerate(phase):
            f.do(f"store i64 {value}, ptr {_field(f, context, len(pointers) + i)}, align 8")
        parallel = f.op("load ptr, ptr %runtime, align 8")
        size = f.call("llvm.umin.i32", "i32", ["%threads", str(extent)], ["i32", "i32"])
        f.do(f"call void {parallel}(ptr @{symbol}.team, ptr {context}, i32 {size}, i32 0)")

    if extent == 1:
        alone()
    else:
        f.branch(many, team, alone)
