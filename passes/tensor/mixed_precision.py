"""Compute the products of an f32 function in a narrow type, by a policy for every kind of comprehension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from opc.dtypes import DType
from opc.errors import PassError, fail
from opc.numerics import low_type
from opc.pipeline import Context
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Function, Op, Piece, Read, Tensor, reads, walk
from passes.tensor._algebra import fresh, is_pointwise, parameters, rename_tensors
from passes.tensor._contraction import factors, uses
from passes.tensor._parts import element, everywhere

NARROW, WIDE, CARRIED, STORED = "narrow", "f32", "carried", "stored"
AMPLIFIERS = (
    "exp",
    "log",
)  # an error of their argument, however small beside it, may be large beside their value


class Rule(NamedTuple):
    """What one kind of comprehension reads, NARROW, WIDE or as it is STORED, and what it stores: NARROW, WIDE, or as
    what it is CARRIED by. Everything is computed and accumulated in f32, whatever the rule.
    """

    what: str
    operands: str
    result: str


POLICY: dict[str, Rule] = {
    "product": Rule("sum of products of two tensors, one of which is used for many results", NARROW, NARROW),
    "statistic": Rule("any other sum, moments", STORED, WIDE),
    "amplifier": Rule("anything with an exponential or a logarithm in it", WIDE, WIDE),
    "choice": Rule("maximum or minimum, which only picks", STORED, CARRIED),
    "elementwise": Rule("any other expression of elements", STORED, CARRIED),
}


@dataclass(frozen=True)
class MixedPrecision:
    """A function in f32 whose products take their factors in a narrow type, and add up in f32 still.

    ``POLICY`` says for each kind of comprehension, told by what it computes, in which type its operands and its
    result are stored. Arguments, results and what is updated keep their types: weights stay f32, and a product reads
    a copy of them that is rounded once. What an element of an expression is CARRIED by are the reads that every
    dimension of the result indexes: a normalised image is stored as the image was, whatever the statistics are.
    What leads to an exponential or a logarithm is not rounded on the way, from the product on.

    Gradients of the function follow: a factor's gradient is computed from narrow factors, that of a rounded copy
    has the type of what was copied.

    Before:
        func v1 linear {
          arg x: f32[16,64] input
          arg w: f32[48,64] param
          arg bias: f32[48] param
          op a: f32[16,48] sum accumulate f32 line 1 {
            piece m<16, n<48 reduce k<64 at m, n = mul(x[m, k], w[n, k])
          }
          op y: f32[16,48] line 2 {
            piece m<16, n<48 at m, n = add(a[m, n], bias[n])
          }
          return y
        }
    After:
        func v1 linear {
          arg x: f32[16,64] input
          arg w: f32[48,64] param
          arg bias: f32[48] param
          op x_bf16: bf16[16,64] line 1 {
            piece i0<16, i1<64 at i0, i1 = x[i0, i1]
          }
          op w_bf16: bf16[48,64] line 1 {
            piece i0<48, i1<64 at i0, i1 = w[i0, i1]
          }
          op a: bf16[16,48] sum accumulate f32 line 1 {
            piece m<16, n<48 reduce k<64 at m, n = mul(x_bf16[m, k], w_bf16[n, k])
          }
          op y: f32[16,48] line 2 {
            piece m<16, n<48 at m, n = add(a[m, n], bias[n])
          }
          return y
        }
    """

    name: ClassVar[str] = "mixed-precision"
    level: ClassVar[str] = "tensor"

    dtype: str = "bf16"

    def run(self, ir: Function, context: Context) -> Function:
        return mixed(ir, low_type(self.dtype))


def mixed(function: Function, low: DType) -> Function:
    """``function`` under the policy, with ``low`` as its narrow type. Raises PassError E0714."""
    already = next((t for t in function.tensors().values() if t.dtype in (DType.F16, DType.BF16)), None)
    if already is not None:
        message = f"'{already.name}' of '{function.name}' is {already.dtype} already"
        help = "mixed precision converts kernels written in f32: leave out the conversion, or ask for f32"
        raise fail(PassError, "E0714", message, help=help)
    kinds = {op.name: kind_of(op, function) for op in function.ops}
    if "product" not in kinds.values():
        return function
    return _Conversion(function, kinds, low).function()


def kind_of(op: Op, function: Function) -> str:
    """Which rule of the policy an op falls under, by what it computes."""
    if any(isinstance(n, Call) and n.fn in AMPLIFIERS for p in op.pieces for n in walk(p.body)):
        return "amplifier"
    if _is_product(op, function.tensors()):
        return "product"
    if is_pointwise(op):
        return "elementwise"
    return "choice" if op.monoid in ("max", "min") else "statistic"


def _is_product(op: Op, tensors: Mapping[str, Tensor]) -> bool:
    """Whether every piece multiplies two f32 tensors, and the sums of some use a factor for many results."""
    if op.monoid != "sum" or op.outputs[0].dtype is not DType.F32:
        return False
    pairs = [factors(p.body, tensors) for p in op.pieces]
    if any(pair is None or any(tensors[r.tensor].dtype is not DType.F32 for r in pair) for pair in pairs):
        return False
    return any(_shares(p, *pair) for p, pair in zip(op.pieces, pairs, strict=True) if pair is not None)


def _shares(piece: Piece, a: Read, b: Read) -> bool:
    """Whether a sum runs along both factors, and some dimension of the result along one of them only."""
    along = any(uses(a, d) and uses(b, d) for d in piece.reduce)
    return along and any(uses(a, d) != uses(b, d) for d in piece.dims)


class _Conversion:
    """One function under the policy. ``narrow``: intermediate tensors that are stored in the narrow type;
    ``copies``: narrow copies of others, by their names.
    """

    def __init__(self, function: Function, kinds: Mapping[str, str], low: DType) -> None:
        self.original, self.kinds, self.low = function, kinds, low
        self.tensors = dict(function.tensors())
        self.kept = {a.tensor.name for a in function.args} | set(function.results)
        self.exact = _exact(function, kinds)
        self.narrow: set[str] = set()
        for op in function.ops:
            if self._stored(op) == NARROW:
                self.narrow.add(op.name)
        self.narrow |= self._operands_alone()
        self.copies: dict[str, str] = {}

    def function(self) -> Function:
        """The converted function."""
        ops: list[Op] = []
        for op in self.original.ops:
            if POLICY[self.kinds[op.name]].operands == NARROW:
                for name in dict.fromkeys(r.tensor for r in reads(op)):
                    if name not in self.narrow and name not in self.copies:
                        ops.append(self._copy(name, op.line))
                op = replace(rename_tensors(op, self.copies), accumulate=op.accumulate or DType.F32)
            elif op.name in self.narrow and op.monoid == "sum":
                op = replace(op, accumulate=op.accumulate or DType.F32)
            if op.name in self.narrow:
                op = replace(op, outputs=(replace(op.outputs[0], dtype=self.low),))
            ops.append(op)
        return self.original.with_ops(tuple(ops))

    def _stored(self, op: Op) -> str:
        """NARROW where the policy stores the op's result so."""
        rule, out = POLICY[self.kinds[op.name]], op.outputs[0]
        if out.name in self.kept or out.name in self.exact or out.dtype is not DType.F32:
            return WIDE
        if rule.result != CARRIED:
            return rule.result
        carriers = {
            r.tensor for p in op.pieces for r in _carriers(p) if self.tensors[r.tensor].dtype.is_float
        }
        return NARROW if carriers and carriers <= self.narrow else WIDE

    def _operands_alone(self) -> set[str]:
        """Intermediate tensors that products alone read: rounded where they are stored instead of copied.

        What is made of parameters alone is copied like a parameter, so that its gradient is not rounded.
        """
        fixed = _made_of_parameters(self.original)
        readers: dict[str, set[str]] = {}
        for op in self.original.ops:
            for read in reads(op):
                readers.setdefault(read.tensor, set()).add(POLICY[self.kinds[op.name]].operands)
        return {
            op.name
            for op in self.original.ops
            if readers.get(op.name) == {NARROW} and op.name not in self.kept | fixed and len(op.outputs) == 1
        }

    def _copy(self, name: str, line: int) -> Op:
        tensor = self.tensors[name]
        copy = replace(tensor, name=fresh(f"{name}_{self.low}", self.tensors), dtype=self.low)
        self.tensors[copy.name] = copy
        self.copies[name] = copy.name
        return Op((copy,), (everywhere(copy, Read(name, element(len(copy.shape)))),), line=line)


def _exact(function: Function, kinds: Mapping[str, str]) -> set[str]:
    """Tensors that an op with wide operands works on, and what those are carried by, back to the products."""
    found: set[str] = set()
    for op in reversed(function.ops):
        rule = POLICY[kinds[op.name]]
        asked = any(t.name in found for t in op.outputs) and rule.result == CARRIED
        if asked or rule.operands == WIDE:
            found.update(r.tensor for r in reads(op))
    return found


def _made_of_parameters(function: Function) -> set[str]:
    """Tensors that depend on parameters and on nothing else."""
    found = set(parameters(function))
    for op in function.ops:
        if all(r.tensor in found for r in reads(op)):
            found.update(t.name for t in op.outputs)
    return found


def _carriers(piece: Piece) -> Iterator[Read]:
    """Reads that every dimension of the result indexes, those in conditions left out."""
    stack = [piece.body]
    while stack:
        node = stack.pop()
        if isinstance(node, Read) and all(uses(node, d) for d in piece.dims):
            yield node
        elif isinstance(node, Call):
            stack.extend(node.args[1:] if FUNCTIONS[node.fn].kind == "select" else node.args)
