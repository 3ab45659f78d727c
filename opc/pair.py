"""A kernel and its gradient: ``outputs, saved = pair.fwd(...)``, then ``gradients = pair.bwd(saved, ...)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from opc.arrays import Array, aligned, in_layout
from opc.errors import RuntimeCallError, fail
from opc.kernel import Kernel, Pending, Result, unpacked
from opc.shared import Shared
from opc.signature import Signature
from opc.tensor.saved import SavedLayout

if TYPE_CHECKING:
    from pathlib import Path

Memory = Mapping[str, Array]


class Saved:
    """What a forward call keeps for the backward call; opaque.

    Arguments and results of the call that backward needs are kept as they are, so they must not change until
    backward has run. What forward made for backward lies in a buffer of ``nbytes`` bytes. Any number of
    backward calls may use one object, unless the pair was made with ``donate``: then one may.
    """

    __slots__ = ("_arrays", "_layout", "pair", "spent")

    def __init__(self, pair: Pair, layout: SavedLayout, arrays: Memory) -> None:
        self.pair, self._layout, self._arrays = pair, layout, arrays
        self.spent = False

    def __repr__(self) -> str:
        return f"<opc.Saved {self.nbytes:,} bytes and {len(self._layout.kept)} kept arrays>"

    @property
    def nbytes(self) -> int:
        """Bytes of memory that forward filled for backward."""
        return self._layout.size if self._layout.made else 0


class Forward:
    """The forward kernel of a pair; ``kernel`` is the compiled kernel, to look inside."""

    def __init__(self, pair: Pair, kernel: Kernel, run: Callable[[Memory], None], bound: Memory) -> None:
        self.kernel = kernel
        self._pair, self._run, self._bound = pair, run, bound
        self._visible = kernel.signature.visible()

    def __repr__(self) -> str:
        return f"<opc.Forward {self.kernel.name}{self._visible} on {self.kernel.machine}>"

    def __call__(
        self, *arrays: object, out: object = None, saved: Saved | None = None, **named: object
    ) -> tuple[Result, Saved]:
        """The kernel's results, as a call of the kernel gives them, and what backward needs.

        ``out=`` takes the results, ``saved=`` an object of an earlier call whose memory may be used again.
        Raises RuntimeCallError E0901–E0912, E0936.
        """
        inputs = self._visible.inputs(arrays, named, self._bound)
        outputs = self._visible.outputs(out, {**self._bound, **inputs})
        layout = self._pair.layout
        made = _made(layout) if saved is None else _of(saved, layout, self.kernel.name, layout.made_names)
        written = {s.name: a for s, a in zip(self._visible.results, outputs, strict=True)}
        self._run({**inputs, **written, **made})
        known = {**self._bound, **inputs, **written}
        kept = {t.name: known[t.name] for t in layout.kept}
        return unpacked(outputs), Saved(self._pair, layout, {**kept, **made})

    def start(
        self, *arrays: object, out: object = None, saved: Saved | None = None, **named: object
    ) -> Pending:
        """Begin a call in the background; ``wait()`` on the answer gives its result."""
        return Pending(lambda: self(*arrays, out=out, saved=saved, **named))

    def simulate(self, *arrays: object, **named: object) -> tuple[Result, Saved]:
        """The same on the simulated NPU; ``saved`` is for the backward kernel's ``simulate``."""
        inputs = self.kernel.npu.signature.inputs(arrays, named)
        results = self.kernel.npu.simulate(inputs)
        outputs = tuple(results[s.name] for s in self._visible.results)
        layout = self._pair.npu_layout
        known = {**inputs, **results}
        return unpacked(outputs), Saved(self._pair, layout, {n: known[n] for n in layout.names})


class Backward:
    """The backward kernel of a pair; ``kernel`` is the compiled kernel, to look inside."""

    def __init__(self, pair: Pair, kernel: Kernel, run: Callable[[Memory], None], bound: Memory) -> None:
        self.kernel = kernel
        self._pair, self._run, self._bound = pair, run, bound
        self._spends = any(s.kind == "donated" for s in kernel.signature.args)

    def __repr__(self) -> str:
        return f"<opc.Backward {self.kernel.name}{self.kernel.signature} on {self.kernel.machine}>"

    def __call__(
        self, saved: Saved, *gradients: object, out: object = None, **named: object
    ) -> tuple[Array, ...]:
        """The gradient of each argument in ``wrt``, given ``saved`` and the gradient of each result (``d_NAME``).

        Raises RuntimeCallError E0901–E0912, E0936 for what another pair saved, and E0943 for what is spent.
        """
        signature = self.kernel.signature
        kept = _of(saved, self._pair.layout, self.kernel.name)
        inputs = signature.inputs(gradients, named, kept)
        outputs = signature.outputs(out, {**kept, **inputs})
        written = {s.name: a for s, a in zip(signature.results, outputs, strict=True)}
        saved.spent = self._spends
        self._run({**kept, **inputs, **written})
        return outputs

    def start(self, saved: Saved, *gradients: object, out: object = None, **named: object) -> Pending:
        """Begin a call in the background; ``wait()`` on the answer gives its result."""
        return Pending(lambda: self(saved, *gradients, out=out, **named))

    def simulate(self, saved: Saved, *gradients: object, **named: object) -> tuple[Array, ...]:
        """The same on the simulated NPU, for what the forward kernel's ``simulate`` saved."""
        signature = self.kernel.npu.signature
        kept = _of(saved, self._pair.npu_layout, self.kernel.name)
        results = self.kernel.npu.simulate({**kept, **signature.inputs(gradients, named, kept)})
        return tuple(results[s.name] for s in signature.results)


class BoundPair(Shared):
    """A pair whose parameters were packed once, for forward and for backward."""

    def __init__(self, pair: Pair, params: Mapping[str, object]) -> None:
        self.pair = pair
        forward, backward = pair.fwd.kernel, pair.bwd.kernel
        known = {s.name for s in backward.signature.params}
        first = forward.bind(**params)
        second = backward.bind(**{n: v for n, v in params.items() if n in known})
        self.fwd = Forward(pair, forward, first.run, first.params)
        self.bwd = Backward(pair, backward, second.run, second.params)

    def __repr__(self) -> str:
        return f"{self.pair!r} with its parameters bound"


class Pair(Shared):
    """The derivative of a kernel: ``fwd`` and ``bwd``, made by ``opc.grad`` and ``opc.load_pair``.

    ``wrt`` are the names that the gradients belong to, in the order in which ``bwd`` returns them.
    """

    def __init__(self, name: str, forward: Kernel, backward: Kernel) -> None:
        self.name = name
        self.layout = layout_of(forward.signature, backward.signature)
        self.fwd = Forward(self, forward, forward.run, {})
        self.bwd = Backward(self, backward, backward.run, {})
        self.wrt = tuple(self.meant(s.name) for s in backward.signature.results)

    def __repr__(self) -> str:
        forward = self.fwd.kernel
        return f"<opc.Pair {self.name}{forward.signature.visible()} wrt {', '.join(self.wrt)} on {forward.machine}>"

    def meant(self, gradient: str) -> str:
        """The argument or result that a gradient belongs to: of NAME it is d_NAME, or d_NAME_2 if that is taken."""
        signature, name = self.fwd.kernel.signature, gradient.removeprefix("d_")
        known = {s.name for s in (*signature.args, *signature.results)}
        return name if name in known else name.rpartition("_")[0]

    @cached_property
    def npu_layout(self) -> SavedLayout:
        """The buffer between the two kernels for the NPU, whose default dtype is another."""
        return layout_of(self.fwd.kernel.npu.signature, self.bwd.kernel.npu.signature)

    def bind(self, **params: object) -> BoundPair:
        """The pair with all ``param`` arguments packed once, for forward and backward: bind anew in every step.

        Raises RuntimeCallError E0901–E0911.
        """
        return BoundPair(self, params)

    def save(self, path: str | Path) -> None:
        """Write both kernels to one file that ``opc.load_pair`` reads; whole or not at all. Raises E0923."""
        from opc.pair_archive import save

        save(self.name, self.fwd.kernel.build, self.bwd.kernel.build, self.layout, path)


def layout_of(forward: Signature, backward: Signature) -> SavedLayout:
    """The buffer between two kernels: what the first makes for the second, and what both know by one name."""
    made = tuple(s.tensor for s in forward.results if s.kind == "saved")
    own = {s.name: s.tensor for s in (*forward.args, *forward.results) if s.kind != "saved"}
    kept = tuple(own[s.name] for s in backward.args if s.name in own)
    return SavedLayout(kept, made)


def _made(layout: SavedLayout) -> dict[str, Array]:
    """Fresh arrays for the tensors that forward makes, in one buffer."""
    if not layout.made:
        return {}
    buffer, offsets = aligned(layout.size), layout.offsets
    return {t.name: in_layout(buffer[offsets[t.name] :], t) for t in layout.made}


def _of(
    saved: object, layout: SavedLayout, kernel: str, only: tuple[str, ...] | None = None
) -> dict[str, Array]:
    """The arrays of an object that a forward call returned, or some. Raises RuntimeCallError E0936."""
    if only is None and isinstance(saved, Saved) and saved.spent:
        message = f"another call of '{kernel}' has written over what was saved"
        raise fail(
            RuntimeCallError, "E0943", message, help="call fwd again, or make the pair without donate=True"
        )
    if isinstance(saved, Saved) and saved._layout == layout:
        return {n: a for n, a in saved._arrays.items() if only is None or n in only}
    given = repr(saved) if isinstance(saved, Saved) else f"a {type(saved).__name__}"
    message = f"'{kernel}' takes what its own forward kernel saved, not {given}"
    help = "y, saved = pair.fwd(...); gradients = pair.bwd(saved, dy)"
    raise fail(RuntimeCallError, "E0936", message, help=help)
