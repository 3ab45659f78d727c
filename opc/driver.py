"""Text → IR → pipelines → back end: the way of a program, and the only module that imports ``passes``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from opc import sources
from opc.cpu.threads import count as thread_count
from opc.errors import MachineError, RuntimeCallError, fail
from opc.numerics import STRICT, licence
from opc.sources import Source, Wanted

if TYPE_CHECKING:  # a kernel that comes from the cache needs nothing of the compiler
    from pathlib import Path
    from types import ModuleType

    from opc.build import After, Build
    from opc.cache.kernels import Saved
    from opc.cache.key import Request
    from opc.cpu.kernel import Unit
    from opc.dtypes import DType
    from opc.kernel import Kernel
    from opc.lang import File
    from opc.machine.model import Machine
    from opc.native import NativeKernel
    from opc.npu_kernel import NpuKernel
    from opc.pair import Pair
    from opc.pipeline import Pass
    from opc.program.demand import Demand
    from opc.sources import Gradient
    from opc.tensor.ir import Function
    from opc.tensor.saved import Half
    from opc.tuning.choose import Choice

NPU = "ascend910"
REORDERING = frozenset({"pipeline", "stagger", "interleave", "unroll", "list-schedule"})


def target_machine(target: str, name: str | Machine | None = None) -> Machine:
    """The machine for ``target`` ("cpu" or "npu"): ``name`` if given, the host's CPU, or the shipped NPU."""
    from opc import machine as machines

    if name is not None and not isinstance(name, str):
        return name
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
    mixed: str = "",
) -> Function:
    """A kernel of the source as tensor IR, with its sizes, dtype and memory order fixed.

    ``kernel`` may be a half of a derived one, such as "g.bwd"; ``mixed`` is the narrow type of its products.
    Raises LanguageError (E01–E03) for bad text or sizes, PassError E0714.
    """
    return source(text, file, Wanted(kernel, sizes or {}, dtype, layout, mixed=mixed), machine).function


def source(text: str | bytes | File, file: str, wanted: Wanted, machine: Machine) -> Source:
    """The tensor IR that is wanted, and which half of a pair it is. Raises LanguageError, PassError E0937."""

    def differentiate(function: Function, wrt: Sequence[str]) -> Gradient:
        from passes.tensor.differentiate import differentiate

        return differentiate(function, wrt)

    def mixed(function: Function, low: DType) -> Function:
        from passes.tensor.mixed_precision import mixed

        return mixed(function, low)

    return sources.source(text, file, wanted, machine, sources.Rewrites(differentiate, mixed))


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
    half: Half | None = None,
) -> Build:
    """Run all pipelines on a specialised function. Raises OpcError where the machine cannot hold it."""
    from opc.build import Build, run_passes

    licence(numerics)
    lowered, steps = run_passes(function, pipeline("tensor"), machine, after, dump, numerics)
    tile = pass_named("tile")(plans=plans)
    lowering = tuple(tile if p.name == tile.name else p for p in pipeline("lowering"))
    tiled, more = run_passes(lowered, lowering, machine, after, dump, numerics)
    module, last = run_passes(tiled, pipeline("program"), machine, after, dump, numerics)
    return Build(machine, function, lowered, tiled, module, (*steps, *more, *last), numerics, plans, half)


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
    mixed: str = "",
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
    ``numerics`` what may be done to rounding ("strict", or "fast": see docs/language.md), ``mixed`` the narrow
    type ("bf16", "f16") in which the products of a kernel written in f32 are computed (docs/training.md).
    ``tune`` times the few plans that the cost model likes best, on this computer and this number of threads;
    the winner is in ``kernel.plans`` and is kept for later processes. Results are the same to the bit.

    Raises LanguageError (E01–E03) for the text and the sizes, MachineError (E06) for what the machine lacks,
    RuntimeCallError (E09) for files and settings.
    """
    return compile_sized(source, kernel, dtype, layout, machine, threads, sizes, numerics, tune, mixed)


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
    mixed: str = "",
) -> Kernel:
    """``compile`` with the sizes in a mapping."""
    request = sources.asked(source, Wanted(kernel, sizes, dtype, layout, mixed=str(mixed)), machine, numerics)
    return compile_request(request, threads, tune)


def compile_request(request: Request, threads: int | None = None, tune: bool = False) -> Kernel:
    """The kernel of a request: from the cache, or compiled now. Raises OpcError as ``compile`` does."""
    from opc.cache.kernels import find
    from opc.cache.key import key_of

    count = thread_count(threads)
    if tune:
        request = request._replace(plans=_tuned(request, count))
    key = key_of(request)
    saved = find(key) if key else None
    return _from_cache(saved, request, count) if saved else _compiled(request, key, count)


def compile_pair(request: Request, threads: int | None = None, tune: bool = False) -> Pair:
    """Both kernels of the derivative that a request names. Raises OpcError as ``opc.grad`` does."""
    from opc.pair import Pair

    halves = (request._replace(half=half) for half in (sources.FORWARD, sources.BACKWARD))
    forward, backward = (compile_request(half, threads, tune) for half in halves)
    return Pair(forward.name.removesuffix(f"_{sources.FORWARD}"), forward, backward)


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
    function = _source(request, target).function
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

    found = candidates(lowered, target)
    if len(found) < 2:  # nothing to time, and arguments may be huge
        return Choice(MODEL)
    return choose(found, make, data.arguments(function), tell)


def _compiled(request: Request, key: str | None, threads: int) -> Kernel:
    """A kernel compiled now, and kept under ``key`` if it is native."""
    from opc.kernel import keep

    target = target_machine("cpu", request.machine)
    function, half = _source(request, target)
    built = build(function, target, numerics=request.numerics, plans=request.plans, half=half)

    def on_npu() -> NpuKernel:
        return npu_kernel(built) if target.kind == "npu" else _on_npu(request)

    kernel = _kernel(built, on_npu, threads, request)
    if key and target.kind == "cpu":
        keep(key, request, built, kernel)
    return kernel


def _from_cache(saved: Saved, request: Request, threads: int) -> Kernel:
    """A kernel around code that another process made; its IRs are made again if someone asks."""
    from opc.cpu.executable import CpuKernel
    from opc.kernel import Kernel, Settings
    from opc.native import NativeKernel

    def rebuild() -> Build:
        source, target = saved.origin()
        return build(source, target, numerics=request.numerics, plans=request.plans)

    def unit() -> Unit:
        from opc.cpu.kernel import lower

        built = kernel.build
        return lower(*built.module.programs, built.machine)

    native = NativeKernel(CpuKernel(saved.executable, unit))
    about = Settings(saved.machine, request.numerics, request.plans)
    kernel = Kernel(saved.signature, about, native, rebuild, lambda: _on_npu(request), threads, request)
    return kernel


def _source(request: Request, machine: Machine) -> Source:
    return source(request.text, request.file, sources.wanted(request), machine)


def _on_npu(request: Request) -> NpuKernel:
    other = target_machine("npu")
    function, half = _source(request, other)
    return npu_kernel(build(function, other, numerics=request.numerics, half=half))


def load(path: str | Path) -> Kernel:
    """The kernel that ``Kernel.save`` wrote to ``path``. Raises RuntimeCallError E0914, E0920."""
    from opc.archive import read

    return loaded(read(path))


def loaded(saved: Build) -> Kernel:
    """The kernel of a build that an archive held."""

    def on_npu() -> NpuKernel:
        if saved.machine.kind == "npu":
            return npu_kernel(saved)
        other = target_machine("npu")
        return npu_kernel(build(saved.source, other, numerics=saved.numerics, half=saved.half))

    return _kernel(saved, on_npu, thread_count(None))


def callable_kernel(built: Build, threads: int | None = None) -> Kernel:
    """A kernel to call, for a build of the command line."""
    return _kernel(built, lambda: npu_kernel(built), thread_count(threads))


def _kernel(
    built: Build,
    on_npu: Callable[[], NpuKernel],
    threads: int,
    request: Request | None = None,
) -> Kernel:
    """The kernel of a build; without a ``request`` its tensor IR is one."""
    from opc.build import text_of
    from opc.cache.key import Request
    from opc.kernel import Kernel, Settings
    from opc.signature import Signature

    native = native_kernel(built) if built.machine.kind == "cpu" else None
    about = Settings(built.machine.name, built.numerics, built.plans)
    origin = request or Request(
        text_of(built.source), "source.tensor", machine=built.machine, numerics=built.numerics
    )
    signature = Signature.of(built.source, built.half)
    return Kernel(signature, about, native, lambda: built, on_npu, threads, origin)


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
