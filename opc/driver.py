"""Text → IR → pipelines → back end: the way of a program, and the only module that imports ``passes``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from opc import machine as machines
from opc.build import After, Build, run_passes
from opc.cpu.threads import count as thread_count
from opc.dtypes import DType
from opc.errors import MachineError, RuntimeCallError, fail
from opc.files import read_bytes
from opc.machine.model import Machine
from opc.pipeline import NUMERICS, STRICT, Pass
from opc.tensor.ir import Function

if TYPE_CHECKING:
    from opc.kernel import Kernel
    from opc.lang import File
    from opc.native import NativeKernel
    from opc.npu_kernel import NpuKernel

NPU = "ascend910"
REORDERING = frozenset({"pipeline", "list-schedule"})


def target_machine(target: str, name: str | None = None) -> Machine:
    """The machine for ``target`` ("cpu" or "npu"): ``name`` if given, the host's CPU, or the shipped NPU."""
    if name is not None:
        return machines.load(name)
    if target == "npu":
        return machines.load(NPU)
    from opc.cpu.features import pick_machine

    chosen = os.environ.get("OPC_MACHINE")
    machine = machines.load(chosen or pick_machine())
    if machine.kind != "cpu":
        message = f"OPC_MACHINE is '{chosen}', a machine of kind {machine.kind}, not cpu"
        raise fail(MachineError, "E0605", message, help=f"select it with --machine {chosen}")
    return machine


def specialise(
    text: str | bytes | File,
    file: str,
    machine: Machine,
    kernel: str | None = None,
    sizes: Mapping[str, int | float] | None = None,
    dtype: str | None = None,
    layout: str | None = None,
) -> Function:
    """A kernel of the source as tensor IR, with its sizes, dtype and memory order fixed.

    Raises LanguageError (E01–E03) for bad text or sizes.
    """
    from opc.lang import lower

    chosen = element_type(dtype) if dtype else machine.default_dtype
    return lower(text, file, kernel, dict(sizes or {}), chosen, layout)


def element_type(name: str) -> DType:
    """The dtype of that name. Raises RuntimeCallError E0925."""
    try:
        return DType(name)
    except ValueError:
        known = ", ".join(DType)
        raise fail(RuntimeCallError, "E0925", f"unknown dtype '{name}'", help=f"dtypes: {known}") from None


def pipeline(name: str) -> tuple[Pass, ...]:
    """The passes of one named pipeline, with their default options."""
    table = _passes()
    return tuple(table.load(step)() for step in table.PIPELINES[name])


def pass_table() -> dict[str, type]:
    """The class of every pass by its name."""
    table = _passes()
    return {name: table.load(name) for name in table.PASSES}


def pass_named(name: str) -> type:
    """The class of one pass. Raises PassError E0701."""
    found: type = _passes().load(name)
    return found


def _passes() -> ModuleType:
    """The package beside this one. Raises RuntimeCallError E0928 if another of that name hides it."""
    import passes

    found = Path(passes.__file__ or "").parent
    if found.parent != Path(__file__).parent.parent:
        message = f"another package named 'passes' hides opc's: {found}"
        raise fail(
            RuntimeCallError, "E0928", message, help="run from another folder, or set PYTHONSAFEPATH=1"
        )
    return passes


def build(
    function: Function,
    machine: Machine,
    after: After | None = None,
    dump: Path | None = None,
    numerics: str = STRICT,
) -> Build:
    """Run all pipelines on a specialised function. Raises OpcError where the machine cannot hold it."""
    licence(numerics)
    lowered, steps = run_passes(function, pipeline("tensor"), machine, after, dump, numerics)
    tiled, more = run_passes(lowered, pipeline("lowering"), machine, after, dump, numerics)
    module, last = run_passes(tiled, pipeline("program"), machine, after, dump, numerics)
    return Build(machine, function, lowered, tiled, module, (*steps, *more, *last), numerics)


def licence(numerics: str) -> str:
    """``numerics`` if it is one of NUMERICS. Raises RuntimeCallError E0930."""
    if numerics in NUMERICS:
        return numerics
    known = ", ".join(NUMERICS)
    raise fail(RuntimeCallError, "E0930", f"unknown numerics '{numerics}'", help=f"numerics: {known}")


def in_source_order(built: Build) -> Build:
    """The same build without the passes that reorder instructions, to compare with."""
    passes = tuple(p for p in pipeline("program") if p.name not in REORDERING)
    module, steps = run_passes(built.tiled, passes, built.machine, numerics=built.numerics)
    return replace(built, module=module, steps=tuple(steps))


def compile(
    source: str | Path,
    kernel: str | None = None,
    *,
    dtype: str | None = None,
    layout: str | None = None,
    machine: str | Path | None = None,
    threads: int | None = None,
    numerics: str = STRICT,
    **sizes: int | float,
) -> Kernel:
    """Compile a kernel and return it ready to call.

    ``source`` is the path of a ``.k`` file, or the text itself (anything with a brace). ``kernel`` selects
    one of several.
    ``sizes`` set the kernel's symbolic sizes and attributes (``N=8, stride=2``); the rest come from its example.
    ``dtype`` is the type variable T (default: the machine's), ``layout`` the memory order of images
    ("nchw", "nhwc"), ``machine`` a shipped machine or a ``.toml`` file (default: this computer's CPU),
    ``threads`` how many to use (default: ``OPC_NUM_THREADS``, else every CPU of this process),
    ``numerics`` what may be done to rounding ("strict", or "fast": see docs/language.md).

    Raises LanguageError (E01–E03) for the text and the sizes, MachineError (E06) for what the machine lacks,
    RuntimeCallError (E09) for files and settings.
    """
    return compile_sized(source, kernel, dtype, layout, machine, threads, sizes, numerics)


def compile_sized(
    source: str | Path,
    kernel: str | None,
    dtype: str | None,
    layout: str | None,
    machine: str | Path | None,
    threads: int | None,
    sizes: Mapping[str, int | float],
    numerics: str = STRICT,
) -> Kernel:
    """``compile`` with the sizes in a mapping."""
    text, file = _source(source)
    # What is no text names nothing: the lookups below then say what is known.
    kernel, layout, machine = (None if v is None else str(v) for v in (kernel, layout, machine))
    numerics = licence(str(numerics))
    target = target_machine("cpu", machine)
    count = thread_count(threads)
    function = specialise(text, file, target, kernel, sizes, dtype, layout)

    def on_npu() -> NpuKernel:
        other = target if target.kind == "npu" else target_machine("npu")
        lowered = specialise(text, file, other, kernel, sizes, dtype, layout)
        return npu_kernel(build(lowered, other, numerics=numerics))

    return _kernel(build(function, target, numerics=numerics), on_npu, count)


def load(path: str | Path) -> Kernel:
    """The kernel that ``Kernel.save`` wrote to ``path``. Raises RuntimeCallError E0914, E0920."""
    from opc.archive import read

    saved = read(path)

    def on_npu() -> NpuKernel:
        if saved.machine.kind == "npu":
            return npu_kernel(saved)
        return npu_kernel(build(saved.source, target_machine("npu"), numerics=saved.numerics))

    return _kernel(saved, on_npu, thread_count(None))


def callable_kernel(built: Build, threads: int | None = None) -> Kernel:
    """A kernel to call, for a build of the command line."""
    return _kernel(built, lambda: npu_kernel(built), thread_count(threads))


def _kernel(built: Build, on_npu: Callable[[], NpuKernel], threads: int) -> Kernel:
    from opc.kernel import Kernel

    return Kernel(built, native_kernel(built) if built.machine.kind == "cpu" else None, on_npu, threads)


def native_kernel(built: Build) -> NativeKernel:
    """Machine code of a build. Raises RuntimeCallError if this computer lacks a feature the machine needs."""
    from opc.native import NativeKernel

    return NativeKernel(built)


def npu_kernel(built: Build) -> NpuKernel:
    """Listings of a build."""
    from opc.npu_kernel import NpuKernel

    return NpuKernel(built)


def _source(source: str | Path) -> tuple[str | bytes, str]:
    if isinstance(source, str) and ("{" in source or "\n" in source):
        return source, "<string>"
    return read_bytes(str(source)), str(source)
