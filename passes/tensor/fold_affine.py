"""Fold affine maps with coefficients of few dimensions: into one product and sum, and into weights, under a licence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.pipeline import FAST, Context
from opc.tensor.ir import Call, Const, Dim, Expr, Function, Op, Piece, Read, Tensor, reads, rewrite, walk
from passes.tensor._algebra import (
    expr_dims,
    expr_reads,
    expr_type,
    fresh,
    inside,
    is_pointwise,
    is_total,
    parameters,
    rename_tensors,
    substitute,
)
from passes.tensor._contraction import classify_contraction

# Results that share a coefficient of the run, at least: working on coefficients then costs little.
_SHARED = 8


@dataclass(frozen=True)
class FoldAffine:
    """Write ``(x - m) * s + t`` as ``x * A + B`` and multiply A into the weights that made x.

    Licensed by ``numerics="fast"`` only. Any chain of sums, differences, products and quotients of one value
    with coefficients that vary over fewer dimensions becomes one product and one sum, if that is fewer
    operations: batch norm with parameters, or with statistics of the batch. Where x is a contraction with a
    parameter that nothing else reads, and A is made of parameters and varies along axes of that parameter only,
    prepare multiplies it into the weights, which are rounded to their type again: x + B is left.

    Exact arithmetic gives the same values. Rounding differs, and the bound is the running error of the rewritten
    IR: ``u |x A| + u |B|`` in place of ``u |x - m| |A|``, which is worse where x cancels against m, and ``u_w`` for
    every scaled weight, u_w being the roundoff of the weights' type: with f16 and bf16 weights that is the largest
    term. Scaled weights may leave the range of their type where weights do not.

    Before:
        func v1 scaled {
          arg x: f32[64,16] input
          arg w: f32[8,16] param
          arg gamma: f32[8] param
          arg beta: f32[8] param
          arg mean: f32[8] param
          op a: f32[64,8] sum accumulate f32 {
            piece i<64, k<8 reduce c<16 at i, k = mul(x[i, c], w[k, c])
          }
          op y: f32[64,8] {
            piece i<64, k<8 at i, k = add(mul(sub(a[i, k], mean[k]), gamma[k]), beta[k])
          }
          return y
        }
    After:
        func v1 scaled {
          arg x: f32[64,16] input
          arg w: f32[8,16] param
          arg gamma: f32[8] param
          arg beta: f32[8] param
          arg mean: f32[8] param
          op w_scaled: f32[8,16] prepare {
            piece d0<8, d1<16 at d0, d1 = mul(w[d0, d1], gamma[d0])
          }
          op a: f32[64,8] sum accumulate f32 {
            piece i<64, k<8 reduce c<16 at i, k = mul(x[i, c], w_scaled[k, c])
          }
          op y: f32[64,8] {
            piece i<64, k<8 at i, k = add(a[i, k], sub(beta[k], mul(mean[k], gamma[k])))
          }
          return y
        }
    """

    name: ClassVar[str] = "fold-affine"
    level: ClassVar[str] = "tensor"

    weights: bool = True  # whether factors go into the weights of another op

    def run(self, ir: Function, context: Context) -> Function:
        """The function with affine maps folded where that is licensed."""
        if context.numerics != FAST:
            return ir
        merger = _Merger(ir, self.weights)
        ops = tuple(merger.op(op) for op in ir.ops)
        function = ir if ops == ir.ops else ir.with_ops(ops)
        for op in function.ops if self.weights else ():
            function = _scaled(op, function)
        return function


@dataclass(frozen=True, slots=True)
class _Form:
    """``run * factor + shift`` (``negative``: minus) in place of ``source``, which takes ``work`` operations on values.

    With ``run`` None, ``source`` is a coefficient.
    """

    source: Expr
    run: Expr | None
    factor: Expr | None = None
    shift: Expr | None = None
    negative: bool = False
    work: int = 0

    def sum(self) -> Expr:
        """The form as an expression."""
        assert self.run is not None
        value = self.run if self.factor is None else Call("mul", (self.run, self.factor))
        return value if self.shift is None else Call("sub" if self.negative else "add", (value, self.shift))

    def grown(self, fn: str, other: Expr, source: Expr) -> _Form:
        """This form ``fn`` a coefficient."""
        if fn in ("mul", "div"):
            one = fn == "mul" and self.factor is None
            factor = other if one else Call(fn, (self.factor or Const(1.0), other))
            shift = self.shift and Call(fn, (self.shift, other))
            return _Form(source, self.run, factor, shift, self.negative, self.work + 1)
        minus, shift = fn == "sub", self.shift
        if shift is None or self.negative == minus:
            shift = Call("add", (shift, other)) if shift is not None else other
            return _Form(source, self.run, self.factor, shift, minus, self.work + 1)
        difference = Call("sub", (other, shift) if self.negative else (shift, other))
        return _Form(source, self.run, self.factor, difference, False, self.work + 1)


class _Merger:
    """Chains of sums and products of pointwise ops, as forms."""

    def __init__(self, function: Function, weights: bool) -> None:
        self.tensors = function.tensors()
        self.parameters = parameters(function)
        made = ((op, classify_contraction(op, function)) for op in (function.ops if weights else ()))
        self.scalable = {op.name for op, c in made if c is not None and c.b.tensor in self.parameters}

    def op(self, op: Op) -> Op:
        """The op, its bodies as short as they get."""
        if not is_pointwise(op) or op.prepare:
            return op
        return replace(op, pieces=tuple(self._piece(p) for p in op.pieces))

    def _piece(self, piece: Piece) -> Piece:
        done: list[_Form] = []
        for node in walk(piece.body):
            if not isinstance(node, Call):
                done.append(_Form(node, None if self._coefficient(node, piece) else node))
                continue
            args = done[len(done) - len(node.args) :]
            del done[len(done) - len(node.args) :]
            done.append(self._form(node.fn, args, piece))
        body = self._shortest(done[0])
        return piece if body == piece.body else replace(piece, body=body)

    def _form(self, fn: str, args: list[_Form], piece: Piece) -> _Form:
        source = Call(fn, tuple(self._shortest(a) for a in args))
        if self._coefficient(source, piece):
            return _Form(source, None)
        if fn in ("add", "mul") and args[0].run is None:
            args = args[::-1]
        if fn not in ("add", "sub", "mul", "div") or args[0].run is None or args[1].run is not None:
            return _Form(source, source)
        value = self._shortest(args[0])
        # Only what came before is given up where the whole chain makes no form.
        for form in (args[0], _Form(value, value)):
            grown = form.grown(fn, args[1].source, source)
            if self._sound(grown, piece):
                return grown
        return _Form(source, source)

    def _shortest(self, form: _Form) -> Expr:
        """Whichever takes fewer operations on values; a factor that goes into weights takes none."""
        if form.run is None:
            return form.source
        work = (form.factor is not None) + (form.shift is not None)
        if form.factor is not None and isinstance(form.run, Read) and form.run.tensor in self.scalable:
            work -= self._known(form.factor)
        return form.sum() if work < form.work else form.source

    def _sound(self, form: _Form, piece: Piece) -> bool:
        """Whether the form has the type of its source, and coefficients that are worth it."""
        dtype = expr_type(form.source, self.tensors)
        if dtype is None or not dtype.is_float or expr_type(form.sum(), self.tensors) is not dtype:
            return False
        made = [e for e in (form.factor, form.shift) if e is not None]
        literal = any(isinstance(n, Call) and not expr_reads(n) for e in made for n in walk(e))
        return not literal and all(self._coefficient(e, piece) for e in made)

    def _coefficient(self, expr: Expr, piece: Piece) -> bool:
        """Whether few values of an expression serve all results."""
        extents = {d.name: d.extent for d in piece.dims}
        own, all_ = prod(extents[n] for n in expr_dims(expr)), prod(extents.values())
        return own < all_ if self._known(expr) else own * _SHARED <= all_

    def _known(self, expr: Expr) -> bool:
        """Whether prepare can compute it."""
        return all(r.tensor in self.parameters for r in expr_reads(expr))


def _scaled(op: Op, function: Function) -> Function:
    """The function with what multiplies an op's result moved into its weights, where that is possible."""
    op = next(o for o in function.ops if o.name == op.name)
    found, known = classify_contraction(op, function), parameters(function)
    readers = [o for o in function.ops if any(r.tensor == op.name for r in reads(o))]
    exported = {*function.results, *(a.tensor.name for a in function.args)}
    if found is None or found.b.tensor not in known or op.name in exported or not is_total(op):
        return function
    weights = function.tensors()[found.b.tensor]
    if found.b.fill is not None or not weights.dtype.is_float or len(readers) != 1:
        return function
    product = _product(readers[0], op.name)
    if product is None or any(r.tensor not in known for r in expr_reads(product.args[1])):
        return function
    made = _weights(op, found.b, product, readers[0], function)
    if not made:
        return function
    changed = {op.name: rename_tensors(op, {weights.name: made[-1].name})}
    changed[readers[0].name] = _without(readers[0], product)
    ops = [o for old in function.ops for o in (*(made if old is op else ()), changed.get(old.name, old))]
    return function.with_ops(tuple(ops))


def _product(reader: Op, name: str) -> Call | None:
    """The product ``tensor * factor`` through which all of an op reads a tensor."""
    found: list[Call] = []
    whole = 0
    for node in walk(reader.pieces[0].body):
        whole += isinstance(node, Read) and node.tensor == name
        if isinstance(node, Call) and node.fn == "mul":
            value = node.args[0]
            if isinstance(value, Read) and value.tensor == name and value.fill is None:
                found.append(node)
    same = len(reader.pieces) == 1 and whole == len(found) > 0 and all(f == found[0] for f in found)
    return found[0] if same else None


def _weights(op: Op, weights: Read, product: Call, reader: Op, function: Function) -> list[Op]:
    """Ops of prepare, the last of which multiplies the factor into the weights; none where it varies otherwise."""
    tensors = function.tensors()
    source = tensors[weights.tensor]
    dims = tuple(Dim(f"d{axis}", extent) for axis, extent in enumerate(source.shape))
    index = tuple(Affine.var(d.name) for d in dims)
    places = _places(product, op.pieces[0], weights)
    if places is None:
        return []
    factor = substitute(product.args[1], {name: index[axis] for name, axis in places.items()})
    extents = {d.name: d.extent for d in dims}
    if not all(inside(r.index, tensors[r.tensor].shape, extents) for r in expr_reads(factor)):
        return []
    made: list[Op] = []
    if isinstance(factor, Call):  # once for all weights that share it
        own = tuple(dims[axis] for axis in sorted(places.values()))
        at = tuple(Affine.var(d.name) for d in own)
        dtype = expr_type(factor, tensors)
        assert dtype is not None
        scale = Tensor(fresh(f"{reader.name}_scale", tensors), dtype, tuple(d.extent for d in own))
        made.append(Op((scale,), (Piece(own, at, factor),), prepare=True, line=reader.line))
        factor = Read(scale.name, at)
    scaled = replace(source, name=fresh(f"{source.name}_scaled", tensors))
    piece = Piece(dims, index, Call("mul", (Read(source.name, index), factor)))
    return [*made, Op((scaled,), (piece,), prepare=True, line=reader.line)]


def _places(product: Call, piece: Piece, weights: Read) -> dict[str, int] | None:
    """Axis of the weights for every dim of the factor; None if it varies otherwise than they do."""
    read, factor = product.args
    assert isinstance(read, Read)
    names, places = expr_dims(factor), dict[str, int]()
    for form, made in zip(read.index, piece.index, strict=True):
        name = form.as_var()
        if name is not None and name in names and made in weights.index:
            places[name] = weights.index.index(made)
    return places if places.keys() == names else None


def _without(reader: Op, product: Call) -> Op:
    """The op reading scaled values."""
    piece = reader.pieces[0]
    # By identity: what is left may look like the product again.
    places = {id(node) for node in walk(piece.body) if node == product}
    body = rewrite(piece.body, lambda node: product.args[0] if id(node) in places else node)
    return replace(reader, pieces=(replace(piece, body=body),))
