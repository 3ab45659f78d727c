"""A compiled kernel: call it, bind its parameters, look inside, save it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from opc.errors import RuntimeCallError, fail
from opc.shared import Shared
from opc.signature import Signature

if TYPE_CHECKING:
    from pathlib import Path

    from opc.arrays import Array
    from opc.build import Build
    from opc.cache.key import Request
    from opc.native import NativeKernel
    from opc.npu import Timeline
    from opc.npu_kernel import NpuKernel

Result = Any  # one array, a tuple of arrays, or None for a kernel that only works in place


def unpacked(outputs: tuple[Array, ...]) -> Result:
    """What a call returns for its result arrays."""
    return outputs[0] if len(outputs) == 1 else outputs or None


class Settings(NamedTuple):
    """What a kernel was compiled for and with; ``plans`` is empty where the cost model chose."""

    machine: str
    numerics: str
    plans: str


class Kernel(Shared):
    """A kernel compiled for one set of sizes, one dtype and one memory order.

    Call it with arrays in declared order or by name: ``y = kernel(x, w, gamma, beta, mean, var)``, or
    ``kernel(x, w=w, ..., out=y)``. Inputs are used in place where they are dense in the kernel's memory
    order. Calls may run in several threads at once; the interpreter lock is released while native code runs.

    Raises RuntimeCallError (E0901–E0913) for arrays it cannot use. Made by ``opc.compile`` and ``opc.load``.
    """

    def __init__(
        self,
        signature: Signature,
        settings: Settings,
        native: NativeKernel | None,
        build: Callable[[], Build],
        npu: Callable[[], NpuKernel],
        threads: int,
        request: Request,
    ) -> None:
        self.signature, self.request = signature, request
        self.machine, self.numerics, self.plans = settings
        self.name, self.doc = signature.kernel, signature.doc
        self._native, self._make_build, self._make_npu = native, build, npu
        self.threads = threads
        self._made_build: Build | None = None
        self._npu: NpuKernel | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<opc.Kernel {self.name}{self.signature} on {self.machine}>"

    # Running

    def __call__(self, *arrays: object, out: object = None, **named: object) -> Result:
        """Run on ``arrays``; parameters are packed anew each time, so they are never stale.

        Returns the result array, or a tuple of them. With ``out=`` (an array, or a tuple) results are
        written there. Raises RuntimeCallError E0901–E0912.
        """
        inputs = self.signature.inputs(arrays, named)
        outputs = self.signature.outputs(out, inputs)
        self.run({**inputs, **self._named(outputs)})
        return unpacked(outputs)

    def run(self, memory: Mapping[str, Array], threads: int | None = None) -> None:
        """Run on an array for every argument and result, each in the kernel's memory order."""
        native, count = self.native, threads or self.threads
        packed = native.prepare(memory, count, native.scratch_packed(memory))
        native.run(memory, packed, count)

    def results(self, arrays: Mapping[str, object]) -> dict[str, Array]:
        """Run on named arrays; every result by its name."""
        found = self(**arrays)
        return self._named(found if isinstance(found, tuple) else (found,) if found is not None else ())

    def bind(self, **params: object) -> BoundKernel:
        """A kernel with all its ``param`` arguments packed once. Raises RuntimeCallError E0901–E0911.

        The arrays may change afterwards without effect; bind again to take the new values.
        """
        for name in params:
            if self.signature.slot(name).kind != "param":
                known = ", ".join(s.name for s in self.signature.params) or "none"
                message = f"'{name}' of '{self.name}' is not a parameter"
                raise fail(RuntimeCallError, "E0911", message, help=f"its parameters: {known}")
        found = {s.name: s.accept(params[s.name]) for s in self.signature.params if s.name in params}
        if len(found) != len(self.signature.params):
            missing = ", ".join(s.name for s in self.signature.params if s.name not in found)
            message = f"bind of '{self.name}' lacks {missing}"
            raise fail(RuntimeCallError, "E0911", message, help="bind all parameters together")
        return BoundKernel(self, found)

    def start(self, *arrays: object, out: object = None, **named: object) -> Pending:
        """Begin a call in the background; ``wait()`` on the answer gives its result."""
        return Pending(lambda: self(*arrays, out=out, **named))

    def empty(self, name: str) -> Array:
        """An uninitialised array for an argument or result, in the kernel's memory order."""
        return self.signature.slot(name).empty()

    def _named(self, outputs: tuple[Array, ...]) -> dict[str, Array]:
        return {s.name: a for s, a in zip(self.signature.results, outputs, strict=True)}

    # Looking inside

    @property
    def native(self) -> NativeKernel:
        """The CPU back end's kernel. Raises RuntimeCallError E0912 if there is none."""
        if self._native is None:
            message = f"'{self.name}' was compiled for {self.machine}, which is simulated"
            raise fail(
                RuntimeCallError, "E0912", message, help="use kernel.simulate(...), or compile for a CPU"
            )
        return self._native

    @property
    def npu(self) -> NpuKernel:
        """The same kernel for the NPU, built on first use. Raises MachineError for a dtype it lacks."""
        with self._lock:
            if self._npu is None:
                self._npu = self._make_npu()
            return self._npu

    @property
    def build(self) -> Build:
        """The IRs; a kernel that came from the cache makes them when someone asks."""
        with self._lock:
            if self._made_build is None:
                self._made_build = self._make_build()
            return self._made_build

    @property
    def llvm_ir(self) -> str:
        """Optimised LLVM IR."""
        return self.native.code.llvm_ir

    @property
    def asm(self) -> str:
        """Assembly of the machine the kernel was compiled for."""
        return self.native.code.asm

    @property
    def tensor_ir(self) -> str:
        """Tensor IR after its passes, as canonical text."""
        from opc.build import text_of

        return text_of(self.build.function)

    @property
    def program_ir(self) -> str:
        """Program IR after its passes, as canonical text."""
        from opc.build import text_of

        return text_of(self.build.module)

    @property
    def listing(self) -> str:
        """The NPU listing: prepare, then run."""
        return self.npu.text

    @property
    def timeline(self) -> Timeline:
        """Simulated time of the listing: cycles, and what every pipe did when."""
        return self.npu.timeline

    def simulate(self, *arrays: object, **named: object) -> Result:
        """Run the NPU listing on the simulator and return its results.

        Raises RuntimeCallError for arrays it cannot use and ListingError for a listing that is not safe.
        """
        signature = self.npu.signature
        results = self.npu.simulate(signature.inputs(arrays, named))
        outputs = tuple(results[s.name] for s in signature.results)
        return unpacked(outputs)

    # Keeping

    def save(self, path: str | Path) -> None:
        """Write the kernel to one file that ``opc.load`` reads; whole or not at all. Raises E0923."""
        from opc.archive import save

        save(self.build, path)


class BoundKernel(Shared):
    """A kernel whose parameters were packed once by ``Kernel.bind``; call it with the inputs."""

    def __init__(self, kernel: Kernel, params: Mapping[str, Array]) -> None:
        self.kernel = kernel
        native = kernel.native
        self._packed = native.prepare(params, kernel.threads)
        # Parameters that run reads itself are copied: what is bound must not change under the caller's writes.
        self.params = {n: np.copy(a, order="K") if n in native.late_params else a for n, a in params.items()}

    def __repr__(self) -> str:
        return f"{self.kernel!r} with {', '.join(self.params)} bound"

    def __call__(self, *arrays: object, out: object = None, **named: object) -> Result:
        """Run on the inputs that are not bound. Raises RuntimeCallError E0901–E0910."""
        signature = self.kernel.signature
        inputs = signature.inputs(arrays, named, self.params)
        outputs = signature.outputs(out, inputs)
        self.run({**inputs, **self.kernel._named(outputs)})
        return unpacked(outputs)

    def run(self, memory: Mapping[str, Array]) -> None:
        """Run on an array for every result and every argument that is not bound."""
        self.kernel.native.run({**memory, **self.params}, self._packed, self.kernel.threads)

    def start(self, *arrays: object, out: object = None, **named: object) -> Pending:
        """Begin a call in the background; ``wait()`` on the answer gives its result."""
        return Pending(lambda: self(*arrays, out=out, **named))


class Pending:
    """A call under way in another thread."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._result: Result = None
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as problem:
            self._problem = problem

    def done(self) -> bool:
        """Whether ``wait`` would return at once."""
        return not self._thread.is_alive()

    def wait(self) -> Result:
        """The result of the call, or its exception; may be called again."""
        self._thread.join()
        if self._problem is not None:
            raise self._problem
        return self._result


def keep(key: str, request: Request, built: Build, kernel: Kernel) -> None:
    """Keep a native kernel in the cache."""
    from opc.build import text_of
    from opc.cache import kernels
    from opc.cache.key import is_shipped

    own = request.machine is not None and not is_shipped(request.machine)
    saved = kernels.Saved(
        kernel.signature,
        kernel.native.code.executable,
        kernel.machine,
        tuple(built.machine.features),
        text_of(built.source),
        built.machine.text if own else "",
    )
    kernels.keep(key, saved)
