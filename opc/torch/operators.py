"""Kernels as custom operators of torch, with what torch must know to differentiate and compile through them.

A function NAME becomes ``opc::NAME``, which computes results alone, ``opc::NAME_fwd``, which also gives what is saved,
and ``opc::NAME_bwd``. All are functional: new values of tensors that a kernel updates are results, which the caller
copies back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd.forward_ad import unpack_dual

from opc.errors import RuntimeCallError, fail
from opc.infer import Number, Seen
from opc.pair import Pair
from opc.signature import Signature
from opc.tensor.saved import SavedLayout
from opc.torch.kernels import Call, Kernels, call_of, settled
from opc.torch.tensors import Memory, check, copied, empty, memory, seen

Tensor = Any
_numbers = itertools.count(2)
_names: set[str] = set()


class Operators:
    """The operators of one function."""

    def __init__(self, kernels: Kernels, name: str) -> None:
        self.kernels, self.name = kernels, _fresh(name)
        self.names = tuple(n for n, _ in kernels.arguments)
        self.updated = tuple(n for n, kind in kernels.arguments if kind == "inout")
        tensors = [f"Tensor {n}_" for n in self.names]
        numbers = [f"{'int' if a.is_whole else 'float'} {a.name}" for a in kernels.attributes]
        takes = ", ".join([*tensors, *numbers])
        if kernels.has_plain:
            self.plain = self._operator(self.name, f"({takes}) -> Tensor[]", self._plain, self._fake_plain)
        if kernels.wrt:
            takes = ", ".join([*tensors, *numbers, "str wrt"])
            schema = f"({takes}) -> Tensor[]"
            self.forward = self._operator(f"{self.name}_fwd", schema, self._forward, self._fake_forward)
            schema = "(Tensor[] kept, Tensor saved, Tensor[] gradients, str call) -> Tensor[]"
            self.backward = self._operator(f"{self.name}_bwd", schema, self._backward, self._fake_backward)
            self.forward.register_autograd(self._gradients, setup_context=self._context)
        if kernels.wrt and kernels.has_plain:
            self.plain.register_autograd(self._again, setup_context=self._context_again)

    def _operator(self, name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
        tags = (torch.Tag.needs_exact_strides,)
        made = torch.library.custom_op(
            f"opc::{name}", run, mutates_args=(), device_types="cpu", schema=schema, tags=tags
        )
        made.register_fake(fake)
        return made

    # What the operators compute.

    def _plain(self, *arguments: Any) -> list[Tensor]:
        tensors, call = self._call((*arguments, ""))
        kernel = self.kernels.kernel(call)
        results, places, updated = self._places(tensors, kernel.signature)
        kernel.run(places, torch.get_num_threads())
        return [*results, *updated]

    def _forward(self, *arguments: Any) -> list[Tensor]:
        tensors, call = self._call(arguments)
        pair = self.kernels.pair(call)
        saved = _buffer(pair.layout)
        for start, end in pair.layout.gaps if pair.layout.made else ():
            saved[start:end] = 0  # operators have the same results every time, to the bit
        results, places, updated = self._places(tensors, pair.fwd.kernel.signature.visible())
        pair.fwd.kernel.run({**places, **_made(saved, pair.layout)}, torch.get_num_threads())
        return [*results, *updated, saved]

    def _backward(
        self, kept: Sequence[Tensor], saved: Tensor, gradients: Sequence[Tensor], call: str
    ) -> list[Tensor]:
        pair = self.kernels.pair(call_of(call))
        kernel, layout = pair.bwd.kernel, pair.layout
        given = dict(zip([t.name for t in layout.kept], kept, strict=True))
        given |= dict(zip(_wanted(pair), gradients, strict=True))
        places: dict[str, Any] = {n: memory(t, kernel.signature.slot(n)) for n, t in given.items()}
        results = [empty(s.tensor) for s in kernel.signature.results]
        places |= {s.name: Memory(t) for s, t in zip(kernel.signature.results, results, strict=True)}
        kernel.run({**places, **_made(saved, layout)}, torch.get_num_threads())
        return results

    def _places(
        self, tensors: Mapping[str, Tensor], signature: Signature
    ) -> tuple[list[Tensor], dict[str, Any], list[Tensor]]:
        """New results, where every array lies, and new values of what the kernel updates."""
        updated = {n: copied(tensors[n], signature.slot(n).tensor) for n in self.updated}
        places = {s.name: memory({**tensors, **updated}[s.name], s) for s in signature.args}
        results = [empty(s.tensor) for s in signature.results]
        places |= {s.name: Memory(t) for s, t in zip(signature.results, results, strict=True)}
        return results, places, list(updated.values())

    # What they would give, for tensors without data.

    def _fake_plain(self, *arguments: Any) -> list[Tensor]:
        _, call = self._call((*arguments, ""))
        kernel = self.kernels.kernel(call)
        return self._like(kernel.signature)

    def _fake_forward(self, *arguments: Any) -> list[Tensor]:
        _, call = self._call(arguments)
        pair = self.kernels.pair(call)
        return [*self._like(pair.fwd.kernel.signature.visible()), _buffer(pair.layout)]

    def _fake_backward(
        self, kept: Sequence[Tensor], saved: Tensor, gradients: Sequence[Tensor], call: str
    ) -> list[Tensor]:
        signature = self.kernels.pair(call_of(call)).bwd.kernel.signature
        return [empty(s.tensor) for s in signature.results]

    def _like(self, signature: Signature) -> list[Tensor]:
        slots = (*signature.results, *(signature.slot(n) for n in self.updated))
        return [empty(s.tensor) for s in slots]

    # How torch differentiates.

    def _context(self, ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
        tensors, ctx.call = self._call(inputs)
        kept, ctx.results = self._kept(ctx.call, tensors, output)
        ctx.save_for_backward(output[-1], *kept)
        if self.updated:
            ctx.mark_non_differentiable(*output[len(ctx.results) : -1])

    def _kept(
        self, call: Call, tensors: Mapping[str, Tensor], output: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[str]]:
        """The arguments and results that backward reads, and the names of the results."""
        pair = self.kernels.pair(call)
        results = [s.name for s in pair.fwd.kernel.signature.visible().results]
        known = {**tensors, **dict(zip(results, output, strict=False))}
        return [known[t.name] for t in pair.layout.kept], results

    def _gradients(self, ctx: Any, gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        saved, *kept = ctx.saved_tensors
        return self._backwards(ctx.call, kept, saved, dict(zip(ctx.results, gradients, strict=False)))

    def _backwards(
        self, call: Call, kept: Sequence[Tensor], saved: Tensor, gradients: Mapping[str, Tensor]
    ) -> tuple[Tensor | None, ...]:
        """A gradient or None for everything that the forward operator takes."""
        pair = self.kernels.pair(call)
        given = [gradients[pair.meant(n)] for n in _wanted(pair)]
        found = dict(zip(pair.wrt, self.backward(kept, saved, given, call.key()), strict=True))
        return (*(found.get(n) for n in self.names), *(None for _ in (*self.kernels.attributes, "wrt")))

    def _context_again(self, ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
        count = len(self.names)
        ctx.save_for_backward(*inputs[:count])
        ctx.numbers = inputs[count:]
        if self.updated:
            ctx.mark_non_differentiable(*output[-len(self.updated) :])

    def _again(self, ctx: Any, gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Who calls the plain operator itself, and wants gradients after all, has forward computed again."""
        needed = zip(self.names, ctx.needs_input_grad, strict=False)
        wrt = [n for n, need in needed if need and n in self.kernels.wrt]
        inputs = (*ctx.saved_tensors, *ctx.numbers, " ".join(wrt))
        tensors, call = self._call(inputs)
        output = self.forward(*inputs)
        kept, results = self._kept(call, tensors, output)
        found = self._backwards(call, kept, output[-1], dict(zip(results, gradients, strict=False)))
        return found[:-1]

    def _call(self, arguments: Sequence[Any]) -> tuple[dict[str, Tensor], Call]:
        """The tensors by name, and what decides about the kernel."""
        tensors = dict(zip(self.names, arguments, strict=False))
        numbers = arguments[len(tensors) : -1]
        named = tuple((a.name, v) for a, v in zip(self.kernels.attributes, numbers, strict=True))
        known: tuple[Seen, ...] = tuple(seen(t, n) for n, t in tensors.items())
        return tensors, Call(known, named, tuple(arguments[-1].split()))

    def __call__(self, tensors: Sequence[Tensor], attributes: Mapping[str, Number]) -> list[Tensor]:
        """Results, after tensors that the kernel updates have their new values."""
        for name, tensor in zip(self.names, tensors, strict=True):
            check(tensor, name)
            _refuse_tangent(tensor, name, self.name)
        numbers = settled(self.kernels.attributes, attributes, self.name)
        wrt = self._differentiated(tensors)
        found: list[Tensor]
        if self.kernels.has_plain and not wrt:
            found = self.plain(*tensors, *numbers)
        else:
            *found, _ = self.forward(*tensors, *numbers, " ".join(wrt or self.kernels.wrt))
        count = len(found) - len(self.updated)
        by_name = dict(zip(self.names, tensors, strict=True))
        with torch.no_grad():
            for name, new in zip(self.updated, found[count:], strict=True):
                by_name[name].copy_(new)
        return found[:count]

    def _differentiated(self, tensors: Sequence[Tensor]) -> list[str]:
        """Arguments that want gradients. Raises RuntimeCallError E0941 for one that has none."""
        if not torch.is_grad_enabled():
            return []
        wanted = [n for n, t in zip(self.names, tensors, strict=True) if t.requires_grad]
        for name in wanted:
            if name not in self.kernels.wrt:
                message = f"'{self.name}' has no gradient by '{name}'"
                help = f"name it in wrt=, or give {name}.detach()"
                raise fail(RuntimeCallError, "E0941", message, help=help)
        return wanted


def _fresh(name: str) -> str:
    """A name that no operator has."""
    found = name
    while found in _names:
        found = f"{name}_{next(_numbers)}"
    _names.add(found)
    return found


def _refuse_tangent(tensor: Tensor, name: str, function: str) -> None:
    """Raise RuntimeCallError E0941 in forward mode: torch would take the derivative of an operator for zero."""
    if torch.compiler.is_compiling() or unpack_dual(tensor).tangent is None:
        return
    message = f"'{function}' has no forward-mode derivative by '{name}'"
    raise fail(RuntimeCallError, "E0941", message, help="use reverse mode: torch.autograd.grad")


def _buffer(layout: SavedLayout) -> Tensor:
    return torch.empty(layout.size if layout.made else 0, dtype=torch.uint8)


def _made(saved: Tensor, layout: SavedLayout) -> dict[str, Any]:
    """Where what forward makes for backward lies in the buffer."""
    return {n: Memory(saved, layout.offsets[n]) for n in layout.made_names}


def _wanted(pair: Pair) -> list[str]:
    """The gradients of results that backward takes."""
    known = set(pair.layout.names)
    return [s.name for s in pair.bwd.kernel.signature.args if s.name not in known]
