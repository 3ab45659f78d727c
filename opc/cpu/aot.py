"""Ahead of time: objects, shared objects, headers, assembly and LLVM text with the C interface.

    size_t opc_K_packed_size(void);      int opc_K_prepare(params…, packed);
    size_t opc_K_workspace_size(void);   int opc_K_run(inputs…, packed, outputs…, workspace);

The two functions return 0, or 1 if the processor lacks what the code needs. ``run`` uses OpenMP threads
where the program is linked with a runtime (the symbols are weak), at most as many as the workspace has
room for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from opc.cpu import cpuid, jit
from opc.cpu.emit import Entry
from opc.cpu.kernel import Unit
from opc.dtypes import DType
from opc.errors import RuntimeCallError, fail
from opc.program.ir import Buffer
from opc.tensor.ir import Tensor

MOST_THREADS = 64
_PACKED, _WORKSPACE = "packed.", "workspace."  # no tensor has such a name
_C_TYPES = {
    DType.F64: "double",
    DType.F32: "float",
    DType.F16: "uint16_t",
    DType.BF16: "uint16_t",
    DType.I32: "int32_t",
    DType.I8: "int8_t",
}
_C_KEYWORDS = frozenset((
    "auto", "break", "case", "char", "class", "const", "continue", "default", "delete", "do", "double",
    "else", "enum", "extern", "float", "for", "friend", "goto", "if", "inline", "int", "long",
    "namespace", "new", "operator", "private", "protected", "public", "register", "restrict", "return",
    "short", "signed", "sizeof", "static", "struct", "switch", "template", "this", "throw", "try",
    "typedef", "union", "unsigned", "using", "virtual", "void", "volatile", "while",
))  # fmt: skip
_HEAP = ("declare ptr @malloc(i64)", "declare void @free(ptr)")  # emitted code may use them too
_WEAK = """\
declare extern_weak void @GOMP_parallel(ptr, ptr, i32, i32)
declare extern_weak i32 @omp_get_thread_num()
declare extern_weak i32 @omp_get_num_threads()
declare extern_weak i32 @omp_get_max_threads()
@opc.runtime = private constant [3 x ptr] [
  ptr @GOMP_parallel, ptr @omp_get_thread_num, ptr @omp_get_num_threads
]
"""


def _most_threads(unit: Unit) -> int:
    return min(MOST_THREADS, unit.run.width)


def _run_order(entry: Entry) -> list[str]:
    """C parameters of run, in order."""
    before = [b.name for b in entry.arguments if b.kind != "output"]
    return [*before, _PACKED, *(b.name for b in entry.arguments if b.kind == "output"), _WORKSPACE]


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
        _size(f"{prefix}_packed_size", unit.packed_size),
        _size(f"{prefix}_workspace_size", unit.workspace_size(_most_threads(unit))),
        _prepare(unit, prefix),
        _run(unit, prefix),
    ]
    return "\n".join(parts)


def _size(name: str, value: int) -> str:
    return f"define i64 @{name}() {{\n  ret i64 {value}\n}}\n"


def _pass_arguments(entry: Entry) -> list[str]:
    """Text that stores the C parameters into the entry's array."""
    lines = [f"  %array = alloca [{max(1, len(entry.arguments))} x ptr], align 8"]
    for i, b in enumerate(entry.arguments):
        lines.append(f"  %slot{i} = getelementptr ptr, ptr %array, i64 {i}")
        lines.append(f"  store ptr %p.{b.name}, ptr %slot{i}, align 8")
    return lines


def _function(name: str, parameters: Sequence[str], body: Sequence[str]) -> str:
    listed = ", ".join(f"ptr %p.{p}" for p in parameters)
    head = [f"define i32 @{name}({listed}) {{", "entry:", "  %able = call i1 @opc.able()"]
    head += ["  br i1 %able, label %go, label %lacking", "lacking:", "  ret i32 1", "go:"]
    return "\n".join([*head, *body, "  ret i32 0", "}", ""])


def _prepare(unit: Unit, prefix: str) -> str:
    entry = unit.prepare
    if entry is None:
        return _function(f"{prefix}_prepare", [_PACKED], [])
    shared = entry.layout.workspace
    body = _pass_arguments(entry)
    body.append(f"  %own = call ptr @malloc(i64 {shared + entry.layout.scratch + 1})")
    body.append(f"  %scratch = getelementptr i8, ptr %own, i64 {shared}")
    body.append(
        f"  call void @{entry.symbol}(ptr %array, ptr %p.{_PACKED}, ptr %own, ptr %scratch, i32 1, ptr null)"
    )
    body.append("  call void @free(ptr %own)")
    return _function(f"{prefix}_prepare", [*(b.name for b in entry.arguments), _PACKED], body)


def _run(unit: Unit, prefix: str) -> str:
    entry = unit.run
    shared = max(entry.layout.workspace, unit.prepare.layout.workspace if unit.prepare else 0)
    body = _pass_arguments(entry)
    body += [
        f"  %scratch = getelementptr i8, ptr %p.{_WORKSPACE}, i64 {shared}",
        "  %linked = icmp ne ptr @GOMP_parallel, null",
        "  br i1 %linked, label %team, label %start",
        "team:",
        "  %asked = call i32 @omp_get_max_threads()",
        f"  %fits = icmp ult i32 %asked, {_most_threads(unit)}",
        f"  %most = select i1 %fits, i32 %asked, i32 {_most_threads(unit)}",
        "  br label %start",
        "start:",
        "  %threads = phi i32 [ 1, %go ], [ %most, %team ]",
        f"  call void @{entry.symbol}(ptr %array, ptr %p.{_PACKED}, ptr %p.{_WORKSPACE}, ptr %scratch, "
        "i32 %threads, ptr @opc.runtime)",
    ]
    return _function(f"{prefix}_run", _run_order(entry), body)


def emit_object(unit: Unit) -> bytes:
    """A relocatable object; the same input gives the same bytes."""
    return jit.object_code(llvm_text(unit), unit.target)


def emit_assembly(unit: Unit) -> str:
    """The same code as text."""
    return jit.assembly(llvm_text(unit), unit.target)


def emit_llvm(unit: Unit) -> str:
    """Optimised LLVM text."""
    return jit.optimised_text(llvm_text(unit), unit.target)


def emit_header(unit: Unit, declared: Mapping[str, Tensor]) -> str:
    """The C header; ``declared`` has the arrays as the kernel declares them, which programs may view otherwise."""
    name = unit.name
    guard = f"OPC_{name.upper()}_H"
    prepare = unit.prepare.arguments if unit.prepare else ()
    described = {b.name: b for b in (*prepare, *unit.run.arguments)}
    lines = [f"#ifndef {guard}", f"#define {guard}", "", "#include <stddef.h>", "#include <stdint.h>", ""]
    lines += [
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "/*",
        f" * Kernel {name}. Arrays are contiguous:",
    ]
    for b in described.values():
        t = declared[b.name]
        shape = ",".join(map(str, t.shape))
        remark = "" if t.order is None else f", declared axes from slowest: {t.memory_order}"
        lines.append(f" *   {b.name}: {b.dtype} [{shape}] {b.kind}{remark}")
    lines += [
        " * packed and workspace are the caller's, of the sizes below, and may be reused; concurrent calls",
        " * need a workspace each. Functions return 0, or 1 if the processor lacks instructions they use.",
        " */",
        f"size_t opc_{name}_packed_size(void);",
        f"size_t opc_{name}_workspace_size(void);",
        f"int opc_{name}_prepare({', '.join([*(_c_parameter(b) for b in prepare), 'void *packed'])});",
    ]
    by_name = {b.name: _c_parameter(b) for b in unit.run.arguments}
    by_name |= {_PACKED: "const void *packed", _WORKSPACE: "void *workspace"}
    lines.append(f"int opc_{name}_run({', '.join(by_name[p] for p in _run_order(unit.run))});")
    lines += ["", "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {guard} */", ""]
    return "\n".join(lines)


def _c_parameter(b: Buffer) -> str:
    const = "const " if b.kind in ("input", "param") else ""
    # C's keywords and the two blobs' names may be names of tensors.
    reserved = b.name in _C_KEYWORDS or b.name in ("packed", "workspace")
    return f"{const}{_C_TYPES[b.dtype]} *{b.name}{'_' if reserved else ''}"


def link(objects: Sequence[bytes], output: Path, extra: Sequence[str] = ()) -> None:
    """Link objects into a shared object with the system's C compiler. Raises RuntimeCallError (E0953)."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise fail(RuntimeCallError, "E0953", "no C compiler found", help="install gcc, or set CC")
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
