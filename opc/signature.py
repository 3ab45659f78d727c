"""What a kernel takes and returns: matching of positional and named arrays to its arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from opc.arrays import Array, as_input, as_output, byte_strides, empty, overlaps
from opc.errors import RuntimeCallError, fail
from opc.tensor.tensor import Tensor

if TYPE_CHECKING:
    from opc.tensor.ir import Function
    from opc.tensor.saved import Half


class Slot:
    """One argument or result, with what a fast acceptance test needs."""

    __slots__ = ("dtype", "kind", "name", "shape", "strides", "tensor")

    def __init__(self, tensor: Tensor, kind: str) -> None:
        self.tensor, self.kind, self.name = tensor, kind, tensor.name
        self.dtype: np.dtype[Any] = tensor.dtype.numpy
        self.shape, self.strides = tensor.shape, byte_strides(tensor)

    def accept(self, value: object) -> Array:
        """``value`` as an array the kernel can use. Raises RuntimeCallError (E0901–E0905)."""
        written = self.kind in ("inout", "donated", "output", "saved")
        if (
            type(value) is np.ndarray
            and value.dtype == self.dtype
            and value.shape == self.shape
            and value.strides == self.strides
            and value.flags.aligned
            and (not written or value.flags.writeable)
        ):
            return value
        return as_output(value, self.tensor) if written else as_input(value, self.tensor)

    def empty(self) -> Array:
        """A fresh array in the kernel's memory order."""
        return empty(self.tensor)


class Signature:
    """Arguments in declared order, then results."""

    def __init__(
        self,
        kernel: str,
        args: Iterable[tuple[Tensor, str]],
        results: Iterable[tuple[Tensor, str]],
        doc: str = "",
    ) -> None:
        self.kernel, self.doc = kernel, doc
        self.args = tuple(Slot(tensor, kind) for tensor, kind in args)
        self.results = tuple(Slot(tensor, kind) for tensor, kind in results)
        self.params = tuple(a for a in self.args if a.kind == "param")
        self.in_place = any(a.kind in ("inout", "donated") for a in self.args)

    @staticmethod
    def of(function: Function, half: Half | None = None) -> Signature:
        """The signature of a tensor function; arguments that are written are not results as well.

        Results that only the backward kernel of a pair reads are of the kind "saved".
        """
        table, args = function.tensors(), {a.tensor.name for a in function.args}
        hidden = half.saved.made_names if half else ()
        results = [
            (table[r], "saved" if r in hidden else "output") for r in function.results if r not in args
        ]
        return Signature(function.name, ((a.tensor, a.kind) for a in function.args), results, function.doc)

    def __str__(self) -> str:
        def show(slot: Slot) -> str:
            mark = f"{slot.kind} " if slot.kind in ("param", "inout", "donated") else ""
            return f"{mark}{slot.name}: {slot.tensor.dtype}[{','.join(map(str, slot.shape))}]"

        return f"({', '.join(map(show, self.args))}) -> ({', '.join(map(show, self.results))})"

    def visible(self) -> Signature:
        """The same without results that are saved for a backward kernel."""
        results = [(s.tensor, s.kind) for s in self.results if s.kind != "saved"]
        return Signature(self.kernel, [(s.tensor, s.kind) for s in self.args], results, self.doc)

    def slot(self, name: str) -> Slot:
        """The argument or result of that name. Raises RuntimeCallError E0907."""
        for slot in (*self.args, *self.results):
            if slot.name == name:
                return slot
        raise fail(
            RuntimeCallError,
            "E0907",
            f"kernel '{self.kernel}' has no argument '{name}'",
            help=f"its signature: {self}",
        )

    def inputs(
        self,
        positional: Sequence[object],
        named: Mapping[str, object],
        bound: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """An array per argument that is not bound. Raises RuntimeCallError E0901–E0908."""
        wanted = [s for s in self.args if not bound or s.name not in bound]
        if len(positional) > len(wanted):
            raise fail(
                RuntimeCallError,
                "E0906",
                f"kernel '{self.kernel}' takes {len(wanted)} arrays, {len(positional)} were given",
                help=f"its signature: {self}",
            )
        found: dict[str, Array] = {}
        for slot, value in zip(wanted, positional, strict=False):
            found[slot.name] = slot.accept(value)
        for name, value in named.items():
            slot = self.slot(name)
            if name in found or slot not in wanted:
                raise fail(
                    RuntimeCallError,
                    "E0908",
                    f"argument '{name}' of '{self.kernel}' is given twice",
                    help="give it once",
                )
            found[name] = slot.accept(value)
        if len(found) != len(wanted):
            self._missing([s.name for s in wanted if s.name not in found])
        return found

    def _missing(self, names: list[str]) -> None:
        raise fail(
            RuntimeCallError,
            "E0906",
            f"kernel '{self.kernel}' lacks {', '.join(names)}",
            help=f"its signature: {self}",
        )

    def outputs(self, out: object, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """The result arrays: fresh, or ``out`` checked. Raises RuntimeCallError E0901–E0905, E0909, E0910."""
        if out is None:
            if self.in_place:
                self._disjoint((), inputs)
            return tuple(s.empty() for s in self.results)
        given = out if isinstance(out, tuple | list) else (out,)
        if len(given) != len(self.results):
            raise fail(
                RuntimeCallError,
                "E0909",
                f"kernel '{self.kernel}' returns {len(self.results)} arrays, out= has {len(given)}",
                help="give one array per result, in order",
            )
        arrays = tuple(s.accept(v) for s, v in zip(self.results, given, strict=True))
        self._disjoint(arrays, inputs)
        return arrays

    def _disjoint(self, outputs: tuple[Array, ...], inputs: Mapping[str, Array]) -> None:
        written = [(s.name, a) for s, a in zip(self.results, outputs, strict=False)]
        written += [
            (s.name, inputs[s.name]) for s in self.args if s.kind in ("inout", "donated") and s.name in inputs
        ]
        for i, (name, array) in enumerate(written):
            others = [*written[i + 1 :], *((n, a) for n, a in inputs.items() if n != name)]
            for other, memory in others:
                if overlaps(array, memory):
                    raise fail(
                        RuntimeCallError,
                        "E0910",
                        f"the array for '{name}' shares memory with '{other}'",
                        help="a kernel may write results before it has read all inputs: use another array",
                    )
