"""The C header of a kernel: everything a caller must know, in one file that C11 and C++ accept."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from opc.cpu import cpuid, handed
from opc.cpu.aot import (
    ALIGNMENT,
    PACKED,
    SAVED,
    WORKSPACE,
    most_threads,
    packed_size,
    run_order,
    workspace_size,
)
from opc.cpu.kernel import Unit
from opc.dtypes import DType
from opc.program.ir import Buffer
from opc.tensor.ir import Tensor

_C_TYPES = {
    DType.F64: "double",
    DType.F32: "float",
    DType.F16: "uint16_t",
    DType.BF16: "uint16_t",
    DType.I32: "int32_t",
    DType.I8: "int8_t",
}
_BITS = {DType.F16: ", the bits of an IEEE half", DType.BF16: ", the upper half of a float's bits"}
_C_KEYWORDS = frozenset((
    "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch",
    "char", "char8_t", "char16_t", "char32_t", "class", "co_await", "co_return", "co_yield", "compl",
    "concept", "const", "const_cast", "consteval", "constexpr", "constinit", "continue", "decltype",
    "default", "delete", "do", "double", "dynamic_cast", "else", "enum", "explicit", "export", "extern",
    "false", "float", "for", "friend", "goto", "if", "inline", "int", "linux", "long", "mutable",
    "namespace", "new", "noexcept", "not", "not_eq", "nullptr", "operator", "or", "or_eq", "private",
    "protected", "public", "register", "reinterpret_cast", "requires", "restrict", "return", "short",
    "signed", "sizeof", "static", "static_assert", "static_cast", "struct", "switch", "template", "this",
    "thread_local", "throw", "true", "try", "typedef", "typeid", "typename", "typeof", "union", "unix",
    "unsigned", "using", "virtual", "void", "volatile", "wchar_t", "while", "xor", "xor_eq", "NULL",
    "packed", "saved", "workspace", "int8_t", "int32_t", "uint16_t", "size_t",
))  # fmt: skip
_WIDTH = 110
_STATUS = f"""\
/* What prepare and run return; the same in the header of every kernel. */
#ifndef OPC_STATUS_DEFINED
#define OPC_STATUS_DEFINED
enum opc_status {{
  OPC_OK = {cpuid.OK},
  OPC_NO_FEATURE = {cpuid.NO_FEATURE},    /* processor or operating system lack instructions that the code uses */
  OPC_NO_PERMISSION = {cpuid.NO_PERMISSION}, /* the operating system refused the tile registers to this process */
  OPC_BAD_POINTER = {cpuid.BAD_POINTER},   /* a pointer is null, or not aligned as stated above */
  OPC_NO_MEMORY = {cpuid.NO_MEMORY}      /* prepare could not allocate its scratch memory */
}};
#endif
"""


def emit_header(unit: Unit, declared: Mapping[str, Tensor]) -> str:
    """The C header; ``declared`` has the arrays as the kernel declares them, which programs may view otherwise."""
    name = unit.name
    guard = f"OPC_{name.upper()}_H"
    prepare = unit.prepare.arguments if unit.prepare else ()
    described = {b.name: b for b in (*prepare, *unit.run.arguments) if b.name not in handed.inside(unit.half)}
    comment = [f"Kernel {name}, compiled by opc: an interface for C11 and C++. It needs no Python.", ""]
    comment += ["Arrays (dense; strides are in bytes, one per declared axis):", ""]
    for b in described.values():
        comment += [f"  {line}" for line in _array(b, declared[b.name])]
    comment += [
        "",
        *(part for rule in _rules(unit) for part in textwrap.wrap(rule, _WIDTH)),
        "",
        *_usage(unit),
    ]
    lines = [f"#ifndef {guard}", f"#define {guard}", "", "/*"]
    lines += [f" * {line}".rstrip() for line in comment]
    lines += [" */", "", "#include <stddef.h>", "#include <stdint.h>", ""]
    lines += ["#ifdef __cplusplus", 'extern "C" {', "#endif", "", _STATUS]
    lines += _saved_size(unit)
    lines += [
        f"/* Bytes of the packed parameters: {packed_size(unit):,}. */",
        f"size_t opc_{name}_packed_size(void);",
        f"/* Bytes of workspace that one call of run needs: {workspace_size(unit):,}. */",
        f"size_t opc_{name}_workspace_size(void);",
        "/* Pack the parameters; once, for any number of runs. */",
        f"int opc_{name}_prepare({', '.join([*(_parameter(b) for b in prepare), 'void *packed'])});",
        "/* Compute the results. */",
        f"int opc_{name}_run({', '.join(_parameters(unit))});",
    ]
    lines += ["", "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {guard} */", ""]
    return "\n".join(lines)


def _array(b: Buffer, t: Tensor) -> list[str]:
    """Two lines: what it is, and how it lies in memory."""
    strides, step = [0] * len(t.shape), t.dtype.bytes
    for axis in reversed(t.memory_order):
        strides[axis] = step
        step *= t.shape[axis]
    shape = "".join(f"[{n}]" for n in t.shape) or " (one value)"
    role = {"param": "parameter", "inout": "input, updated in place"}.get(b.kind, b.kind)
    order = ", ".join(map(str, t.memory_order))
    layout = f"axes from slowest to fastest {order}; strides {', '.join(map(str, strides))}; {step:,} bytes"
    return [
        f"{_identifier(b.name)}: {t.dtype}{shape}, {role} ({_C_TYPES[t.dtype]}{_BITS.get(t.dtype, '')})",
        f"    {layout if t.shape else f'{step} bytes'}",
    ]


def _rules(unit: Unit) -> list[str]:
    features = sorted(unit.target.features)
    unasked = cpuid.unchecked(unit.target.triple, unit.target.features)
    needs = f"{unit.target.triple} with {', '.join(features)}" if features else unit.target.triple
    checked = f"; not checked: {', '.join(unasked)}" if unasked else ""
    threads = most_threads(unit)
    lines = [
        f"Alignment: packed and workspace to {ALIGNMENT} bytes, arrays to their elements; {ALIGNMENT} is faster.",
        *_saved_rules(unit),
        "No array that is written may overlap another, nor packed or workspace.",
        f"Processor: {needs}. The first call checks it{checked}; later calls know.",
    ]
    if threads > 1:
        lines += [
            f"Threads: run uses up to {threads} threads of the OpenMP runtime that the program has, as many as",
            "omp_set_num_threads() or OMP_NUM_THREADS say, and one thread where no runtime is linked (-fopenmp",
            "links one). The bits of the results do not depend on it.",
        ]
    else:
        lines.append("Threads: run uses the calling thread alone; there is too little work for a team.")
    return [
        *lines,
        "Thread safety: calls may run at the same time on different workspaces and results; packed is only read",
        "by run and may be shared. The functions keep no other state, and their memory is the caller's.",
    ]


def _saved_rules(unit: Unit) -> list[str]:
    if unit.half is None:
        return []
    pair, names = unit.half.pair, ", ".join(map(_identifier, handed.addresses(unit.half)))
    lines = [
        f"Saved: what opc_{pair}_fwd_run hands to opc_{pair}_bwd_run: opaque, aligned to {ALIGNMENT} bytes.",
        "Any number of backward runs may read it.",
    ]
    kept = f"It holds addresses: {names} must stay in place, unchanged, until backward has run."
    return [*lines, kept] if names else lines


def _saved_size(unit: Unit) -> list[str]:
    if unit.half is None:
        return []
    return [
        f"/* Bytes of what forward hands to backward: {unit.half.saved.size:,}. */",
        f"size_t opc_{unit.half.pair}_saved_size(void);",
    ]


def _usage(unit: Unit) -> list[str]:
    """The calls, as a caller writes them."""
    name = unit.name
    prepare = [_identifier(b.name) for b in (unit.prepare.arguments if unit.prepare else ())]
    run = [parameter.rpartition("*")[2] for parameter in _parameters(unit)]
    saved = []
    if unit.half is not None and unit.half.is_forward:
        saved = [f"  void *saved = aligned_alloc({ALIGNMENT}, opc_{unit.half.pair}_saved_size());"]
    return [
        "Usage:",
        "",
        f"  void *packed = aligned_alloc({ALIGNMENT}, opc_{name}_packed_size());",
        f"  void *workspace = aligned_alloc({ALIGNMENT}, opc_{name}_workspace_size());",
        *saved,
        f"  if (opc_{name}_prepare({', '.join([*prepare, 'packed'])}) != OPC_OK) ...",
        f"  if (opc_{name}_run({', '.join(run)}) != OPC_OK) ...",
    ]


def _parameters(unit: Unit) -> list[str]:
    """C parameters of run."""
    by_name = {b.name: _parameter(b) for b in unit.run.arguments}
    by_name |= {PACKED: "const void *packed", WORKSPACE: "void *workspace"}
    if unit.half is not None:
        by_name[SAVED] = "void *saved" if unit.half.is_forward else "const void *saved"
        kept = {t.name: f"const {_C_TYPES[t.dtype]} *{_identifier(t.name)}" for t in unit.half.saved.kept}
        by_name = {**kept, **by_name}
    return [by_name[p] for p in run_order(unit)]


def _parameter(b: Buffer) -> str:
    const = "const " if b.kind in ("input", "param") else ""
    return f"{const}{_C_TYPES[b.dtype]} *{_identifier(b.name)}"


def _identifier(name: str) -> str:
    """The tensor's name, unless it means something else to C or C++."""
    return f"{name}_" if name in _C_KEYWORDS else name
