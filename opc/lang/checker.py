"""What can be said of a file before any size is known: names, ranks, arguments, order of clauses.

Independent errors are collected, so that one run shows them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from opc import scalar
from opc.dtypes import DType
from opc.errors import Diagnostic, LanguageError, Span
from opc.lang import derived
from opc.lang import syntax as ast
from opc.lang.check_calls import CallChecker
from opc.lang.check_expressions import ExpressionChecker
from opc.lang.loader import Program
from opc.lang.messages import count, problem, shown, suggest
from opc.lang.sizes import COMPARISONS, walk
from opc.lang.sizes import FUNCTIONS as SIZE_FUNCTIONS

MAX_DIAGNOSTICS = 20
_TYPES = ("T", *DType)


def check_file(program: Program, file: ast.File) -> None:
    """Raise ``LanguageError`` with every error of ``file`` that needs no sizes; once per file."""
    if id(file) in program.checked:
        return
    found: list[Diagnostic] = []
    if not file.kernels and not file.derived:
        text = "the file declares no kernel"
        found.append(
            problem("E0115", text, Span(file.name, 1), help="kernel name(x: T[N]) -> (y: T[N]) { ... }")
        )
    found += _declared_twice(_names(file))
    found += derived.problems(program, file)
    for kernel in file.kernels:
        found += KernelChecker(program, file, kernel).run()
    if found:
        raise LanguageError(found[:MAX_DIAGNOSTICS], file.text)
    program.checked.add(id(file))


def _names(file: ast.File) -> Iterator[tuple[str, Span]]:
    """Every name that a declaration takes; the kernels of a pair are called NAME_fwd and NAME_bwd in C."""
    for d in file.declarations:
        if not isinstance(d, ast.Use):
            yield d.name, d.span
        if isinstance(d, ast.Derived):
            yield from ((f"{d.name}_{half}", d.span) for half in derived.HALVES)


def _declared_twice(kernels: Iterable[tuple[str, Span]]) -> list[Diagnostic]:
    first: dict[str, Span] = {}
    found = []
    for name, span in kernels:
        if name in first:
            text = f"a second kernel {shown(name)}"
            found.append(problem("E0205", text, span, secondary=((first[name], "the first one"),)))
        first.setdefault(name, span)
    return found


class KernelChecker:
    """Checks one kernel; ``sizes`` and ``ranks`` grow as the text defines names."""

    def __init__(self, program: Program, file: ast.File, kernel: ast.Kernel) -> None:
        self.program, self.file, self.kernel = program, file, kernel
        self.found: list[Diagnostic] = []
        self.spans: dict[str, Span] = {}
        self.sizes: dict[str, Span] = {}
        self.ranks: dict[str, int] = {}
        self.results = {r.name: r for r in kernel.results}
        self.inputs = {p.name: p for p in kernel.tensors}
        self.changed: set[str] = set()  # inout tensors that a clause so far has updated

    def report(self, code: str, message: str, span: Span, help: str = "", **more: object) -> None:
        """Note one error."""
        self.found.append(problem(code, message, span, help, **more))  # type: ignore[arg-type]

    def run(self) -> list[Diagnostic]:
        """All errors of the kernel."""
        self._parameters()
        self._results()
        for clause in self.kernel.clauses:
            if isinstance(clause, ast.Let):
                self.size(clause.value)
                self._define(clause.name, clause.span)
                self.sizes[clause.name] = clause.span
            elif isinstance(clause, ast.Require):
                self._require(clause)
        self._shapes()
        self._example()
        self._assignments()
        return self.found

    # Declarations.

    def _define(self, name: str, span: Span) -> None:
        if name in ("inf", "T"):
            self.report("E0208", f"`{name}` has a meaning of its own", span, help="choose another name")
        elif name in self.spans:
            where = ((self.spans[name], "first declared here"),)
            self.report("E0206", f"{shown(name)} is declared twice", span, secondary=where)
        self.spans.setdefault(name, span)

    def _type(self, param: ast.Param) -> None:
        allowed = (*_TYPES, "int") if param.kind == "attribute" else _TYPES
        if param.type not in allowed:
            help = suggest(param.type, allowed) or f"types: {', '.join(allowed)}"
            self.report("E0207", f"unknown type {shown(param.type)}", param.type_span, help=help)

    def _parameters(self) -> None:
        for param in self.kernel.params:
            self._define(param.name, param.span)
            self._type(param)
            if param.shape is None:
                self.sizes[param.name] = param.span
                if param.kind != "attribute":
                    help = f"give it a shape: `{param.name}: {param.type}[N]`"
                    self.report("E0242", f"{param.kind} {param.name} is not a tensor", param.span, help=help)
                elif param.default is not None:
                    self._default(param)
            elif param.default is not None:
                self.report("E0239", f"tensor {param.name} cannot have a default", param.default.span)
        lets = {c.name for c in self.kernel.lets}
        for param in self.kernel.tensors:
            self.ranks[param.name] = len(param.shape or ())
            for expr in param.shape or ():
                new = isinstance(expr, ast.Name) and expr.name not in lets
                if isinstance(expr, ast.Name) and new and expr.name not in self.spans:
                    self._define(expr.name, expr.span)
                    self.sizes[expr.name] = expr.span

    def _results(self) -> None:
        if not self.kernel.results and not any(p.kind == "inout" for p in self.kernel.tensors):
            self.report(
                "E0240", f"kernel {self.kernel.name} has no result", self.kernel.span, help="-> (y: T[N])"
            )
        for result in self.kernel.results:
            self._define(result.name, result.span)
            self._type(result)
            if result.shape is None:
                help = f"a total has one element: `{result.name}: {result.type}[1]`, `{result.name}[0] = ...`"
                self.report("E0243", f"result {result.name} has no shape", result.span, help=help)
            if result.kind != "result":
                self.report(
                    "E0241", f"a result cannot be `{result.kind}`", result.span, help="mark the argument"
                )
            if result.default is not None:
                self.report("E0239", f"result {result.name} cannot have a default", result.default.span)

    def _shapes(self) -> None:
        for param in (*self.kernel.tensors, *self.kernel.results):
            for expr in param.shape or ():
                self.size(expr)

    def _require(self, clause: ast.Require) -> None:
        condition = clause.condition
        if isinstance(condition, ast.Binary) and condition.op in COMPARISONS:
            self.size(condition.left)
            self.size(condition.right)
            return
        self.report(
            "E0223", "a requirement is a comparison", condition.span, help='such as `require C > 0 "..."`'
        )

    def _example(self) -> None:
        attributes = {p.name for p in self.kernel.attributes}
        lets = {c.name for c in self.kernel.lets}
        known = attributes | (set(self.sizes) - lets)
        for entry in self.kernel.example.values():
            self.constant(entry.value)
            if entry.name not in known:
                help = suggest(entry.name, known)
                self.report(
                    "E0244", f"{shown(entry.name)} is no size or attribute of the kernel", entry.span, help
                )

    # Sizes.

    def _default(self, param: ast.Param) -> None:
        """A default may use the attributes before its own."""
        assert param.default is not None
        saved = self.sizes
        self.sizes = {name: span for name, span in saved.items() if name != param.name}
        self.size(param.default)
        self.sizes = saved

    def constant(self, expr: ast.Expr) -> None:
        """An expression of numbers only."""
        saved, self.sizes = self.sizes, {}
        self.size(expr)
        self.sizes = saved

    def size(self, expr: ast.Expr) -> None:
        """An expression of sizes."""
        for node in walk(expr):
            if isinstance(node, ast.Name):
                if node.name not in self.sizes and node.name != "inf":
                    self._unknown_size(node)
            elif isinstance(node, ast.Binary) and node.op in COMPARISONS:
                self.report("E0223", "a comparison stands where a size is wanted", node.span)
            elif isinstance(node, ast.Call):
                self._size_function(node)
            elif isinstance(node, ast.Read | ast.Reduction | ast.UnknownReduction):
                help = "sizes are numbers, attributes and extents of the arguments"
                self.report(
                    "E0281",
                    "a size that depends on the contents of a tensor is not built yet",
                    node.span,
                    help,
                )
                return

    def _unknown_size(self, node: ast.Name) -> None:
        if node.name in self.ranks or node.name in self.results:
            self.report("E0281", f"tensor {shown(node.name)} stands where a size is wanted", node.span)
            return
        later = any(c.name == node.name for c in self.kernel.lets)
        help = "its `let` comes later; move it up" if later else suggest(node.name, self.sizes)
        self.report("E0202", f"unknown size {shown(node.name)}", node.span, help)

    def _size_function(self, node: ast.Call) -> None:
        if node.function not in SIZE_FUNCTIONS:
            help = suggest(node.function, SIZE_FUNCTIONS)
            self.report("E0204", f"{shown(node.function)} is not a function of sizes", node.span, help)
            return
        arity = scalar.FUNCTIONS[node.function].arity
        if len(node.args) != arity or any(a.keyword for a in node.args):
            text = f"{node.function} takes {count(arity, 'value')}, not {len(node.args)}"
            self.report("E0210", text, node.span)

    # Assignments.

    def _assignments(self) -> None:
        assigns = [c for c in self.kernel.clauses if isinstance(c, ast.Assign)]
        last = {target.name: clause for clause in assigns for target in clause.targets}
        first: dict[str, ast.Assign] = {}
        for clause in assigns:
            for target in clause.targets:
                self._target(clause, target, first.get(target.name))
            names = [target.name for target in clause.targets]
            if len(set(names)) < len(names):
                self.report("E0222", "a clause writes a tensor twice", clause.span)
            for name in names:
                first.setdefault(name, clause)
            if clause.targets[0].indices is None:
                self._call_clause(clause, last)
            else:
                ExpressionChecker(self, last, clause).comprehension(clause)
            for target in clause.targets:
                if last[target.name] is clause and target.indices is not None:
                    self.ranks.setdefault(target.name, len(target.indices))
                    if target.name in self.inputs and self.inputs[target.name].kind == "inout":
                        self.changed.add(target.name)
        for result in self.kernel.results:
            if result.name not in first:
                help = f"add `{result.name}[...] = ...`"
                self.report("E0221", f"result {result.name} is never written", result.span, help)

    def _target(self, clause: ast.Assign, target: ast.Target, first: ast.Assign | None) -> None:
        """A tensor that ``clause`` writes; ``first`` is an earlier clause that writes it too."""
        param = self.inputs.get(target.name)
        if param is not None and param.kind != "inout":
            help = f"declare it `inout {target.name}`, or write another tensor"
            self.report("E0220", f"{target.name} is an argument and cannot be written", target.span, help)
        elif target.name in self.sizes or target.name == "inf":
            self.report("E0220", f"{target.name} is a size and cannot be written", target.span)
        mixed = (target.indices is None) != (clause.targets[0].indices is None)
        if mixed:
            self.report("E0229", "a clause writes elements or whole tensors, not both", clause.span)
        if first is None:
            return
        whole = target.indices is None or first.targets[0].indices is None
        if whole or [t.name for t in first.targets] != [t.name for t in clause.targets]:
            where = ((first.span, "written here"),)
            self.report("E0222", f"{target.name} is written twice", target.span, secondary=where)

    def _call_clause(self, clause: ast.Assign, last: dict[str, ast.Assign]) -> None:
        if clause.domain:
            self.report("E0236", "a call of a kernel has no dimensions", clause.domain[0].span)
        if not isinstance(clause.value, ast.Call):
            help = "index both sides, as in `y[i] = x[i]`"
            self.report("E0217", "only a call of a kernel gives whole tensors", clause.value.span, help)
            return
        kernel = CallChecker(self, last, clause).kernel(clause.value)
        if kernel is None:
            return
        if len(kernel.results) != len(clause.targets):
            names = ", ".join(r.name for r in kernel.results)
            text = f"{kernel.name} gives {count(len(kernel.results), 'tensor')}, not {len(clause.targets)}"
            self.report("E0218", text, clause.span, help=f"its results are {names}")
            return
        for target, result in zip(clause.targets, kernel.results, strict=True):
            own = self.results.get(target.name)
            rank = len(result.shape or ())
            if own is not None and own.shape is not None and len(own.shape) != rank:
                text = f"{target.name} has {count(len(own.shape), 'axis')}, but {kernel.name} gives {rank}"
                self.report("E0203", text, target.span)
            self.ranks[target.name] = rank
