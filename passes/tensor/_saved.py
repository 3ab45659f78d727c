"""Which tensors of a function its gradient keeps, and which it computes again.

What exists anyway, arguments and results, is read where it is. Reductions are kept: they read more than they write.
A pointwise tensor is computed again where that moves and costs less than storing and loading it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from opc.tensor.ir import Arg, Call, Function, Op, Read, Tensor, reads, walk
from passes.tensor._algebra import fresh, is_pointwise, rename_tensors
from passes.tensor._parts import element, everywhere

# What computing an element of a function takes, in bytes that memory moves in that time.
_COST = {"div": 2.0, "sqrt": 2.0, "rsqrt": 2.0} | dict.fromkeys(("exp", "log", "tanh", "erf", "sigmoid"), 4.0)
_CALL = 0.25


@dataclass(frozen=True)
class Choice:
    """What became of a tensor that the gradient needs. ``how``: "argument", "result", "saved" or "recomputed"."""

    tensor: Tensor
    how: str
    why: str

    @property
    def bytes(self) -> int:
        """Memory that it takes between the two functions, beside what exists anyway."""
        return self.tensor.size * self.tensor.dtype.bytes if self.how == "saved" else 0


@dataclass(frozen=True)
class Plan:
    """``args``: what the backward takes; ``recomputed``: ops of the function that it repeats; ``copies``: ops that keep
    arguments which the function updates; ``renamed``: those arguments and their copies.
    """

    args: tuple[Arg, ...]
    recomputed: tuple[Op, ...]
    copies: tuple[Op, ...]
    renamed: Mapping[str, str]
    choices: tuple[Choice, ...]

    def reading(self, ops: Iterable[Op]) -> tuple[Op, ...]:
        """The ops, reading copies where the function updates an argument."""
        return tuple(rename_tensors(op, self.renamed) for op in ops)


def choose(function: Function, backward: Function) -> Plan:
    """Decide for every tensor of ``function`` that ``backward`` reads."""
    tensors = function.tensors()
    written = {t.name for op in function.ops for t in op.outputs}
    kinds = {a.tensor.name: a.kind for a in function.args}
    updated = [name for name in kinds if name in written]
    free = (set(kinds) | set(function.results)) - set(updated)
    needed = {r.tensor for op in backward.ops for r in reads(op)} & set(tensors)
    choices: dict[str, Choice] = {}
    recomputed: list[Op] = []
    for op in reversed(function.ops):
        mine = [t for t in op.outputs if t.name in needed and t.name not in free and t.name not in updated]
        if not mine:
            continue
        again = is_pointwise(op) and _recompute(op, needed, free, tensors) <= 2 * _bytes(mine[0])
        if again:
            needed |= {r.tensor for r in reads(op)}
            recomputed.append(replace(op, prepare=False))
        for t in mine:
            choices[t.name] = Choice(t, "recomputed" if again else "saved", _why(op, again))
    names = {name: fresh(f"{name}_before", tensors) for name in updated if name in needed}
    copies = tuple(_copy(tensors[name], copy) for name, copy in names.items())
    args: list[Arg] = []
    for name, tensor in tensors.items():
        if name not in needed:
            continue
        if name in names:
            choices[name] = Choice(tensor, "saved", "updated in place")
            args.append(Arg(replace(tensor, name=names[name])))
        elif name in free:
            choices[name] = Choice(tensor, "argument" if name in kinds else "result", "exists anyway")
        if name not in names and choices[name].how != "recomputed":
            args.append(Arg(tensor, "param" if kinds.get(name) == "param" else "input"))
    found = tuple(choices[name] for name in tensors if name in choices)
    again_ops = tuple(rename_tensors(op, names) for op in reversed(recomputed))
    return Plan(tuple(args), again_ops, copies, names, found)


def _recompute(op: Op, needed: set[str], free: set[str], tensors: Mapping[str, Tensor]) -> float:
    """Bytes moved, and work in bytes, to have a pointwise op again."""
    moved = 0.0
    for name in {r.tensor for r in reads(op)} - needed:
        moved += _bytes(tensors[name]) * (1 if name in free else 2)
    calls = [n.fn for p in op.pieces for n in walk(p.body) if isinstance(n, Call)]
    work = sum(_COST.get(fn, _CALL) for fn in calls) / len(op.pieces)
    return moved + work * op.outputs[0].size


def _bytes(tensor: Tensor) -> int:
    return tensor.size * tensor.dtype.bytes


def _why(op: Op, again: bool) -> str:
    if again:
        sources = ", ".join(sorted({r.tensor for r in reads(op)})) or "nothing"
        return f"pointwise, from {sources}"
    if op.monoid is None:
        return "costs more to compute than to load"
    terms = max((_terms(op)), default=1)
    return f"a {op.monoid} of {terms} terms"


def _terms(op: Op) -> list[int]:
    found = []
    for piece in op.pieces:
        count = 1
        for d in piece.reduce:
            count *= d.extent
        found.append(count)
    return found


def _copy(tensor: Tensor, name: str) -> Op:
    read = Read(tensor.name, element(len(tensor.shape)))
    return Op((replace(tensor, name=name),), (everywhere(tensor, read),))
