"""The entry of a program: runs its phases in order, each alone or shared among the threads of an OpenMP team.

One function per entry computes a thread's share of the current phase; what it needs travels in a context:
the pointers of every phase, then the phase's number and extent, then the two OpenMP queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from opc.cpu.function import Function, Module

QUERIES = 2  # omp_get_thread_num, omp_get_num_threads; GOMP_parallel precedes them in the runtime's table


def emit(module: Module, symbol: str, pointers: int, phases: Sequence[tuple[str, int]], scratch: int) -> None:
    """Add ``symbol(arguments, packed, workspace, scratch, threads, runtime)``.

    ``pointers`` counts what each phase takes before its range: the arguments and the three blobs, of which the
    last, ``scratch`` bytes per thread, starts at another place for each thread.
    """
    _share(module, symbol, pointers, phases, scratch)
    if any(extent > 1 for _, extent in phases):
        _team(module, symbol, pointers)
    _entry(module, symbol, pointers, phases)


def _field(f: Function, base: str, index: int) -> str:
    return f.op(f"getelementptr ptr, ptr {base}, i64 {index}") if index else base


def _load(f: Function, type_: str, base: str, index: int) -> str:
    return f.op(f"load {type_}, ptr {_field(f, base, index)}, align 8")


def _share(
    module: Module, symbol: str, pointers: int, phases: Sequence[tuple[str, int]], scratch: int
) -> None:
    """``share(context, thread, team)``: this thread's iterations of the current phase."""
    f = Function(module, f"{symbol}.share", "ptr %context, i64 %thread, i64 %team", linkage="internal")
    values = [_load(f, "ptr", "%context", i) for i in range(pointers)]
    phase, extent = (_load(f, "i64", "%context", pointers + i) for i in range(2))
    begin = f.op(f"udiv i64 {f.op(f'mul i64 %thread, {extent}')}, %team")
    after = f.op("add i64 %thread, 1")
    end = f.op(f"udiv i64 {f.op(f'mul i64 {after}, {extent}')}, %team")
    values[-1] = f.op(f"getelementptr i8, ptr {values[-1]}, i64 {f.op(f'mul i64 %thread, {scratch}')}")
    passed = ", ".join(f"ptr {v}" for v in values)
    cases = " ".join(f"i64 {n}, label %phase{n}" for n in range(len(phases)))
    f.do(f"switch i64 {phase}, label %done [ {cases} ]")
    for n, (name, _) in enumerate(phases):
        f.do(f"\nphase{n}:")
        f.do(f"call void @{name}({passed}, i64 {begin}, i64 {end})")
        f.do("br label %done")
    f.do("\ndone:")
    f.finish()


def _team(module: Module, symbol: str, pointers: int) -> None:
    """``team(context)``: what every thread of a team runs."""
    f = Function(module, f"{symbol}.team", "ptr %context", linkage="internal")
    found = []
    for i in range(QUERIES):
        query = _load(f, "ptr", "%context", pointers + 2 + i)
        found.append(f.op(f"zext i32 {f.op(f'call i32 {query}()')} to i64"))
    f.do(f"call void @{symbol}.share(ptr %context, i64 {found[0]}, i64 {found[1]})")
    f.finish()


def _entry(module: Module, symbol: str, pointers: int, phases: Sequence[tuple[str, int]]) -> None:
    blobs = ("%packed", "%workspace", "%scratch")
    f = Function(
        module, symbol, f"ptr %arguments, {', '.join(f'ptr {b}' for b in blobs)}, i32 %threads, ptr %runtime"
    )
    context = f.alloca("ptr", pointers + 2 + QUERIES, 8)
    values = [_load(f, "ptr", "%arguments", i) for i in range(pointers - len(blobs))]
    for i, value in enumerate((*values, *blobs)):
        f.do(f"store ptr {value}, ptr {_field(f, context, i)}, align 8")
    many = f.op("icmp ugt i32 %threads, 1")

    def queries() -> None:
        for i in range(QUERIES):
            query = _load(f, "ptr", "%runtime", 1 + i)
            f.do(f"store ptr {query}, ptr {_field(f, context, pointers + 2 + i)}, align 8")

    if any(extent > 1 for _, extent in phases):
        f.branch(many, queries)
    for number, (_, extent) in enumerate(phases):
        f.do(f"store i64 {number}, ptr {_field(f, context, pointers)}, align 8")
        f.do(f"store i64 {extent}, ptr {_field(f, context, pointers + 1)}, align 8")
        _phase(f, symbol, extent, context, many)
    f.finish()


def _phase(f: Function, symbol: str, extent: int, context: str, many: str) -> None:
    def alone() -> None:
        f.do(f"call void @{symbol}.share(ptr {context}, i64 0, i64 1)")

    def team() -> None:
        parallel = f.op("load ptr, ptr %runtime, align 8")
        size = f.call("llvm.umin.i32", "i32", ["%threads", str(extent)], ["i32", "i32"])
        f.do(f"call void {parallel}(ptr @{symbol}.team, ptr {context}, i32 {size}, i32 0)")

    if extent == 1:
        alone()
    else:
        f.branch(many, team, alone)
