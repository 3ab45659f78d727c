"""The clauses of one output against each other: every element written, and written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from opc.affine import Affine
from opc.errors import LanguageError
from opc.lang import coverage
from opc.lang import syntax as ast
from opc.lang.scope import Scope
from opc.lang.sizes import brief
from opc.tensor.ir import Tensor


class Part(NamedTuple):
    """A clause with its dimensions settled; ``reduction`` is its value if that is one reduction."""

    clause: ast.Assign
    extents: dict[str, int]
    forms: tuple[Affine, ...]
    value: ast.Expr
    reduction: ast.Reduction | None

    @property
    def target(self) -> ast.Target:
        """What the clause writes; of several targets, the first."""
        return self.clause.targets[0]

    def index_on(self, axis: int) -> ast.Expr:
        """The target's index on an axis."""
        assert self.target.indices is not None
        return self.target.indices[axis]


def check_pieces(scope: Scope, parts: Sequence[Part], output: Tensor) -> None:
    """Raises E0310 to E0313 and E0322 unless the clauses write every element once."""
    boxes = [_box(scope, part, output) for part in parts]
    try:
        pair = coverage.overlap(boxes)
    except coverage.TooComplexError:
        raise _too_complex(scope, parts[-1]) from None
    if pair is not None:
        first, second = (parts[i].target for i in pair)
        message = f"two clauses write the same elements of {second.name}"
        label = ((first.span, "also written here"),)
        help = "bound their dimensions with `for` so that they do not meet"
        raise scope.error("E0310", message, second.span, help=help, secondary=label)
    missing = coverage.missing(boxes, output.shape)
    if missing:
        raise _not_covered(scope, parts[0].target, output, boxes, missing)


def _box(scope: Scope, part: Part, output: Tensor) -> coverage.Box:
    for axis, extent in enumerate(output.shape):
        _check_inside(scope, part, axis, extent)
    _check_dimensions(scope, part)
    return tuple(_axis_set(scope, part, axis) for axis in range(len(output.shape)))


def _check_inside(scope: Scope, part: Part, axis: int, extent: int) -> None:
    low, high = part.forms[axis].interval(part.extents)
    if low >= 0 and high < extent:
        return
    index, name = part.index_on(axis), part.forms[axis].as_var()
    message = (
        f"axis {axis} of {part.target.name} has extent {extent}, but this index runs from {low} to {high}"
    )
    help = f"to write a part of what is read, say `for {name} < ...`" if name is not None else ""
    notes = (*scope.values_note(index), *scope.ranges_note(index, part.extents))
    raise scope.error("E0313", message, index.span, help=help, notes=notes)


def _check_dimensions(scope: Scope, part: Part) -> None:
    """Raises E0312 unless each dimension drives exactly one axis."""
    axes: dict[str, int] = {}
    for axis, form in enumerate(part.forms):
        for name in sorted(form.names):
            if axes.setdefault(name, axis) != axis and part.extents[name] > 1:
                message = f"dimension {name} stands in two axes of {part.target.name}"
                help = "use one dimension per axis and `select` the diagonal"
                raise scope.error("E0312", message, part.index_on(axis).span, help=help)
    for name, extent in part.extents.items():
        if name not in axes and extent > 1:
            message = f"dimension {name} cancels out, so each element is written {extent} times"
            raise scope.error("E0312", message, part.target.span)


def _axis_set(scope: Scope, part: Part, axis: int) -> coverage.AxisSet:
    try:
        return coverage.axis_set(part.forms[axis], part.extents)
    except coverage.NotInjectiveError:
        index = part.index_on(axis)
        message = f"`{brief(index)}` takes the same value twice"
        help = "make the factor of each dimension the product of the extents below it"
        raise scope.error("E0312", message, index.span, help=help, notes=scope.values_note(index)) from None
    except coverage.TooComplexError:
        raise _too_complex(scope, part) from None


def _too_complex(scope: Scope, part: Part) -> LanguageError:
    message = "cannot prove that these pieces write each element once"
    help = f"on axes longer than {coverage.MAX_MASK:,} use indices like `i` or `i*4 + j` with `for j < 4`"
    return scope.error("E0322", message, part.target.span, help=help)


def _not_covered(
    scope: Scope, target: ast.Target, output: Tensor, boxes: list[coverage.Box], missing: int
) -> LanguageError:
    verb = "is" if missing == 1 else "are"
    message = f"{missing:,} of {output.size:,} elements of {target.name} {verb} never written"
    point = coverage.witness(boxes, output.shape)
    notes = (f"for example {target.name}[{', '.join(map(str, point))}]",) if point else ()
    return scope.error("E0311", message, target.span, help="add a clause that writes the rest", notes=notes)
