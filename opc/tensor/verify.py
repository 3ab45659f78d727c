"""The invariants of tensor IR. ``problems`` reports every violation, not only the first.

Tensors
 1. E0501  Every name is an identifier of the text format.
 2. E0502  Names of arguments and outputs are unique, except that one op may update an inout or donated argument.
 3. E0503  Extents are at least 1.
 4. E0504  A tensor holds at most 2^40 elements.
 5. E0505  A memory order is a permutation of the axes.
 6. E0506  An argument is input, param, inout or donated.
Ops
 7. E0507  An op has at least one output and one piece.
 8. E0508  Its monoid is declared.                    9. E0509  It has as many outputs as its monoid.
10. E0510  Its outputs have one shape.               11. E0511  Dimensions of a piece are unique.
12. E0512  Their extents are at least 1.             13. E0513  Reduced dimensions need a monoid.
14. E0531  Reductions run in an accumulation type no narrower than their terms; other ops have none.
15. E0532  argmax and argmin write i32.              16. E0533  moments takes and gives floats.
Indices
17. E0514  Reads, guards and dim() use dimensions of the piece.
18. E0515  Output indices use its parallel dimensions only.
19. E0516  An output index has the output's rank.    20. E0517  It stays inside the output.
21. E0518  It is injective in the parallel dimensions.
22. E0519  Pieces are disjoint.                      23. E0520  They cover the output, or it has a fill.
24. E0521  Reads name a tensor                       25. E0522  defined before, not by the op itself
26. E0523  with an index of its rank                 27. E0524  proved inside, or with a fill.
Expressions
28. E0525  Functions are declared.                   29. E0526  They get as many arguments as they take.
30. E0527  Conditions meet select only.              31. E0528  div is of floats.
32. E0529  Literals are values of the type they meet.
33. E0530  What is stored fits: no condition, no float into an integer tensor.
34. E0534  Fills are values of the type they fill.
Function
35. E0535  Results are outputs of ops,               36. E0536  named once,
37. E0537  and not prepared.
38. E0538  Prepare ops read params and prepare ops.
39. E0539  An updated inout argument keeps its type, shape and order.
40. E0540  One op updates it.    41. E0541  That op reads it only at the element it writes.
Groups (once any op has one)
42. E0542  Every op has a group.                     43. E0543  Ops of a group are adjacent.
44. E0544  A group is prepared or run, not both.
45. E0545  In a group of several ops each has one piece and no fill.
46. E0546  Around a contraction and among pointwise ops all have the root's parallel dimensions.
47. E0547  There all have the root's output index and guards.
48. E0548  Dimensions that all ops of a group share have one extent.
49. E0549  A tensor made in the group is read in it at the element of the shared dimensions it was written at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import Diagnostic, IRError, Span
from opc.scalar import MONOIDS
from opc.tensor import domain
from opc.tensor.groups import group_problems
from opc.tensor.ir import DimValue, Function, Op, Piece, Read, Tensor, walk
from opc.tensor.text import ARG_KINDS, print_piece
from opc.tensor.types import annotate, literal_fits

MAX_ELEMENTS = 2**40
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_WIDTH = {DType.I32: 0, DType.F32: 1, DType.F64: 2}


def verify(f: Function) -> None:
    """Raise IRError with every broken invariant; see ``problems``."""
    found = problems(f)
    if found:
        raise IRError(found)


def problems(f: Function) -> list[Diagnostic]:
    """Every broken invariant: arguments, then ops in order, then results and groups."""
    checker = _Checker(f)
    checker.arguments()
    for op in f.ops:
        checker.op(op)
    checker.results()
    for op, code, message in group_problems(f):
        checker.report(code, message, op)
    return checker.found


class _Checker:
    """Walks the function once, with the tensors defined so far."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.kinds = {a.tensor.name: a.kind for a in f.args}
        self.defined: dict[str, Tensor] = {}
        self.written: set[str] = set()
        self.prepared: set[str] = set()
        self.later = {t.name for op in f.ops for t in op.outputs}
        self.found: list[Diagnostic] = []

    def report(
        self, code: str, message: str, op: Op | None = None, piece: Piece | None = None, help: str = ""
    ) -> None:
        where = f"op '{op.name}': " if op is not None and op.outputs else ""
        span = Span(self.f.source, op.line) if op is not None and op.line and self.f.source else None
        notes = (f"in `{_shorten(print_piece(piece))}`",) if piece is not None else ()
        self.found.append(Diagnostic(code, where + message, span, notes=notes, help=help))

    def arguments(self) -> None:
        if not _NAME.match(self.f.name):
            self.report("E0501", f"the function's name {self.f.name!r} is not an identifier")
        for arg in self.f.args:
            t = arg.tensor
            self.tensor(t, None)
            if arg.kind not in ARG_KINDS:
                self.report("E0506", f"argument '{t.name}' is of unknown kind '{arg.kind}'")
            if t.name in self.defined:
                self.report("E0502", f"two arguments are called '{t.name}'")
            self.defined[t.name] = t

    def tensor(self, t: Tensor, op: Op | None) -> None:
        if not _NAME.match(t.name):
            self.report("E0501", f"the name {t.name!r} is not an identifier", op)
        if any(extent < 1 for extent in t.shape):
            self.report(
                "E0503", f"tensor '{t.name}' has the shape {list(t.shape)}; extents are at least 1", op
            )
        elif t.size > MAX_ELEMENTS:
            self.report("E0504", f"tensor '{t.name}' holds {t.size} elements; the most is {MAX_ELEMENTS}", op)
        if t.order is not None and sorted(t.order) != list(range(len(t.shape))):
            self.report("E0505", f"the order {list(t.order)} of '{t.name}' is no permutation of its axes", op)

    def op(self, op: Op) -> None:
        if not op.outputs or not op.pieces:
            self.report("E0507", "an op needs an output and a piece", op)
        for t in op.outputs:
            self.tensor(t, op)
        self.monoid(op)
        if op.group is not None and not _NAME.match(op.group):
            self.report("E0501", f"the group's name {op.group!r} is not an identifier", op)
        if op.fill is not None:
            for t in op.outputs:
                if not literal_fits(op.fill, t.dtype):
                    self.report("E0534", f"the fill {op.fill} is not a value of {t.dtype}", op)
        boxes: list[tuple[Piece, domain.Box | None]] = []
        sound = bool(op.outputs)
        for piece in op.pieces:
            before = len(self.found)
            boxes.append((piece, self.piece(op, piece)))
            sound = sound and len(self.found) == before
        if sound:
            self.pieces(op, boxes)
        self.prepare(op)
        self.define(op)

    def monoid(self, op: Op) -> None:
        monoid = MONOIDS.get(op.monoid or "")
        if op.monoid is not None and monoid is None:
            self.report("E0508", f"unknown monoid '{op.monoid}'", op, help="monoids: " + ", ".join(MONOIDS))
            return
        wanted = monoid.outputs if monoid is not None else 1
        if op.outputs and len(op.outputs) != wanted:
            what = f"monoid '{op.monoid}'" if monoid is not None else "an op without monoid"
            self.report("E0509", f"{what} has {wanted} output(s), not {len(op.outputs)}", op)
        if any(t.shape != op.outputs[0].shape for t in op.outputs):
            self.report("E0510", "the outputs differ in shape", op)
        if monoid is None and op.accumulate is not None:
            self.report("E0531", "accumulation type without a monoid", op)
        if op.monoid in ("argmax", "argmin") and op.outputs and op.outputs[0].dtype is not DType.I32:
            self.report("E0532", f"'{op.monoid}' gives i32, not {op.outputs[0].dtype}", op)
        if op.monoid == "moments" and not all(t.dtype.is_float for t in op.outputs):
            self.report("E0533", "moments are floats", op)

    def piece(self, op: Op, piece: Piece) -> domain.Box | None:
        """Check one piece; the box of its elements (None: it writes none, or its indices are broken)."""
        dims = (*piece.dims, *piece.reduce)
        names = {d.name for d in dims}
        self.dimensions(op, piece)
        parallel = {d.name for d in piece.dims}
        for form in piece.index:
            if not form.names <= parallel:
                wrong = ", ".join(sorted(form.names - parallel))
                self.report(
                    "E0515", f"output index '{form}' uses '{wrong}', no parallel dimension", op, piece
                )
        forms: list[Affine] = list(piece.guards)
        for node in walk(piece.body):
            forms += (
                node.index if isinstance(node, Read) else [node.form] if isinstance(node, DimValue) else []
            )
        for form in forms:
            if not form.names <= names:
                wrong = ", ".join(sorted(form.names - names))
                self.report("E0514", f"'{form}' uses '{wrong}', no dimension of the piece", op, piece)
        self.body(op, piece)
        legal = all(form.names <= names for form in (*forms, *piece.index))
        if not legal or len(names) != len(dims) or any(d.extent < 1 for d in dims):
            return None
        everywhere = domain.box(piece.extents, piece.guards)
        if everywhere is not None:
            self.reads(op, piece, everywhere)
        return self.output(op, piece)

    def dimensions(self, op: Op, piece: Piece) -> None:
        seen: set[str] = set()
        for d in (*piece.dims, *piece.reduce):
            if not _NAME.match(d.name):
                self.report("E0501", f"the dimension's name {d.name!r} is not an identifier", op)
            if d.name in seen:
                self.report("E0511", f"two dimensions are called '{d.name}'", op, piece)
            if d.extent < 1:
                self.report("E0512", f"dimension '{d.name}' has the extent {d.extent}", op, piece)
            seen.add(d.name)
        if piece.reduce and op.monoid is None:
            self.report("E0513", "reduced dimensions without a monoid", op, piece)

    def output(self, op: Op, piece: Piece) -> domain.Box | None:
        bounds = domain.parallel_box(piece)
        if bounds is None or not op.outputs or not all(f.names <= bounds.keys() for f in piece.index):
            return None
        target = op.outputs[0]
        if len(piece.index) != len(target.shape):
            message = (
                f"output index of {len(piece.index)} forms for '{target.name}' of rank {len(target.shape)}"
            )
            self.report("E0516", message, op, piece)
            return None
        guards = domain.parallel_guards(piece)
        for axis, (form, extent) in enumerate(zip(piece.index, target.shape, strict=True)):
            if not domain.inside(form, extent, bounds, guards):
                low, high = domain.interval(form, bounds)
                message = (
                    f"output index '{form}' runs from {low} to {high}, outside axis {axis} of extent {extent}"
                )
                self.report("E0517", message, op, piece)
        if not domain.injective(piece, bounds):
            self.report("E0518", "two points of the domain write one element", op, piece)
        return bounds

    def pieces(self, op: Op, boxes: Sequence[tuple[Piece, domain.Box | None]]) -> None:
        live = [(p, b) for p, b in boxes if b is not None]
        for i, (a, box_a) in enumerate(live):
            for b, box_b in live[:i]:
                if not domain.disjoint(a, b, box_a, box_b):
                    help = "pieces must be shown disjoint by the bounds or the strides of one axis"
                    self.report("E0519", "two pieces may write one element", op, a, help)
        if op.fill is not None:
            return
        counts = [domain.count(p, b) for p, b in boxes]
        if None in counts:
            self.report("E0520", "cannot show that the pieces cover the output; give a fill", op)
        elif (total := sum(c or 0 for c in counts)) < op.outputs[0].size:
            message = f"the pieces write {total} of {op.outputs[0].size} elements and there is no fill"
            self.report("E0520", message, op)

    def reads(self, op: Op, piece: Piece, bounds: domain.Box) -> None:
        """Reads proved inside where the piece's guards hold."""
        for node in walk(piece.body):
            t = self.defined.get(node.tensor) if isinstance(node, Read) else None
            if not isinstance(node, Read) or t is None or len(node.index) != len(t.shape):
                continue
            if node.fill is not None:
                continue
            for axis, (form, extent) in enumerate(zip(node.index, t.shape, strict=True)):
                if not domain.inside(form, extent, bounds, piece.guards):
                    low, high = domain.interval(form, bounds)
                    message = (
                        f"'{form}' runs from {low} to {high}, outside axis {axis} of '{t.name}' ({extent})"
                    )
                    self.report("E0524", message, op, piece, f"give the read a fill: {t.name}[...] else 0")

    def body(self, op: Op, piece: Piece) -> None:
        for node in walk(piece.body):
            if not isinstance(node, Read):
                continue
            t = self.defined.get(node.tensor)
            if t is None and node.tensor in self.later:
                self.report("E0522", f"'{node.tensor}' is read before it is defined", op, piece)
            elif t is None:
                self.report("E0521", f"there is no tensor '{node.tensor}'", op, piece)
            elif len(node.index) != len(t.shape):
                message = f"index of {len(node.index)} forms for '{t.name}' of rank {len(t.shape)}"
                self.report("E0523", message, op, piece)
            elif node.fill is not None and not literal_fits(node.fill, t.dtype):
                self.report("E0534", f"the fill {node.fill} is not a value of {t.dtype}", op, piece)
        self.types(op, piece)

    def types(self, op: Op, piece: Piece) -> None:
        if not op.outputs:
            return
        target = op.outputs[0].dtype
        nodes, wrong = annotate(piece.body, self.defined, target)
        for problem in wrong:
            self.report(problem.code, problem.message, op, piece)
        result = nodes[-1].dtype
        if wrong:
            return
        if result is None:
            self.report("E0530", "a condition cannot be stored", op, piece, "select(condition, 1, 0)")
        elif op.monoid == "moments" and not result.is_float:
            self.report("E0533", "moments are of floats", op, piece)
        elif result.is_float and not target.is_float and op.monoid not in ("argmax", "argmin", "moments"):
            self.report(
                "E0530", f"a value of {result} does not fit {target}", op, piece, f"cast it: {target}(...)"
            )
        if result is not None and op.monoid in MONOIDS and op.accumulate is not None:
            same = op.accumulate.is_float == result.is_float and op.accumulate in _WIDTH
            if not same or _WIDTH[op.accumulate] < _WIDTH[result]:
                self.report("E0531", f"terms of {result} cannot accumulate in {op.accumulate}", op, piece)

    def prepare(self, op: Op) -> None:
        if not op.prepare:
            return
        for name in sorted({n.tensor for p in op.pieces for n in walk(p.body) if isinstance(n, Read)}):
            if self.kinds.get(name) != "param" and name not in self.prepared and name in self.defined:
                self.report("E0538", f"a prepare op reads '{name}', which is not a parameter", op)
        self.prepared.update(t.name for t in op.outputs)

    def define(self, op: Op) -> None:
        for t in op.outputs:
            if self.kinds.get(t.name) in ("inout", "donated"):
                self.update(op, t)
            elif t.name in self.defined:
                self.report("E0502", f"'{t.name}' is defined twice", op)
            self.defined[t.name] = t
            self.written.add(t.name)

    def update(self, op: Op, t: Tensor) -> None:
        """An op whose output has the name of an inout argument updates it in place; so with donated ones."""
        old = self.defined[t.name]
        if (old.dtype, old.shape, old.memory_order) != (t.dtype, t.shape, t.memory_order):
            self.report("E0539", f"the update of '{t.name}' differs in type, shape or order", op)
        if t.name in self.written:
            self.report("E0540", f"'{t.name}' is updated twice", op)
        for piece in op.pieces:
            for node in walk(piece.body):
                if isinstance(node, Read) and node.tensor == t.name and node.index != piece.index:
                    message = f"'{t.name}' is updated in place but read at another element"
                    self.report("E0541", message, op, piece)

    def results(self) -> None:
        seen: set[str] = set()
        for name in self.f.results:
            if name not in self.written:
                self.report("E0535", f"the result '{name}' is not computed")
            if name in seen:
                self.report("E0536", f"the result '{name}' is returned twice")
            if name in self.prepared:
                self.report("E0537", f"the result '{name}' is computed in prepare")
            seen.add(name)


def _shorten(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
