"""Whether a tensor cancels out of everything that is made of it, as the largest term of a softmax does.

Let each element of the tensor move by an amount c of its own. Every value that is made of it is followed: it moves by a
multiple of c, or is multiplied by a power of exp(c). If no result moves, no result depends on the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.dtypes import DType
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Expr, Function, Op, Piece, Read, walk

Place = tuple[
    Affine, ...
]  # of an expression: where in the tensor its c is; of a stored value: over axes a0, a1, ...


@dataclass(frozen=True)
class _Shift:
    """A value that moves by ``added`` * c and is multiplied by exp(c) ** ``power``; ``zero``: it is 0 whatever c is."""

    added: float = 0.0
    power: float = 0.0
    place: Place | None = None
    zero: bool = False

    @property
    def is_fixed(self) -> bool:
        return self.added == 0 and self.power == 0


_FIXED, _ZERO = _Shift(), _Shift(zero=True)


def cancels(function: Function, name: str) -> bool:
    """Whether it can be shown that no result changes if the elements of ``name`` do."""
    if name in function.results:
        return False
    rank = len(function.tensors()[name].shape)
    table = {name: _Shift(added=1.0, place=tuple(Affine.var(f"a{axis}") for axis in range(rank)))}
    for op in function.ops:
        if any(t.name == name for t in op.outputs):
            continue
        stored = _op(op, table)
        if stored is None or (not stored.is_fixed and any(t.name in function.results for t in op.outputs)):
            return False
        if not stored.is_fixed:
            table.update((t.name, stored) for t in op.outputs)
    return True


def _op(op: Op, table: dict[str, _Shift]) -> _Shift | None:
    """How every element of the outputs moves; None where that is not known."""
    found = [_piece(op, piece, table) for piece in op.pieces]
    if op.fill is not None:
        found.append(_ZERO if op.fill == 0 else _FIXED)
    return _alike(found)


def _piece(op: Op, piece: Piece, table: dict[str, _Shift]) -> _Shift | None:
    value = _value(piece.body, table)
    if value is None or value.is_fixed or value.place is None:
        return value
    if op.monoid in ("argmax", "argmin"):
        return None if _depends(value.place, {d.name for d in piece.reduce}) else _FIXED
    # Terms that are multiplied alike have a sum that is; each term that moves would move it once more.
    if op.monoid == "moments" or (op.monoid == "sum" and value.added != 0):
        return None
    axes = {form.as_var(): Affine.var(f"a{axis}") for axis, form in enumerate(piece.index) if form.as_var()}
    if any(not form.is_const and form.as_var() not in axes for form in value.place):
        return None
    place = tuple(form if form.is_const else axes[form.as_var()] for form in value.place)
    return replace(value, place=place)


def _depends(place: Place, names: set[str]) -> bool:
    return any(form.names & names for form in place)


def _value(body: Expr, table: dict[str, _Shift]) -> _Shift | None:
    """How an expression moves."""
    done: list[_Shift | None] = []
    for node in walk(body):
        if isinstance(node, Call):
            args = done[len(done) - len(node.args) :]
            del done[len(done) - len(node.args) :]
            known = [a for a in args if a is not None]
            done.append(_call(node, known) if len(known) == len(args) else None)
        elif isinstance(node, Const):
            done.append(_ZERO if node.value == 0 else _FIXED)
        else:
            done.append(_read(node, table) if isinstance(node, Read) else _FIXED)
    return done[0]


def _read(read: Read, table: dict[str, _Shift]) -> _Shift | None:
    stored = table.get(read.tensor, _FIXED)
    if stored.place is None:
        return stored
    if read.fill is not None and (read.fill != 0 or stored.added != 0):
        return None
    values = {f"a{axis}": form for axis, form in enumerate(read.index)}
    return replace(stored, place=tuple(form.substitute(values) for form in stored.place))


def _call(node: Call, args: list[_Shift]) -> _Shift | None:
    if all(a.is_fixed for a in args):
        return _FIXED
    fn, kind = node.fn, FUNCTIONS[node.fn].kind
    first, last = args[0], args[-1]
    if kind == "cast":
        return first if DType(fn).is_float else None
    if fn in ("add", "sub") and all(a.power == 0 for a in args):
        sign = 1.0 if fn == "add" else -1.0
        return _with(args, added=first.added + sign * last.added)
    if fn in ("mul", "div"):
        return _scaled(node, args)
    if fn == "exp":
        return _with(args, power=first.added) if first.power == 0 else None
    if fn == "log":
        return _with(args, added=first.power) if first.added == 0 else None
    if fn in ("sqrt", "rsqrt"):
        half = 0.5 if fn == "sqrt" else -0.5
        return _with(args, power=first.power * half) if first.added == 0 else None
    if fn == "neg":
        return _with(args, added=-first.added, power=first.power)
    if fn == "abs":
        return first if first.added == 0 else None
    if fn == "select":
        return _alike(args[1:]) if first.is_fixed else None
    alike = _alike(args) if fn in ("add", "sub", "max", "min") or kind == "compare" else None
    return _FIXED if alike is not None and kind == "compare" else alike


def _scaled(node: Call, args: list[_Shift]) -> _Shift | None:
    """A product or quotient: powers add up, and what moves may be multiplied by a number."""
    sign = 1.0 if node.fn == "mul" else -1.0
    if all(a.added == 0 for a in args):
        return _with(args, power=args[0].power + sign * args[1].power)
    for value, other in zip(args, reversed(node.args), strict=True):
        if value.added != 0 and isinstance(other, Const) and (node.fn == "mul" or other is node.args[1]):
            return _with(args, added=value.added * float(other.value) ** sign) if other.value else _ZERO
    return None


def _with(args: Sequence[_Shift], added: float = 0.0, power: float = 0.0) -> _Shift | None:
    """A value that moves so, if all that it is made of moves by one c; it does not move where nothing is left."""
    places = {a.place for a in args if not a.is_fixed}
    if len(places) > 1 or (added != 0 and power != 0):
        return None
    return _Shift(added, power, places.pop()) if added or power else _FIXED


def _alike(args: Sequence[_Shift | None]) -> _Shift | None:
    """How all of these move, if they move alike; 0 is any multiple of itself."""
    scaled = any(a is not None and a.power != 0 for a in args)
    found = {a for a in args if not (scaled and a == _ZERO)}
    found = {replace(a, zero=False) if a is not None else None for a in found}
    return found.pop() if len(found) == 1 else None
