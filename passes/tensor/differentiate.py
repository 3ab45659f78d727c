"""Reverse-mode differentiation, in gather form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.errors import PassError, fail
from opc.pipeline import Context
from opc.tensor.ir import Arg, Function, Op
from passes.tensor._adjoint import Adjoint
from passes.tensor._saved import Choice, choose
from passes.tensor.cse import shared
from passes.tensor.dce import live
from passes.tensor.simplify import simplified


@dataclass(frozen=True)
class Differentiate:
    """The function with its gradient: a further argument ``d_NAME`` for each float result, a further result
    ``d_NAME`` for each of the arguments ``wrt`` (separated by blanks; by default all that have a gradient).

    For ``y[O(v)] = sum f(x[A(v)])`` the gradient of x at h gathers ``d_y[O(v)] * f'(x[h])`` over all v with A(v) = h:
    `_preimage.py` solves that axis by axis, so that no element is written twice and no term outside a tensor is
    computed. An index with a step falls into phases, which become pieces. `_derivatives.py` has the rules for scalar
    functions; ``max`` and ``min`` send the gradient to the first of the largest or smallest terms, which the
    function remembers. Factors that do not depend on what is summed come out of the sum.

    Before:
        func v1 conv {
          arg x: f32[8] input
          arg w: f32[3] param
          op y: f32[4] sum accumulate f32 line 1 {
            piece p<4 reduce r<3 at p = mul(x[p*2 + r - 1] else 0.0, w[r])
          }
          return y
        }
    After:
        func v1 conv {
          arg x: f32[8] input
          arg w: f32[3] param
          arg d_y: f32[4] input
          op y: f32[4] sum accumulate f32 line 1 {
            piece p<4 reduce r<3 at p = mul(x[p*2 + r - 1] else 0.0, w[r])
          }
          op d_x: f32[8] sum accumulate f32 {
            piece i0<4 reduce r<2 at i0*2 + 1 guard -i0 + r + 2 = mul(d_y[i0 - r + 1], w[r*2])
            piece i0<4 at i0*2 = mul(d_y[i0], w[1])
          }
          op d_w: f32[3] sum accumulate f32 {
            piece r<3 reduce p<4 at r = mul(d_y[p], x[p*2 + r - 1] else 0.0)
          }
          return y, d_x, d_w
        }
    """

    name: ClassVar[str] = "differentiate"
    level: ClassVar[str] = "tensor"

    wrt: str = ""

    def run(self, ir: Function, context: Context) -> Function:
        floats = [a.tensor.name for a in ir.args if a.kind != "inout" and a.tensor.dtype.is_float]
        gradient = differentiate(ir, self.wrt.split() or floats)
        forward, backward = gradient.forward, gradient.backward
        results = (*ir.results, *backward.results)
        known = forward.tensors()
        args = (*ir.args, *(a for a in backward.args if a.tensor.name not in known))
        # What backward would compute again for lack of it is there.
        own = tuple(op for op in backward.ops if op.name not in known)
        return replace(ir, args=args, results=results, ops=(*forward.ops, *own))


@dataclass(frozen=True)
class Gradient:
    """A function and its gradient.

    ``forward`` computes the original results and then the saved tensors that are neither arguments nor results.
    ``backward`` takes the saved tensors in the order of ``saved`` and a ``d_NAME`` for each float result NAME, and
    computes a ``d_NAME`` for each argument NAME it was asked for. ``choices`` says what became of every tensor of
    the function that the backward needs, and why.
    """

    forward: Function
    backward: Function
    saved: tuple[str, ...]
    choices: tuple[Choice, ...]


def differentiate(function: Function, wrt: Sequence[str]) -> Gradient:
    """The gradient of ``function`` by its arguments ``wrt``. Raises PassError E0710 to E0713."""
    _check(function, wrt)
    # What is saved is a result, which `prepare` cannot compute; groups are for ops that will have others beside them.
    function = function.with_ops(tuple(replace(op, prepare=False, group=None) for op in function.ops))
    adjoint = Adjoint(function, wrt)
    adjoint.run()
    results = tuple(adjoint.gradients[name] for name in wrt)
    ahead = function.with_ops(_beside(function.ops, adjoint.winners))
    known = tuple(Arg(t) for t in ahead.tensors().values())
    backward = _tidy(Function(f"{function.name}_bwd", (*known, *adjoint.args), results, tuple(adjoint.ops)))
    plan = choose(ahead, backward)
    backward = _tidy(
        replace(
            backward,
            args=(*plan.args, *adjoint.args),
            ops=(*plan.recomputed, *plan.reading(backward.ops)),
            doc=f"Gradient of {function.name} by {', '.join(wrt)}.",
            source=function.source,
        )
    )
    kept = tuple(a.tensor.name for a in function.args) + function.results
    saved = tuple(a.tensor.name for a in plan.args)
    forward = replace(
        ahead,
        name=f"{function.name}_fwd",
        results=(*function.results, *(name for name in saved if name not in kept)),
        ops=(*plan.copies, *ahead.ops),
    )
    return Gradient(live(forward), backward, saved, plan.choices)


def _check(function: Function, wrt: Sequence[str]) -> None:
    """Raise where there is no gradient by what was asked for."""
    args = {a.tensor.name: a for a in function.args}
    for n, name in enumerate(wrt):
        if name not in args:
            help = "arguments: " + ", ".join(args)
            raise fail(PassError, "E0710", f"'{function.name}' has no argument '{name}'", help=help)
        if name in wrt[:n]:
            raise fail(PassError, "E0710", f"'{name}' is named twice", help="name each argument once")
        arg = args[name]
        if not arg.tensor.dtype.is_float:
            message = f"'{name}' is {arg.tensor.dtype}, and only floats have a gradient"
            raise fail(PassError, "E0711", message, help="leave it out, or convert it inside the kernel")
        if arg.kind == "inout":
            message = f"'{name}' is updated in place, and no gradient flows through an update"
            raise fail(PassError, "E0712", message, help="make it an input and return the new value")
    if not wrt:
        raise fail(PassError, "E0710", "no argument to differentiate by", help="name one: wrt=[x]")
    updated = {a.tensor.name for a in function.args if a.kind == "inout"}
    tensors = function.tensors()
    if not any(tensors[r].dtype.is_float and r not in updated for r in function.results):
        message = f"'{function.name}' has no result that a gradient could come from"
        raise fail(PassError, "E0713", message, help="a result of a float type is needed")


def _beside(ops: Sequence[Op], winners: Sequence[Op]) -> tuple[Op, ...]:
    """The ops, each followed by the one that finds its winner."""
    found: list[Op] = []
    after = {w.pieces: w for w in winners}
    for op in ops:
        found.append(op)
        if op.monoid in ("max", "min") and op.pieces in after:
            found.append(after.pop(op.pieces))
    return tuple(found)


def _tidy(function: Function) -> Function:
    """Without what the sizes make trivial, what is computed twice and what nobody needs."""
    return live(shared(simplified(function)))
