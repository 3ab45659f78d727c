"""Text → IR → pipelines → back end: the way of a program, and the only module that imports ``passes``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from opc.cpu.threads import count as thread_count
from opc.dtypes import DType
from opc.errors import MachineError, RuntimeCallError, fail
from opc.numerics import NUMERICS, STRICT

if TYPE_CHECKING:  # a kernel that comes from the cache needs nothing of the compiler
    from pathlib import Path
    from types import ModuleType

    from opc.build import After, Build
    from opc.cache.kernels import Saved
    from opc.cache.key import Request
    from opc.cpu.kernel import Unit
    from opc.kernel import Kernel
    from opc.lang import File
    from opc.machine.model import Machine
    from opc.native import NativeKernel
    from opc.npu_kernel import NpuKernel
    from opc.pipeline import Pass
    from opc.program.demand import Demand
    from opc.tensor.ir import Function
    from opc.tuning.choose import Choice

NPU = "ascend910"
REORDERING = frozenset({"pipeline", "stagger", "interleave", "list-schedule"})


def target_machine(target: str, name: str | None = None) -> Machine:
    """The machine for ``target`` ("cpu" or "npu"): ``name`` if given, the host's CPU, or the shipped NPU."""
    from opc import machine as machines

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
    from pathlib import Path

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
    plans: str = "",
) -> Build:
    """Run all pipelines on a specialised function. Raises OpcError where the machine cannot hold it."""
    from opc.build import Build, run_passes

    licence(numerics)
    lowered, steps = run_passes(function, pipeline("tensor"), machine, after, dump, numerics)
    tile = pass_named("tile")(plans=plans)
    lowering = tuple(tile if p.name == tile.name else p for p in pipeline("lowering"))
    tiled, more = run_passes(lowered, lowering, machine, after, dump, numerics)
    module, last = run_passes(tiled, pipeline("program"), machine, after, dump, numerics)
    return Build(machine, function, lowered, tiled, module, (*steps, *more, *last), numerics, plans)


def licence(numerics: str) -> str:
    """``numerics`` if it is one of NUMERICS. Raises RuntimeCallError E0930."""
    if numerics in NUMERICS:
        return numerics
    known = ", ".join(NUMERICS)
    raise fail(RuntimeCallError, "E0930", f"unknown numerics '{numerics}'", help=f"numerics: {known}")


def in_source_order(built: Build) -> Build:
    """The same build without the passes that reorder instructions, to compare with."""
    from opc.build import run_passes

    passes = tuple(p for p in pipeline("program") if p.name not in REORDERING)
    module, steps = run_passes(built.tiled, passes, built.machine, numerics=built.numerics)
    return replace(built, module=module, steps=tuple(steps))


def demand(built: Build) -> Demand:
    """What the kernel's run asked of memories and event ids."""
    from passes.program._demand import demand as compare

    single, unflagged = (built.before(name).run for name in ("multi-buffer", "insert-sync"))
    return compare(single, unflagged, built.module.run, built.machine)


def compile(
    source: str | Path,
    kernel: str | None = None,
    *,
    dtype: str | None = None,
    layout: str | None = None,
    machine: str | Path | None = None,
    threads: int | None = None,
    numerics: str = STRICT,
    tune: bool = False,
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
    ``tune`` times the few plans that the cost model likes best, on this computer and this number of threads;
    the winner is in ``kernel.plans`` and is kept for later processes. Results are the same to the bit.

    Raises LanguageError (E01–E03) for the text and the sizes, MachineError (E06) for what the machine lacks,
    RuntimeCallError (E09) for files and settings.
    """
    return compile_sized(source, kernel, dtype, layout, machine, threads, sizes, numerics, tune)


def compile_sized(
    source: str | Path,
    kernel: str | None,
    dtype: str | None,
    layout: str | None,
    machine: str | Path | None,
    threads: int | None,
    sizes: Mapping[str, int | float],
    numerics: str = STRICT,
    tune: bool = False,
) -> Kernel:
    """``compile`` with the sizes in a mapping."""
    from opc.cache.kernels import find
    from opc.cache.key import Request, key_of

    text, file = _source(source)
    # What is no text names nothing: the lookups below then say what is known.
    kernel, layout, machine = (None if v is None else str(v) for v in (kernel, layout, machine))
    count = thread_count(threads)
    request = Request(text, file, kernel, sizes, dtype, layout, machine, str(numerics))
    if tune:
        request = request._replace(plans=_tuned(request, count))
    key = key_of(request)
    saved = find(key) if key else None
    return _from_cache(saved, request, count) if saved else _compiled(request, key, count)


def _tuned(request: Request, threads: int) -> str:
    """The fastest plans; a bug met on the way is a warning, because the kernel is right without them."""
    choice = tuned(request, threads)
    if choice.problems:
        import warnings

        from opc.errors import render

        warnings.warn("\n".join(map(render, choice.problems)), RuntimeWarning, stacklevel=4)
    return choice.plans


def tuned(request: Request, threads: int, tell: Callable[[str], None] = lambda _: None) -> Choice:
    """Which plans are fastest on this computer: as an earlier process found, or timed now.

    ``tell`` is told what is going on. Raises OpcError as compiling does.
    """
    from opc.tuning import memory

    key = memory.key_for(request, threads)
    found = memory.find(key)
    if found is not None:
        return found
    target = target_machine("cpu", request.machine)
    function = _specialised(request, target)
    choice = _timed(function, target, request.numerics, threads, tell)
    memory.keep(key, choice, function.name)
    return choice


def _timed(
    function: Function, target: Machine, numerics: str, threads: int, tell: Callable[[str], None]
) -> Choice:
    from opc import data
    from opc.build import run_passes
    from opc.tuning.choose import MODEL, Choice, choose
    from passes.lowering.candidates import candidates

    if target.kind != "cpu":  # simulated: there is nothing to time
        return Choice(MODEL)
    licence(numerics)
    lowered, _ = run_passes(function, pipeline("tensor"), target, numerics=numerics)

    def make(plans: str) -> Kernel:
        return callable_kernel(build(function, target, numerics=numerics, plans=plans), threads)

    return choose(candidates(lowered, target), make, data.arguments(function), tell)


def _compiled(request: Request, key: str | None, threads: int) -> Kernel:
    """A kernel compiled now, and kept under ``key`` if it is native."""
    target = target_machine("cpu", request.machine)
    function = _specialised(request, target)
    built = build(function, target, numerics=request.numerics, plans=request.plans)

    def on_npu() -> NpuKernel:
        return npu_kernel(built) if target.kind == "npu" else _on_npu(request)

    kernel = _kernel(built, on_npu, threads)
    if key and target.kind == "cpu":
        _keep(key, request, built, kernel)
    return kernel


def _keep(key: str, request: Request, built: Build, kernel: Kernel) -> None:
    from opc.build import text_of
    from opc.cache.kernels import Saved, keep

    own = request.machine if (request.machine or "").endswith(".toml") else None
    saved = Saved(
        kernel.signature,
        kernel.native.code.executable,
        kernel.machine,
        tuple(built.machine.features),
        text_of(built.source),
        built.machine.text if own else "",
    )
    keep(key, saved)


def _from_cache(saved: Saved, request: Request, threads: int) -> Kernel:
    """A kernel around code that another process made; its IRs are made again if someone asks."""
    from opc.cpu.executable import CpuKernel
    from opc.kernel import Kernel, Settings
    from opc.native import NativeKernel

    def rebuild() -> Build:
        from opc import machine as machines
        from opc.tensor.text import parse_function

        own = saved.machine_file
        target = machines.parse(own, saved.machine) if own else machines.load(saved.machine)
        source = parse_function(saved.source, "source.tensor")
        return build(source, target, numerics=request.numerics, plans=request.plans)

    def unit() -> Unit:
        from opc.cpu.kernel import lower

        built = kernel.build
        return lower(*built.module.programs, built.machine)

    native = NativeKernel(CpuKernel(saved.executable, unit))
    about = Settings(saved.machine, request.numerics, request.plans)
    kernel = Kernel(saved.signature, about, native, rebuild, lambda: _on_npu(request), threads)
    return kernel


def _specialised(request: Request, machine: Machine) -> Function:
    r = request
    return specialise(r.text, r.file, machine, r.kernel, r.sizes, r.dtype, r.layout)


def _on_npu(request: Request) -> NpuKernel:
    other = target_machine("npu")
    return npu_kernel(build(_specialised(request, other), other, numerics=request.numerics))


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
    from opc.kernel import Kernel, Settings
    from opc.signature import Signature

    native = native_kernel(built) if built.machine.kind == "cpu" else None
    about = Settings(built.machine.name, built.numerics, built.plans)
    return Kernel(Signature.of(built.source), about, native, lambda: built, on_npu, threads)


def native_kernel(built: Build) -> NativeKernel:
    """Machine code of a build. Raises RuntimeCallError if this computer lacks a feature the machine needs."""
    from opc.cpu.kernel import compile_kernel
    from opc.native import NativeKernel

    prepare, run = built.module.programs
    return NativeKernel(compile_kernel(prepare, run, built.machine))


def npu_kernel(built: Build) -> NpuKernel:
    """Listings of a build."""
    from opc.npu_kernel import NpuKernel

    return NpuKernel(built)


def _source(source: str | Path) -> tuple[str | bytes, str]:
    if isinstance(source, str) and ("{" in source or "\n" in source):
        return source, "<string>"
    from opc.files import read_bytes

    return read_bytes(str(source)), str(source)
