"""Derived kernels: ``kernel g = grad(f, wrt=[x, w])``, which is the pair ``g.fwd`` and ``g.bwd``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from opc.errors import Diagnostic, LanguageError, Span
from opc.lang import syntax as ast
from opc.lang.loader import Found, Program
from opc.lang.messages import problem, shown, suggest
from opc.tensor.ir import Function

FORWARD, BACKWARD = "fwd", "bwd"
HALVES = (FORWARD, BACKWARD)
_FORM = "write `kernel NAME = grad(KERNEL, wrt=[x, w])`"
_WHOLE = ("i32", "i8", "int")


class Derivation(NamedTuple):
    """A checked declaration: the kernel that is differentiated, and with respect to what."""

    name: str
    found: Found
    wrt: tuple[str, ...]


class Given(NamedTuple):
    """A name that `wrt` may mean: what kind of parameter it is, and its type as far as it is known."""

    kind: str
    type: str


class Fault(NamedTuple):
    """What is wrong with one name of `wrt`, by its place in the list."""

    place: int
    code: str
    message: str
    help: str = ""


def half(name: str) -> tuple[str, str]:
    """``("g", "fwd")`` for "g.fwd", and ``("g", "")`` for "g"."""
    base, dot, last = name.rpartition(".")
    return (base, last) if dot and last in HALVES else (name, "")


def halves(name: str) -> tuple[str, str]:
    """The names of a pair's two kernels."""
    return f"{name}.{FORWARD}", f"{name}.{BACKWARD}"


def derivation(program: Program, derived: ast.Derived) -> Derivation:
    """What a checked declaration says."""
    kernel, wrt = _parts(derived.call)
    assert kernel is not None, "checked before"
    assert wrt is not None, "checked before"
    found = program.find(program.root, kernel.name)
    assert found is not None, "checked before"
    return Derivation(derived.name, found, tuple(n.name for n in wrt.names))


def problems(program: Program, file: ast.File) -> list[Diagnostic]:
    """Every error of the file's derived kernels that needs no sizes."""
    return [d for derived in file.derived for d in _problems(program, file, derived)]


def _problems(program: Program, file: ast.File, derived: ast.Derived) -> Iterator[Diagnostic]:
    call = derived.call
    if call.function != "grad":
        text = f"{shown(call.function)} derives no kernels; `grad` does"
        yield problem("E0284", text, call.span, help=_FORM)
        return
    kernel, wrt = _parts(call)
    if kernel is None or wrt is None:
        yield problem(
            "E0284", "grad takes a kernel and the list `wrt` of its arguments", call.span, help=_FORM
        )
        return
    found = program.find(file, kernel.name)
    if found is None:
        yield _no_kernel(program, file, kernel)
        return
    yield from (
        problem(fault.code, fault.message, wrt.names[fault.place].span, help=fault.help)
        for fault in faults(kernel.name, _parameters(found.kernel), [n.name for n in wrt.names])
    )
    if all(r.type in _WHOLE for r in found.kernel.results):
        yield problem("E0256", _nothing(kernel.name), kernel.span)


def _parts(call: ast.Call) -> tuple[ast.Name, ast.NameList] | tuple[None, None]:
    """The kernel and the list of a well-formed call."""
    if len(call.args) != 2 or call.args[0].keyword is not None or call.args[1].keyword != "wrt":
        return None, None
    kernel, wrt = (argument.value for argument in call.args)
    return (kernel, wrt) if isinstance(kernel, ast.Name) and isinstance(wrt, ast.NameList) else (None, None)


def _no_kernel(program: Program, file: ast.File, name: ast.Name) -> Diagnostic:
    if name.name in {d.name for d in file.derived}:
        return pair_where_kernel(name.name, name.span, "derivatives of derivatives are not built yet")
    return problem(
        "E0204", f"unknown kernel {shown(name.name)}", name.span, suggest(name.name, program.known(file))
    )


def pair_where_kernel(name: str, span: Span | None, help: str) -> Diagnostic:
    """A derived kernel stands where one that is written out is wanted."""
    message = f"{shown(name)} is a pair of derived kernels, not a kernel"
    return Diagnostic("E0255", message, span, help=help)


def _parameters(kernel: ast.Kernel) -> dict[str, Given]:
    return {p.name: Given(p.kind, p.type) for p in kernel.params}


def faults(kernel: str, given: dict[str, Given], wrt: Sequence[str]) -> Iterator[Fault]:
    """What is wrong with the names of ``wrt``, in their order."""
    float_tensors = [n for n, g in given.items() if g.kind in ("input", "param") and g.type not in _WHOLE]
    for place, name in enumerate(wrt):
        about = given.get(name)
        if name in wrt[:place]:
            yield Fault(place, "E0253", f"{shown(name)} is named twice in wrt", "name it once")
        elif about is None:
            message = f"kernel {kernel} has no argument {shown(name)}"
            yield Fault(place, "E0252", message, suggest(name, float_tensors))
        elif about.kind == "attribute":
            message = f"{shown(name)} is an attribute of {kernel}, a number fixed at compile time"
            yield Fault(place, "E0252", message, suggest(name, float_tensors))
        elif about.kind == "inout":
            message = f"{shown(name)} is updated in place by {kernel} and has no gradient"
            yield Fault(place, "E0252", message, suggest(name, float_tensors))
        elif about.type in _WHOLE:
            message = f"{shown(name)} is a tensor of {about.type}: only floating-point tensors have gradients"
            yield Fault(place, "E0254", message)


def _nothing(kernel: str) -> str:
    return f"kernel {kernel} has no floating-point result to differentiate"


def no_list() -> LanguageError:
    """What stands for `wrt` is no list of names."""
    return LanguageError(Diagnostic("E0253", "wrt is a list of names of arguments", help='wrt=["x", "w"]'))


def check_wrt(function: Function, wrt: Sequence[str]) -> None:
    """Raise LanguageError E0252–E0256 unless the function has gradients with respect to ``wrt``."""
    name = function.name
    given = {a.tensor.name: Given(a.kind, str(a.tensor.dtype)) for a in function.args}
    found = [Diagnostic(f.code, f.message, help=f.help) for f in faults(name, given, wrt)]
    tensors = function.tensors()
    if not any(tensors[r].dtype.is_float for r in function.results if given.get(r) is None):
        found.append(Diagnostic("E0256", _nothing(name)))
    if found:
        raise LanguageError(found)
