"""Checks inside the clauses of a kernel: dimensions, reads, functions, calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opc import scalar
from opc.lang import syntax as ast
from opc.lang.comprehension import index_dims
from opc.lang.messages import count, shown, suggest
from opc.lang.sizes import COMPARISONS, text_of, walk

if TYPE_CHECKING:
    from opc.lang.checker import KernelChecker

_WORDED = frozenset({"add", "sub", "mul", "div", "neg", "lt", "le", "gt", "ge", "eq", "ne"})
# Functions a person writes by name; the rest have operators.
FUNCTIONS = {name: f for name, f in scalar.FUNCTIONS.items() if name not in _WORDED}
# Names kept for later versions of the language, with the code that says so.
RESERVED = {"scan": "E0282", "cumsum": "E0282", "sort": "E0283", "argsort": "E0283", "topk": "E0283"}


class ExpressionChecker:
    """Checks one clause; reports to its kernel's checker.

    ``last`` maps each tensor to the last clause that writes it.
    """

    def __init__(self, owner: KernelChecker, last: dict[str, ast.Assign], clause: ast.Assign) -> None:
        self.owner, self.last, self.clause = owner, last, clause
        self.report = owner.report

    def comprehension(self, clause: ast.Assign) -> None:
        """A clause that writes elements."""
        target = clause.targets[0]
        assert target.indices is not None
        self._targets(clause)
        self._output_rank(target)
        names = [name for name, _ in index_dims(target.indices, dict.fromkeys(self.owner.sizes, 0))]
        for expr in target.indices:
            self._index(expr, set(names))
        self._domain(clause, names)
        dims = set(names)
        value = clause.value
        if isinstance(value, ast.Reduction) and value.monoid == "moments":
            if len(clause.targets) != 2:
                help = "`mean[...], m2[...] = moments[...](...)`; m2 is the sum of squared deviations"
                self.report("E0249", "moments gives two tensors", clause.span, help)
            self._reduced(value, dims)
            return
        if len(clause.targets) > 1:
            self.report("E0249", "only moments gives several tensors at once", clause.span)
        self.value(value, dims)

    def _targets(self, clause: ast.Assign) -> None:
        first = clause.targets[0]
        for other in clause.targets[1:]:
            if [_key(e) for e in other.indices or ()] != [_key(e) for e in first.indices or ()]:
                self.report("E0250", f"{other.name} and {first.name} have different indices", other.span)

    def _output_rank(self, target: ast.Target) -> None:
        declared = self.owner.results.get(target.name) or self.owner.inputs.get(target.name)
        assert target.indices is not None
        rank = len(declared.shape) if declared is not None and declared.shape is not None else None
        if rank is None:
            earlier = [
                c.targets[0]
                for c in self.owner.kernel.clauses
                if isinstance(c, ast.Assign)
                and c.targets[0].name == target.name
                and c.targets[0].indices is not None
            ]
            rank = len(earlier[0].indices or ()) if earlier else None
        if rank is not None and rank != len(target.indices):
            text = f"{target.name} has {count(rank, 'axis')}, but {count(len(target.indices), 'index')}"
            self.report("E0203", text, target.span)

    def _domain(self, clause: ast.Assign, names: list[str]) -> None:
        seen: set[str] = set()
        for dim in clause.domain:
            if dim.name in self.owner.sizes:
                self.report("E0235", f"{dim.name} is a size and cannot be a dimension", dim.span)
            elif dim.name in seen:
                self.report("E0235", f"dimension {dim.name} is declared twice", dim.span)
            elif dim.name not in names:
                text = f"dimension {dim.name} is not in the index of {clause.targets[0].name}"
                self.report(
                    "E0237", text, dim.span, help="every element would be written again for each value"
                )
            seen.add(dim.name)
            self._extent(dim, set(names))

    def _extent(self, dim: ast.Dim, dims: set[str]) -> None:
        if dim.extent is None:
            return
        inner = [n for n in walk(dim.extent) if isinstance(n, ast.Name) and n.name in dims]
        if inner:
            text = f"the extent of {dim.name} depends on dimension {inner[0].name}"
            help = "domains are boxes; use `select` for a triangle"
            self.report("E0321", text, inner[0].span, help)
            return
        self.owner.size(dim.extent)

    # Values.

    def value(self, node: ast.Expr, dims: set[str]) -> None:
        """An expression that stands for a number."""
        if isinstance(node, ast.Name):
            self._name(node, dims)
        elif isinstance(node, ast.Negate):
            self.value(node.operand, dims)
        elif isinstance(node, ast.Binary):
            if node.op in COMPARISONS:
                help = "use it as the first argument of `select`"
                self.report("E0223", "a comparison is no number", node.span, help)
            self.value(node.left, dims)
            self.value(node.right, dims)
        elif isinstance(node, ast.Read):
            self._read(node, dims)
        elif isinstance(node, ast.Reduction):
            if node.monoid == "moments":
                help = "`mean[i], m2[i] = moments[j](x[i, j])`"
                self.report(
                    "E0249",
                    "moments gives two tensors; it cannot stand inside an expression",
                    node.span,
                    help,
                )
            self._reduced(node, dims)
        elif isinstance(node, ast.UnknownReduction):
            self._unknown_reduction(node)
        elif isinstance(node, ast.Call):
            self._function(node, dims)

    def _name(self, node: ast.Name, dims: set[str]) -> None:
        if node.name in dims or node.name in self.owner.sizes or node.name == "inf":
            return
        if self._is_tensor(node.name):
            help = f"write `{node.name}[...]`"
            self.report("E0216", f"tensor {node.name} needs an index here", node.span, help)
            return
        help = suggest(node.name, [*dims, *self.owner.sizes])
        self.report("E0202", f"unknown name {shown(node.name)}", node.span, help)

    def _is_tensor(self, name: str) -> bool:
        return name in self.owner.ranks or name in self.last or name in self.owner.results

    def tensor(self, name: str, node: ast.Read | ast.Name) -> bool:
        """Whether ``name`` is a tensor that has its value here; reports if not."""
        if self.last.get(name) is self.clause or name in {t.name for t in self.clause.targets}:
            if name in self.owner.inputs:
                return True  # an inout tensor is read before it is written
            help = "recurrences are not part of the language; use a reduction"
            self.report("E0238", f"{name} is read while it is written", node.span, help)
            return False
        if name in self.owner.inputs and name in self.owner.changed:
            help = "read it in the clause that writes it, or before"
            self.report("E0209", f"{name} has been overwritten here", node.span, help)
            return False
        if name in self.owner.ranks:
            return True
        if name in self.last:
            help = "move the clause that writes it up"
            self.report("E0209", f"{name} is read before all of it is written", node.span, help)
        elif name in self.owner.results:
            self.report("E0209", f"{name} is read, but never written", node.span)
        else:
            self.report("E0201", f"unknown tensor {shown(name)}", node.span, suggest(name, self.owner.ranks))
        return False

    def _read(self, node: ast.Read, dims: set[str]) -> None:
        if self.tensor(node.tensor, node):
            rank = self.owner.ranks[node.tensor]
            if rank != len(node.indices):
                text = f"{node.tensor} has {count(rank, 'axis')}, but {count(len(node.indices), 'index')}"
                self.report("E0203", text, node.span)
            if node.tensor in {t.name for t in self.clause.targets}:
                self._in_place(node)
        for expr in node.indices:
            self._index(expr, dims)
        if node.fill is not None:
            self._fill(node.fill, dims)

    def _in_place(self, node: ast.Read) -> None:
        written = self.clause.targets[0].indices or ()
        if [_key(e) for e in node.indices] != [_key(e) for e in written]:
            help = "an inout tensor is read where it is written; copy it to another tensor first"
            self.report("E0238", f"{node.tensor} is read elsewhere while it is written", node.span, help)

    def _index(self, expr: ast.Expr, dims: set[str]) -> None:
        for node in walk(expr):
            if isinstance(node, ast.Read | ast.Reduction | ast.UnknownReduction):
                text = "an index that is read from a tensor is not built yet"
                self.report("E0280", text, node.span, "indices are sums of dimensions times sizes")
                return
            if isinstance(node, ast.Call) or (isinstance(node, ast.Binary) and node.op in COMPARISONS):
                self.report("E0309", "this index is not affine", node.span, "use +, - and * by sizes")
                return
            if isinstance(node, ast.Number) and isinstance(node.value, float):
                self.report("E0319", f"an index is a whole number, not {node.value}", node.span)
            if isinstance(node, ast.Name) and node.name not in dims and node.name not in self.owner.sizes:
                help = suggest(node.name, [*sorted(dims), *self.owner.sizes])
                self.report("E0202", f"unknown dimension {shown(node.name)}", node.span, help)

    def _fill(self, fill: ast.Expr, dims: set[str]) -> None:
        for node in walk(fill):
            varying = isinstance(node, ast.Name) and node.name in dims
            if varying or isinstance(node, ast.Read | ast.Reduction | ast.UnknownReduction):
                help = "use numbers, sizes and `inf`"
                self.report("E0247", "the value after `else` must be constant", node.span, help)
                return
        self.owner.size(fill)

    def _reduced(self, node: ast.Reduction, dims: set[str]) -> None:
        inner = set(dims)
        for dim in node.dims:
            if dim.name in inner:
                text = f"dimension {dim.name} is already in use"
                self.report("E0235", text, dim.span, help="give the inner dimension another name")
            elif dim.name in self.owner.sizes:
                self.report("E0235", f"{dim.name} is a size and cannot be a dimension", dim.span)
            self._extent(dim, inner)
            inner.add(dim.name)
        self.value(node.body, inner)

    def _unknown_reduction(self, node: ast.UnknownReduction) -> None:
        code = RESERVED.get(node.name)
        if code is not None:
            self.report(code, f"{node.name} is not built yet", node.span)
            return
        help = suggest(node.name, scalar.MONOIDS) or f"reductions: {', '.join(scalar.MONOIDS)}"
        self.report("E0285", f"unknown reduction {shown(node.name)}", node.span, help)

    # Functions and kernels.

    def _function(self, node: ast.Call, dims: set[str]) -> None:
        function = FUNCTIONS.get(node.function)
        arity = 1 if node.function == "T" else function.arity if function else None
        if arity is None:
            self._unknown_function(node)
            return
        for argument in node.args:
            if argument.keyword is not None:
                self.report("E0213", f"{node.function} has no named arguments", argument.span)
        if len(node.args) != arity:
            text = f"{node.function} takes {count(arity, 'value')}, not {len(node.args)}"
            self.report("E0210", text, node.span)
        values = [a.value for a in node.args if not isinstance(a.value, ast.NameList)]
        for position, value in enumerate(values):
            if node.function == "select" and position == 0:
                self._condition(value, dims)
            else:
                self.value(value, dims)

    def _condition(self, node: ast.Expr, dims: set[str]) -> None:
        if isinstance(node, ast.Binary) and node.op in COMPARISONS:
            self.value(node.left, dims)
            self.value(node.right, dims)
            return
        help = "such as `select(x[i] > 0, x[i], 0)`"
        self.report("E0223", "select wants a comparison first", node.span, help)

    def _unknown_function(self, node: ast.Call) -> None:
        if self.owner.program.find(self.owner.file, node.function) is not None:
            text = f"kernel {shown(node.function)} works on whole tensors, not on elements"
            self.report(
                "E0219", text, node.span, help=f"write `t = {node.function}(...)` first, then read `t[...]`"
            )
            return
        code = RESERVED.get(node.function)
        if code is not None:
            self.report(code, f"{node.function} is not built yet", node.span)
            return
        help = suggest(node.function, [*FUNCTIONS, "T"])
        self.report("E0204", f"unknown function {shown(node.function)}", node.span, help)


def _key(expr: ast.Expr) -> str:
    return text_of(expr)
