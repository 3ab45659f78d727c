"""The entry of a program: runs its phases in order, each alone or shared among the threads of an OpenMP team.

What a thread of a team needs travels in a context: the pointers that every phase takes, the phase's number and
extent, then the two OpenMP queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from opc.cpu.function import Function, Module

QUERIES = 2  # omp_get_thread_num, omp_get_num_threads; GOMP_parallel precedes them in the runtime's table
BLOBS = 3


def emit(
    module: Module, symbol: str, names: Sequence[str], extents: Sequence[int], scratch: int | None
) -> None:
    """Add ``symbol(arguments, packed, workspace, scratch, threads, runtime)`` around ``symbol.body``.

    ``names`` are what the body takes before a phase and its range: the arguments and the three blobs, of which
    the last, ``scratch`` bytes per thread, starts at another place for each thread. Without ``scratch`` no
    phase is shared.
    """
    if scratch is not None:
        _team(module, symbol, len(names), scratch)
    _entry(module, symbol, names, extents, scratch is not None)


def _field(f: Function, base: str, index: int) -> str:
    return f.op(f"getelementptr ptr, ptr {base}, i64 {index}") if index else base


def _load(f: Function, type_: str, base: str, index: int) -> str:
    return f.op(f"load {type_}, ptr {_field(f, base, index)}, align 8")


def _team(module: Module, symbol: str, pointers: int, scratch: int) -> None:
    """``team(context)``: what every thread of a team runs, its share of the current phase."""
    f = Function(module, f"{symbol}.team", "ptr %context", linkage="internal")
    values = [_load(f, "ptr", "%context", i) for i in range(pointers)]
    phase, extent = (_load(f, "i64", "%context", pointers + i) for i in range(2))
    queries = [_load(f, "ptr", "%context", pointers + 2 + i) for i in range(QUERIES)]
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


def _entry(module: Module, symbol: str, names: Sequence[str], extents: Sequence[int], shared: bool) -> None:
    blobs = names[-BLOBS:]
    f = Function(
        module, symbol, f"ptr %arguments, {', '.join(f'ptr {b}' for b in blobs)}, i32 %threads, ptr %runtime"
    )
    pointers = [*(_load(f, "ptr", "%arguments", i) for i in range(len(names) - BLOBS)), *blobs]
    if not shared:
        for number, extent in enumerate(extents):
            _call(f, symbol, pointers, str(number), "0", str(extent))
        f.finish()
        return
    context = f.alloca("ptr", len(names) + 2 + QUERIES, 8)
    many = f.op("icmp ugt i32 %threads, 1")
    f.branch(many, lambda: _fill(f, context, pointers))
    for number, extent in enumerate(extents):
        _phase(f, symbol, pointers, (number, extent), context, many)
    f.finish()


def _fill(f: Function, context: str, pointers: Sequence[str]) -> None:
    """Everything in the context that stays the same from phase to phase."""
    for i, value in enumerate(pointers):
        f.do(f"store ptr {value}, ptr {_field(f, context, i)}, align 8")
    for i in range(QUERIES):
        query = _load(f, "ptr", "%runtime", 1 + i)
        f.do(f"store ptr {query}, ptr {_field(f, context, len(pointers) + 2 + i)}, align 8")


def _phase(
    f: Function, symbol: str, pointers: Sequence[str], phase: tuple[int, int], context: str, many: str
) -> None:
    number, extent = phase

    def alone() -> None:
        _call(f, symbol, pointers, str(number), "0", str(extent))

    def team() -> None:
        f.do(f"store i64 {number}, ptr {_field(f, context, len(pointers))}, align 8")
        f.do(f"store i64 {extent}, ptr {_field(f, context, len(pointers) + 1)}, align 8")
        parallel = f.op("load ptr, ptr %runtime, align 8")
        size = f.call("llvm.umin.i32", "i32", ["%threads", str(extent)], ["i32", "i32"])
        f.do(f"call void {parallel}(ptr @{symbol}.team, ptr {context}, i32 {size}, i32 0)")

    if extent == 1:
        alone()
    else:
        f.branch(many, team, alone)
