"""What a worker process runs: an engine prepares cases, a prepared case is called and gives its result."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.case import Array, Case


class UnsupportedError(Exception):
    """The engine is there, but not for this case; the message says why."""


@dataclass(frozen=True)
class Prepared:
    """``call`` computes once; ``result`` gives what it computed, images as ``[N, H, W, C]``.

    ``inputs`` is what a producer has just written where weights are measured cold: it is read before a call.
    ``weights`` is what an optimiser changes between two calls: its signs change before a call.
    ``peak`` makes a call and says how many bytes it held at once beyond its arguments, where that is known.
    """

    call: Callable[[], object]
    result: Callable[[], Array]
    inputs: tuple[Array, ...] = ()
    weights: tuple[Array, ...] = ()
    peak: Callable[[], int] | None = None


class Engine(ABC):
    """One way to compute a case, alone in its process, with a fixed number of threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @abstractmethod
    def version(self) -> str:
        """Version and settings, for the report."""

    @abstractmethod
    def prepare(self, case: Case) -> Prepared:
        """Compile and pack everything that can be done ahead of a call. Raises UnsupportedError."""


@dataclass(frozen=True)
class Entry:
    """How to start an engine: ``place`` is module:class, ``needs`` the packages it lives in."""

    name: str
    place: str
    needs: tuple[str, ...] = ()
    jemalloc: bool = False
    families: tuple[str, ...] = ("conv",)
    numerics: str = "strict"
    computes: bool = True  # a yardstick's result is nobody's

    @property
    def ours(self) -> bool:
        """Whether this is opc, whose results must be inside the oracle's bound."""
        return self.name.startswith("opc")

    def missing(self) -> str | None:
        """Why the engine cannot start on this computer, or None."""
        for package in self.needs:
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        return None

    def make(self, threads: int) -> Engine:
        """The engine; imports what it needs."""
        module, _, name = self.place.partition(":")
        made: Engine = getattr(importlib.import_module(module), name)(threads)
        return made


_ALL = ("conv", "conv_grad", "matmul", "elementwise")
ENGINES = {
    e.name: e
    for e in (
        Entry("opc", "benchmarks.peers.own:Own", families=_ALL),
        Entry("opc-tuned", "benchmarks.peers.own:Tuned", families=("conv", "matmul")),  # where plans differ
        Entry("opc-fast", "benchmarks.peers.own:Fast", numerics="fast"),
        Entry("opc-source-order", "benchmarks.peers.own:SourceOrder"),
        Entry("onednn", "benchmarks.peers.pytorch:OneDnn", ("torch",), jemalloc=True),
        Entry("onnxruntime", "benchmarks.peers.onnx_runtime:OnnxRuntime", ("onnxruntime",)),
        Entry("openvino", "benchmarks.peers.open_vino:OpenVino", ("openvino",)),
        Entry("torch", "benchmarks.peers.pytorch:Matmul", ("torch",), jemalloc=True, families=("matmul",)),
        Entry(
            "torch-grad",
            "benchmarks.peers.pytorch:Gradient",
            ("torch",),
            jemalloc=True,
            families=("conv_grad",),
        ),
        Entry("triad", "benchmarks.peers.triad:Triad", families=("elementwise",), computes=False),
        Entry("rows", "benchmarks.peers.triad:Rows", families=("elementwise",), computes=False),
        Entry("torch-eager", "benchmarks.peers.pytorch:Eager", ("torch",), jemalloc=True),
        Entry("torch-compile", "benchmarks.peers.pytorch:Compiled", ("torch",), jemalloc=True),
        Entry("opc-train", "benchmarks.peers.own_training:Step", families=("train",)),
        Entry("opc-tuned-train", "benchmarks.peers.own_training:TunedStep", families=("train",)),
        *(
            Entry(f"{name}-train", f"benchmarks.peers.pytorch_training:{place}", ("torch",), True, ("train",))
            for name, place in (("torch-eager", "Eager"), ("torch-compile", "Compiled"))
        ),
    )
}


def optional(name: str) -> Any:
    """A package that may be missing, untyped: its absence must not fail a type check."""
    return importlib.import_module(name)
