"""Ahead of time: objects, shared objects, headers, assembly and LLVM text with the C interface.

    size_t opc_K_packed_size(void);      int opc_K_prepare(params…, packed);
    size_t opc_K_workspace_size(void);   int opc_K_run(inputs…, packed, outputs…, workspace);

The two functions return 0, or a code of ``opc.cpu.cpuid`` that the header declares. ``run`` uses OpenMP
threads where the program is linked with a runtime (the symbols are weak), at most as many as the workspace
has room for.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from opc.cpu import cpuid, handed, jit
from opc.cpu.emit import Entry
from opc.cpu.kernel import Unit, point
from opc.errors import RuntimeCallError, fail
from opc.program.ir import Buffer

MOST_THREADS = 64
ALIGNMENT = 64  # of packed and workspace
SAVED = handed.SAVED
PACKED, WORKSPACE = "packed.", "workspace."  # no tensor has such a name
_HEAP = ("declare ptr @aligned_alloc(i64, i64)", "declare void @free(ptr)")  # emitted code may use them too
_WEAK = """\
declare extern_weak void @GOMP_parallel(ptr, ptr, i32, i32)
declare extern_weak i32 @omp_get_thread_num()
declare extern_weak i32 @omp_get_num_threads()
declare extern_weak i32 @omp_get_max_threads()
@opc.runtime = private constant [3 x ptr] [
  ptr @GOMP_parallel, ptr @omp_get_thread_num, ptr @omp_get_num_threads
]
"""


def most_threads(unit: Unit) -> int:
    """Threads that a call uses at most: its workspace has room for no more."""
    return min(MOST_THREADS, unit.run.width)


def rounded(size: int) -> int:
    """Bytes to ask ``aligned_alloc`` for, which takes whole multiples and should not be asked for none."""
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


def packed_size(unit: Unit) -> int:
    """What ``opc_K_packed_size`` returns."""
    return rounded(unit.packed_size)


def workspace_size(unit: Unit) -> int:
    """What ``opc_K_workspace_size`` returns."""
    return rounded(unit.workspace_size(most_threads(unit)))


def run_order(unit: Unit) -> list[str]:
    """C parameters of run, in order; what passes between the kernels of a pair is in one buffer."""
    inside = handed.inside(unit.half)
    seen = [b for b in unit.run.arguments if b.name not in inside]
    before = [b.name for b in seen if b.kind != "output"]
    before += [n for n in handed.noted(unit.half) if n not in {b.name for b in seen}]
    after = [b.name for b in seen if b.kind == "output"]
    if unit.half is None:
        return [*before, PACKED, *after, WORKSPACE]
    if unit.half.is_forward:
        return [*before, PACKED, *after, SAVED, WORKSPACE]
    return [SAVED, *before, PACKED, *after, WORKSPACE]


def llvm_text(unit: Unit) -> str:
    """The unit with the C interface around it, before optimisation."""
    text = unit.text.replace(f"define void @{unit.run.symbol}(", f"define internal void @{unit.run.symbol}(")
    if unit.prepare:
        text = text.replace(
            f"define void @{unit.prepare.symbol}(", f"define internal void @{unit.prepare.symbol}("
        )
    prefix = f"opc_{unit.name}"
    parts = [
        text,
        _WEAK,
        *(line for line in _HEAP if line not in text),
        cpuid.check(unit.target.triple, unit.target.features),
        _size(f"{prefix}_packed_size", packed_size(unit)),
        _size(f"{prefix}_workspace_size", workspace_size(unit)),
        _prepare(unit, prefix),
        _run(unit, prefix),
    ]
    if unit.half is not None:
        # Both kernels of a pair have it, so that either can be linked alone, and both together.
        parts.append(_size(f"opc_{unit.half.pair}_saved_size", unit.half.saved.size, "weak "))
    return "\n".join(parts)


def _size(name: str, value: int, linkage: str = "") -> str:
    return f"define {linkage}i64 @{name}() {{\n  ret i64 {value}\n}}\n"


def _pass_arguments(entry: Entry) -> list[str]:
    """Text that stores the C parameters into the entry's array. What results could lend lies in the workspace, because
    C callers need not align results.
    """
    *places, _ = point(entry).places(0, ())
    values = [f"%p.{b.name}" for b in entry.arguments]
    lines = [f"  %array = alloca [{len(values) + len(places) + 1} x ptr], align 8"]
    for i, offset in enumerate(places[: len(entry.lenders)]):
        values.append(f"%lent{i}")
        lines.append(f"  %lent{i} = getelementptr i8, ptr %p.{WORKSPACE}, i64 {offset}")
    values += ["null" for _ in entry.lenders]
    for i, value in enumerate(values):
        lines.append(f"  %slot{i} = getelementptr ptr, ptr %array, i64 {i}")
        lines.append(f"  store ptr {value}, ptr %slot{i}, align 8")
    return lines


def _function(name: str, pointers: Mapping[str, int], body: Sequence[str]) -> str:
    """A function of the C interface: ``pointers`` and what each must be aligned to, and what it does with them."""
    listed = ", ".join(f"ptr %p.{p}" for p in pointers)
    head = [f"define i32 @{name}({listed}) {{", "entry:", "  %able = call i32 @opc.able()"]
    head += [f"  %lacks = icmp ne i32 %able, {cpuid.OK}", "  br i1 %lacks, label %lacking, label %check"]
    head += ["lacking:", "  ret i32 %able", "check:"]
    wrong = "false"
    for i, (pointer, align) in enumerate(pointers.items()):
        head += [
            f"  %i{i} = ptrtoint ptr %p.{pointer} to i64",
            f"  %o{i} = and i64 %i{i}, {align - 1}",
            f"  %u{i} = icmp ne i64 %o{i}, 0",
            f"  %z{i} = icmp eq i64 %i{i}, 0",
            f"  %w{i} = or i1 %u{i}, %z{i}",
            f"  %a{i} = or i1 {wrong}, %w{i}",
        ]
        wrong = f"%a{i}"
    head += [f"  br i1 {wrong}, label %refuse, label %go", "refuse:", f"  ret i32 {cpuid.BAD_POINTER}", "go:"]
    return "\n".join([*head, *body, f"  ret i32 {cpuid.OK}", "}", ""])


def _pointers(order: Sequence[str], arguments: Sequence[Buffer]) -> dict[str, int]:
    """What each C parameter must be aligned to."""
    elements = {b.name: b.dtype.bytes for b in arguments}
    return {name: elements.get(name, ALIGNMENT) for name in order}


def _prepare(unit: Unit, prefix: str) -> str:
    entry = unit.prepare
    if entry is None:
        return _function(f"{prefix}_prepare", {PACKED: ALIGNMENT}, [])
    shared = entry.layout.workspace
    body = _pass_arguments(entry)
    body += [
        f"  %own = call ptr @aligned_alloc(i64 {ALIGNMENT}, i64 {rounded(shared + point(entry).scratch(1, False))})",
        "  %none = icmp eq ptr %own, null",
        "  br i1 %none, label %full, label %start",
        "full:",
        f"  ret i32 {cpuid.NO_MEMORY}",
        "start:",
        f"  %scratch = getelementptr i8, ptr %own, i64 {shared}",
        f"  call void @{entry.symbol}(ptr %array, ptr %p.{PACKED}, ptr %own, ptr %scratch, i32 1, ptr null)",
        "  call void @free(ptr %own)",
    ]
    order = [*(b.name for b in entry.arguments), PACKED]
    return _function(f"{prefix}_prepare", _pointers(order, entry.arguments), body)


def _run(unit: Unit, prefix: str) -> str:
    entry = unit.run
    shared = point(entry).shared(lent=False)
    body = [*handed.text(unit.half), *_pass_arguments(entry)]
    body += [
        f"  %scratch = getelementptr i8, ptr %p.{WORKSPACE}, i64 {shared}",
        "  %linked = icmp ne ptr @GOMP_parallel, null",
        "  br i1 %linked, label %team, label %start",
        "team:",
        "  %asked = call i32 @omp_get_max_threads()",
        f"  %fits = icmp ult i32 %asked, {most_threads(unit)}",
        f"  %most = select i1 %fits, i32 %asked, i32 {most_threads(unit)}",
        "  br label %start",
        "start:",
        "  %threads = phi i32 [ 1, %go ], [ %most, %team ]",
        f"  call void @{entry.symbol}(ptr %array, ptr %p.{PACKED}, ptr %p.{WORKSPACE}, ptr %scratch, "
        "i32 %threads, ptr @opc.runtime)",
    ]
    return _function(f"{prefix}_run", _pointers(run_order(unit), entry.arguments), body)


def emit_object(unit: Unit) -> bytes:
    """A relocatable object; the same input gives the same bytes."""
    return jit.object_code(llvm_text(unit), unit.target)


def emit_assembly(unit: Unit) -> str:
    """The same code as text."""
    return jit.assembly(llvm_text(unit), unit.target)


def emit_llvm(unit: Unit) -> str:
    """Optimised LLVM text."""
    return jit.optimised_text(llvm_text(unit), unit.target)


def c_compiler(triple: str) -> str | None:
    """The compiler that links for a processor: CC, else the system's, else a cross compiler of the usual name."""
    family = triple.partition("-")[0]
    if family == platform.machine() or not family:
        return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    return os.environ.get("CC") or shutil.which(f"{family}-linux-gnu-gcc")


def link(objects: Sequence[bytes], output: Path, extra: Sequence[str] = (), triple: str = "") -> None:
    """Link objects into a shared object with the system's C compiler. Raises RuntimeCallError (E0953)."""
    compiler = c_compiler(triple)
    if compiler is None:
        wanted = f"no C compiler for {triple} found" if triple else "no C compiler found"
        raise fail(RuntimeCallError, "E0953", wanted, help="install gcc, or set CC")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, data in enumerate(objects):
            path = Path(folder) / f"{i}.o"
            path.write_bytes(data)
            paths.append(str(path))
        made = Path(folder) / "out.so"
        command = [*compiler.split(), "-shared", "-o", str(made), *paths, *extra]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        except OSError as problem:
            raise fail(RuntimeCallError, "E0953", f"cannot run '{compiler}': {problem.strerror}") from None
        if done.returncode:
            raise fail(RuntimeCallError, "E0953", f"'{compiler}' failed: {done.stderr.strip()[:400]}")
        # Moved into place in one step, so that nobody sees half a file.
        staged = output.with_name(output.name + ".part")
        shutil.copyfile(made, staged)
        staged.chmod(0o755)
        os.replace(staged, output)
