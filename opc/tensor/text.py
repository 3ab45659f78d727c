"""Canonical text of tensor IR. ``print_function(parse_function(t)) == t`` for canonical ``t``.

    func v1 conv_relu {
      source "conv_relu.k"
      doc "A convolution and its activation."
      arg x: f32[1,64,56,56] order 0,2,3,1 input
      arg w: f32[64,64,3] param
      op a: f32[1,64,56,56] sum accumulate f32 group g0 line 7 {
        piece n<1, k<64, p<56, q<56 reduce c<64, r<3 at n, k, p, q = mul(x[n, c, p + r, q] else 0, w[k, c, r])
      }
      op y: f32[1,64,56,56] group g0 fill 0.0 line 8 {
        piece n<1, k<64, p<56, q<56 at n, k, p, q guard -k + 62 = max(a[n, k, p, q], 0)
      }
      return y
    }

An empty index or order is ``()``, in a read ``[]``; ``dim(2*p + 1)`` is the value of
an affine form, and a literal with a type of its own is ``0.5:f16``. ``#`` starts a comment.
"""

from __future__ import annotations

import json
import math

from opc.affine import Affine
from opc.tensor.ir import Arg, Call, Const, Dim, DimValue, Expr, Function, Op, Piece, Read, Tensor
from opc.tensor.tokens import DIGITS, Reader

VERSION = "v1"
ARG_KINDS = ("input", "param", "inout", "donated")


def print_function(f: Function) -> str:
    """The canonical text, ending in a newline."""
    lines = [f"func {VERSION} {f.name} {{"]
    if f.source:
        lines.append(f"  source {_string(f.source)}")
    if f.doc:
        lines.append(f"  doc {_string(f.doc)}")
    lines += [f"  arg {_tensor(a.tensor)} {a.kind}" for a in f.args]
    for op in f.ops:
        lines.append(f"  {_op_header(op)} {{")
        lines += [f"    {print_piece(piece)}" for piece in op.pieces]
        lines.append("  }")
    lines.append(f"  return {', '.join(f.results)}".rstrip())
    lines.append("}")
    return "\n".join(lines) + "\n"


def print_piece(piece: Piece) -> str:
    """Text of one piece, for messages."""
    text = "piece"
    if piece.dims:
        text += " " + _dims(piece.dims)
    if piece.reduce:
        text += " reduce " + _dims(piece.reduce)
    text += " at " + (", ".join(map(str, piece.index)) or "()")
    if piece.guards:
        text += " guard " + ", ".join(map(str, piece.guards))
    return f"{text} = {print_expr(piece.body)}"


def print_expr(expr: Expr) -> str:
    """Text of one expression; iterative, so deep expressions are safe."""
    parts: list[str] = []
    stack: list[Expr | str] = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            parts.append(node)
        elif isinstance(node, Call):
            parts.append(node.fn + "(")
            stack.append(")")
            for i, arg in enumerate(reversed(node.args)):
                stack += [", ", arg] if i else [arg]
        else:
            parts.append(_leaf(node))
    return "".join(parts)


def number(value: float | int) -> str:
    """A literal that reads back to the same value and type."""
    return str(int(value)) if isinstance(value, int) else repr(float(value))


def _leaf(node: Const | DimValue | Read) -> str:
    if isinstance(node, Const):
        return number(node.value) + (f":{node.dtype}" if node.dtype is not None else "")
    if isinstance(node, DimValue):
        return f"dim({node.form})"
    fill = "" if node.fill is None else f" else {number(node.fill)}"
    return f"{node.tensor}[{', '.join(map(str, node.index))}]{fill}"


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _tensor(t: Tensor) -> str:
    order = "" if t.order is None else f" order {','.join(map(str, t.order)) or '()'}"
    return f"{t.name}: {t.dtype}[{','.join(map(str, t.shape))}]{order}"


def _dims(dims: tuple[Dim, ...]) -> str:
    return ", ".join(f"{d.name}<{d.extent}" for d in dims)


def _op_header(op: Op) -> str:
    text = "op " + ", ".join(map(_tensor, op.outputs))
    if op.monoid is not None:
        text += f" {op.monoid}"
    if op.accumulate is not None:
        text += f" accumulate {op.accumulate}"
    if op.group is not None:
        text += f" group {op.group}"
    if op.prepare:
        text += " prepare"
    if op.fill is not None:
        text += f" fill {number(op.fill)}"
    if op.line:
        text += f" line {op.line}"
    return text


def parse_function(text: str, file: str = "<tensor>") -> Function:
    """Read tensor IR text. Raises IRError (E0411 to E0418) at the offending token."""
    r = Reader(text, file)
    r.expect("func")
    if r.token.text != VERSION:
        r.error(f"the text is version {r.found()}, this opc reads {VERSION}", "E0413")
    r.take()
    name = r.name("the function's name")
    r.expect("{")
    source = r.string() if r.accept("source") else ""
    doc = r.string() if r.accept("doc") else ""
    args: list[Arg] = []
    ops: list[Op] = []
    while r.accept("arg"):
        args.append(_read_arg(r))
    while r.accept("op"):
        ops.append(_read_op(r))
    if r.token.text != "return":
        r.error(f"expected 'arg', 'op' or 'return', found {r.found()}")
    r.take()
    results: list[str] = []
    while r.token.text != "}":
        if results:
            r.expect(",")
        results.append(r.name("a result's name"))
    r.expect("}")
    if r.token.kind != "end":
        r.error("text after the end of the function", "E0418")
    return Function(name, tuple(args), tuple(results), tuple(ops), doc, source)


def _read_arg(r: Reader) -> Arg:
    tensor = _read_tensor(r)
    if r.token.text not in ARG_KINDS:
        r.error(f"unknown kind of argument {r.found()}", "E0415", help="kinds are " + ", ".join(ARG_KINDS))
    return Arg(tensor, r.take().text)


def _read_tensor(r: Reader) -> Tensor:
    name = r.name("a tensor's name")
    r.expect(":")
    dtype = r.dtype()
    r.expect("[")
    shape: list[int] = []
    while not r.accept("]"):
        if shape:
            r.expect(",")
        shape.append(r.integer())
    order: list[int] | None = None
    if r.accept("order"):
        order = []
        if r.accept("("):
            r.expect(")")
        while r.token.kind == "number":
            order.append(r.integer())
            if not r.accept(","):
                break
    return Tensor(name, dtype, tuple(shape), None if order is None else tuple(order))


def _read_op(r: Reader) -> Op:
    outputs = [_read_tensor(r)]
    while r.accept(","):
        outputs.append(_read_tensor(r))
    monoid = None
    if r.token.kind == "name" and r.token.text not in ("accumulate", "group", "prepare", "fill", "line"):
        monoid = r.take().text
    accumulate = r.dtype() if r.accept("accumulate") else None
    group = r.name("a group's name") if r.accept("group") else None
    prepare = r.accept("prepare")
    fill = _read_number(r) if r.accept("fill") else None
    line = r.integer() if r.accept("line") else 0
    r.expect("{")
    pieces: list[Piece] = []
    while not r.accept("}"):
        if not r.accept("piece"):
            r.error(f"expected 'piece' or '}}', found {r.found()}")
        pieces.append(_read_piece(r))
    return Op(tuple(outputs), tuple(pieces), monoid, fill, accumulate, group, prepare, line)


def _read_piece(r: Reader) -> Piece:
    dims = _read_dims(r)
    reduce = _read_dims(r) if r.accept("reduce") else ()
    r.expect("at")
    if r.accept("("):
        r.expect(")")
        index: tuple[Affine, ...] = ()
    else:
        index = _read_forms(r)
    guards = _read_forms(r) if r.accept("guard") else ()
    r.expect("=")
    return Piece(dims, index, _read_expr(r), reduce, guards)


def _read_dims(r: Reader) -> tuple[Dim, ...]:
    dims: list[Dim] = []
    # A dimension may be called 'at' or 'reduce': only NAME followed by '<' is one.
    while r.token.kind == "name" and r.peek() == "<":
        name = r.take().text
        r.expect("<")
        dims.append(Dim(name, r.integer()))
        if not r.accept(","):
            break
    return tuple(dims)


def _read_forms(r: Reader) -> tuple[Affine, ...]:
    forms = [_read_affine(r)]
    while r.accept(","):
        forms.append(_read_affine(r))
    return tuple(forms)


def _read_affine(r: Reader) -> Affine:
    """Products of numbers and at most one name, joined by + and -."""
    form = Affine()
    sign = -1 if r.accept("-") else 1
    while True:
        start = r.token
        term = Affine((), sign)
        while True:
            if r.token.kind == "name":
                factor = Affine.var(r.take().text)
            else:
                factor = Affine((), r.integer())
            if term.terms and factor.terms:
                r.error("the index is not affine: two names are multiplied", "E0416", start)
            term = factor * term.const if factor.terms else term * factor.const
            if not r.accept("*"):
                break
        form = form + term
        if r.token.text not in ("+", "-"):
            return form
        sign = 1 if r.take().text == "+" else -1


def _read_number(r: Reader) -> float | int:
    negative = r.accept("-")
    token = r.token
    if token.text == "inf":
        value: float | int = math.inf
    elif token.text == "nan":
        value = math.nan
    elif token.kind == "number":
        if len(token.text) > DIGITS:
            r.error("the number is too long")
        value = int(token.text) if token.text.isdigit() else float(token.text)
    else:
        r.error(f"expected a number, found {r.found()}")
    r.take()
    # -nan is the same object as nan, so that equality of functions holds.
    return -value if negative and value == value else value


def _read_expr(r: Reader) -> Expr:
    """Expressions in prefix form; iterative, so deep nesting is safe."""
    stack: list[tuple[str, list[Expr]]] = []
    while True:
        if r.token.kind == "name" and r.peek() == "(" and r.token.text != "dim":
            stack.append((r.take().text, []))
            r.take()
            if not r.accept(")"):
                continue
            fn, args = stack.pop()
            done: Expr = Call(fn, tuple(args))
        else:
            done = _read_leaf(r)
        while stack:
            stack[-1][1].append(done)
            if r.accept(","):
                break
            r.expect(")")
            fn, args = stack.pop()
            done = Call(fn, tuple(args))
        else:
            return done


def _read_leaf(r: Reader) -> Expr:
    if r.token.kind == "name" and r.peek() == "[":
        name = r.take().text
        r.expect("[")
        index = () if r.token.text == "]" else _read_forms(r)
        r.expect("]")
        return Read(name, index, _read_number(r) if r.accept("else") else None)
    if r.token.text == "dim" and r.peek() == "(":
        r.take()
        r.take()
        form = _read_affine(r)
        r.expect(")")
        return DimValue(form)
    if r.token.kind != "number" and r.token.text not in ("-", "inf", "nan"):
        help = "reads are NAME[...], functions are NAME(...)"
        r.error(f"expected an expression, found {r.found()}", "E0417", help=help)
    value = _read_number(r)
    return Const(value, r.dtype() if r.accept(":") else None)
