"""Text to tensor IR: which kernel a request means, with its sizes fixed, or one half of its derivative."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from opc.cache.key import Request
from opc.dtypes import DType
from opc.errors import RuntimeCallError, fail
from opc.numerics import low_type
from opc.tensor.saved import Choice, Half, SavedLayout

if TYPE_CHECKING:
    from pathlib import Path

    from opc.lang import File
    from opc.machine.model import Machine
    from opc.tensor.ir import Function

FORWARD, BACKWARD = "fwd", "bwd"
_IR = ("func ", b"func ")  # how text of the tensor IR begins


class Gradient(Protocol):
    """What differentiation gives; see ``passes/tensor/differentiate.py``."""

    @property
    def forward(self) -> Function: ...
    @property
    def backward(self) -> Function: ...
    @property
    def saved(self) -> tuple[str, ...]: ...
    @property
    def choices(self) -> tuple[Choice, ...]: ...


class Rewrites(NamedTuple):
    """What may happen to a kernel before it is compiled: ``passes``, which this package does not see."""

    differentiate: Callable[[Function, Sequence[str]], Gradient]
    mixed: Callable[[Function, DType], Function]


class Wanted(NamedTuple):
    """A kernel of a source: by name, sizes, dtype and memory order; ``half`` of its derivative ``wrt``; ``mixed``: the
    narrow type of its products.

    Without ``wrt`` a half is one of a kernel that the source derives. ``donate`` lets the backward half write over
    what forward made for it.
    """

    kernel: str | None = None
    sizes: Mapping[str, int | float] = {}
    dtype: str | None = None
    layout: str | None = None
    half: str = ""
    wrt: tuple[str, ...] = ()
    mixed: str = ""
    donate: bool = False


class Source(NamedTuple):
    """A specialised kernel; ``half`` says which of a pair it is."""

    function: Function
    half: Half | None = None


def source(
    text: str | bytes | File, file: str, wanted: Wanted, machine: Machine, rewrites: Rewrites
) -> Source:
    """The tensor IR that is wanted. Raises LanguageError (E01–E03), E0714 and E0942 for mixed precision, and E0937
    where nothing is derived.
    """

    def converted(function: Function) -> Function:
        return rewrites.mixed(function, low_type(wanted.mixed)) if wanted.mixed else function

    if isinstance(text, str | bytes) and text[:5] in _IR:
        from opc.tensor.text import parse_function

        function = converted(parse_function(text if isinstance(text, str) else text.decode(), file))
        if not wanted.half:
            return Source(function)
        return _half(function, f"{function.name}_grad", wanted.wrt, wanted, rewrites.differentiate)
    from opc import lang

    tree = lang.check(text, file)
    default = DType.F32 if wanted.mixed else machine.default_dtype
    dtype = element_type(wanted.dtype) if wanted.dtype else default
    which = wanted.half or lang.half(wanted.kernel or "")[1]
    derived = lang.derivation(tree, file, wanted.kernel) if which and not wanted.wrt else None
    if wanted.half and not wanted.wrt and derived is None:
        raise _nothing_derived(tree.name, wanted.kernel)
    kernel = derived.found if derived else wanted.kernel
    function = converted(lang.lower(tree, file, kernel, wanted.sizes, dtype, wanted.layout))
    if not which:
        return Source(function)
    name, wrt = (derived.name, derived.wrt) if derived else (f"{function.name}_grad", wanted.wrt)
    return _half(function, name, wrt, wanted._replace(half=which), rewrites.differentiate)


def _nothing_derived(file: str, kernel: str | None) -> Exception:
    which = f"a derived kernel '{kernel}'" if kernel else "one derived kernel"
    return fail(
        RuntimeCallError,
        "E0937",
        f"{file} does not declare {which}",
        help='give wrt=["x", ...], or declare `kernel g = grad(f, wrt=[x])` and name it',
    )


def _half(
    function: Function,
    pair: str,
    wrt: Sequence[str],
    wanted: Wanted,
    differentiate: Callable[[Function, Sequence[str]], Gradient],
) -> Source:
    """One kernel of the function's derivative, named as C can."""
    from opc.lang import check_wrt

    check_wrt(function, wrt)
    gradient = differentiate(function, wrt)
    tensors = gradient.forward.tensors()
    seen = {a.tensor.name for a in function.args} | set(function.results)
    saved = SavedLayout(
        tuple(tensors[n] for n in gradient.saved if n in seen),
        tuple(tensors[n] for n in gradient.saved if n not in seen),
    )
    is_forward = wanted.half == FORWARD
    chosen = gradient.forward if is_forward else gradient.backward
    if wanted.donate and not is_forward:
        chosen = _donated(chosen, saved.made_names)
    about = Half(pair, is_forward, saved, gradient.forward, tuple(gradient.choices))
    return Source(replace(chosen, name=f"{pair}_{wanted.half}"), about)


def _donated(function: Function, names: Collection[str]) -> Function:
    args = (replace(a, kind="donated") if a.tensor.name in names else a for a in function.args)
    return replace(function, args=tuple(args))


def element_type(name: str) -> DType:
    """The dtype of that name. Raises RuntimeCallError E0925."""
    try:
        return DType(name)
    except ValueError:
        known = ", ".join(DType)
        raise fail(RuntimeCallError, "E0925", f"unknown dtype '{name}'", help=f"dtypes: {known}") from None


def read(source: str | Path) -> tuple[str | bytes, str]:
    """Text and name of a source: the path of a file, or the text itself (anything with a brace)."""
    if isinstance(source, str) and ("{" in source or "\n" in source):
        return source, "<string>"
    from opc.files import read_bytes

    return read_bytes(str(source)), str(source)


def asked(source: str | Path, wanted: Wanted, machine: str | Path | None, numerics: str) -> Request:
    """What a caller of the Python API asks for. Raises RuntimeCallError E0920."""
    text, file = read(source)
    # What is no text names nothing: the lookups to come then say what is known.
    kernel, layout, named = (None if v is None else str(v) for v in (wanted.kernel, wanted.layout, machine))
    about = kernel, wanted.sizes, wanted.dtype, layout, named, str(numerics)
    return Request(
        text, file, *about, half=wanted.half, wrt=wanted.wrt, mixed=wanted.mixed, donate=wanted.donate
    )


def wanted(request: Request) -> Wanted:
    """The part of a request that says which kernel."""
    r = request
    return Wanted(r.kernel, r.sizes, r.dtype, r.layout, r.half, r.wrt, r.mixed, r.donate)
