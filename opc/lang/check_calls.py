"""Checks of calls on whole tensors: the kernel, its arguments, their ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opc.lang import syntax as ast
from opc.lang.check_expressions import FUNCTIONS, RESERVED, ExpressionChecker
from opc.lang.derived import pair_where_kernel
from opc.lang.messages import count, shown, suggest
from opc.lang.sizes import text_of

if TYPE_CHECKING:
    from opc.lang.checker import KernelChecker


class CallChecker:
    """Checks the call of one clause; reports to its kernel's checker."""

    def __init__(self, owner: KernelChecker, last: dict[str, ast.Assign], clause: ast.Assign) -> None:
        self.owner = owner
        self.report = owner.report
        self.expressions = ExpressionChecker(owner, last, clause)

    def kernel(self, node: ast.Call) -> ast.Kernel | None:
        """A call on whole tensors; returns the kernel that it means, or None after reporting."""
        found = self.owner.program.find(self.owner.file, node.function)
        if found is None:
            self._unknown_kernel(node)
            return None
        if found.kernel is self.owner.kernel:
            self.report("E0230", f"kernel {node.function} calls itself", node.span)
            return None
        given = self._match(node, found.kernel)
        self._aliases(found.kernel, given)
        for param in found.kernel.params:
            argument = given.get(param.name)
            if argument is None:
                if param.shape is not None or param.default is None:
                    text = f"{node.function} needs an argument {param.name}"
                    self.report("E0211", text, node.span, help=_signature(found.kernel))
            elif param.shape is not None:
                self._tensor_argument(node, param, argument)
            else:
                self._attribute_argument(param, argument)
        return found.kernel

    def _aliases(self, kernel: ast.Kernel, given: dict[str, ast.Argument]) -> None:
        """A tensor that the kernel updates may not be another argument too: which value would that have?"""
        values = {p.name: given[p.name].value for p in kernel.tensors if p.name in given}
        tensors = {name: value.name for name, value in values.items() if isinstance(value, ast.Name)}
        for param in kernel.tensors:
            for other, name in tensors.items():
                if param.kind == "inout" and other != param.name and name == tensors.get(param.name):
                    text = f"{name} is given for {other} and for {param.name}, which {kernel.name} updates"
                    help = "copy it to a tensor of its own first"
                    self.report("E0251", text, given[other].span, help)
                    return

    def _unknown_kernel(self, node: ast.Call) -> None:
        if node.function in FUNCTIONS:
            help = f"index both sides, as in `y[i] = {node.function}(x[i])`"
            self.report(
                "E0217", f"function {node.function} works on elements, not on whole tensors", node.span, help
            )
            return
        code = RESERVED.get(node.function)
        if code is not None:
            self.report(code, f"{node.function} is not built yet", node.span)
            return
        if node.function in {d.name for d in self.owner.file.derived}:
            help = "call its kernels from Python or C: opc.grad(...)"
            self.owner.found.append(pair_where_kernel(node.function, node.span, help))
            return
        known = self.owner.program.known(self.owner.file)
        help = suggest(node.function, known) if len(node.function) <= 60 else ""
        self.report("E0204", f"unknown kernel {shown(node.function)}", node.span, help)

    def _match(self, node: ast.Call, kernel: ast.Kernel) -> dict[str, ast.Argument]:
        names = [p.name for p in kernel.params]
        given: dict[str, ast.Argument] = {}
        named = False
        for position, argument in enumerate(node.args):
            name = argument.keyword
            if name is None:
                if named:
                    self.report("E0215", "a positional argument after a named one", argument.span)
                    continue
                if position >= len(names):
                    text = f"{kernel.name} takes {count(len(names), 'argument')}, not {len(node.args)}"
                    self.report("E0212", text, argument.span, help=_signature(kernel))
                    break
                name = names[position]
            elif name not in names:
                text = f"{kernel.name} has no argument {shown(name)}"
                self.report("E0213", text, argument.span, help=suggest(name, names))
                continue
            named = named or argument.keyword is not None
            if name in given:
                self.report("E0214", f"argument {name} is given twice", argument.span)
            given.setdefault(name, argument)
        return given

    def _tensor_argument(self, call: ast.Call, param: ast.Param, argument: ast.Argument) -> None:
        value, rank = argument.value, None
        if isinstance(value, ast.Name):
            if self.expressions.tensor(value.name, value):
                rank = self.owner.ranks[value.name]
        elif isinstance(value, ast.Call):
            kernel = self.kernel(value)
            if kernel is not None and len(kernel.results) != 1:
                text = f"{kernel.name} gives {len(kernel.results)} tensors; an argument is one"
                self.report("E0218", text, value.span)
            elif kernel is not None:
                rank = len(kernel.results[0].shape or ())
        else:
            help = "a tensor's name, or a call of a kernel"
            self.report(
                "E0245", f"argument {param.name} of {call.function} is a whole tensor", argument.span, help
            )
        if rank is not None and rank != len(param.shape or ()):
            axes = count(len(param.shape or ()), "axis")
            text = f"{param.name} of {call.function} has {axes}, this tensor has {rank}"
            self.report("E0203", text, argument.span)
        if param.kind == "inout":
            self._inout_argument(call, param, argument)

    def _inout_argument(self, call: ast.Call, param: ast.Param, argument: ast.Argument) -> None:
        value = argument.value
        own = self.owner.inputs.get(value.name) if isinstance(value, ast.Name) else None
        if own is None or own.kind != "inout":
            help = "declare the tensor `inout` in this kernel too"
            self.report("E0220", f"{call.function} writes its argument {param.name}", argument.span, help)
            return
        self.owner.changed.add(own.name)

    def _attribute_argument(self, param: ast.Param, argument: ast.Argument) -> None:
        if isinstance(argument.value, ast.NameList):
            self.report("E0245", f"argument {param.name} is a number", argument.span)
            return
        self.owner.size(argument.value)


def _signature(kernel: ast.Kernel) -> str:
    def show(param: ast.Param) -> str:
        return param.name if param.default is None else f"{param.name}={text_of(param.default)}"

    return f"{kernel.name}({', '.join(map(show, kernel.params))})"
