"""``opc.grad``: the derivative of a kernel as a pair of kernels, compiled as any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

from opc import driver, sources
from opc.cache.key import Request
from opc.errors import RuntimeCallError, fail
from opc.family import ArrayPair, of_operator
from opc.kernel import Kernel
from opc.numerics import STRICT
from opc.pair import Pair
from opc.sources import FORWARD, Wanted


@overload
def grad(
    source: Kernel | str | Path,
    kernel: str | None = None,
    *,
    wrt: Sequence[str] | None = None,
    dtype: str | None = None,
    layout: str | None = None,
    machine: str | Path | None = None,
    threads: int | None = None,
    numerics: str = STRICT,
    mixed: str = "",
    tune: bool = False,
    donate: bool = False,
    **sizes: int | float,
) -> Pair: ...


@overload
def grad(source: Callable[..., Any], *, wrt: Sequence[str]) -> ArrayPair: ...


def grad(
    source: Kernel | str | Path | Callable[..., Any],
    kernel: str | None = None,
    *,
    wrt: Sequence[str] | None = None,
    dtype: str | None = None,
    layout: str | None = None,
    machine: str | Path | None = None,
    threads: int | None = None,
    numerics: str = STRICT,
    mixed: str = "",
    tune: bool = False,
    donate: bool = False,
    **sizes: int | float,
) -> Pair | ArrayPair:
    """The derivative of a kernel: ``y, saved = pair.fwd(x, w)``, ``dx, dw = pair.bwd(saved, dy)``.

    ``source`` is a compiled kernel, or what ``opc.compile`` takes; then the other arguments are those of
    ``opc.compile``. ``wrt`` names the arguments to differentiate with respect to, in the order in which ``bwd``
    returns the gradients. Without it ``kernel`` is a derived kernel that the source declares
    (``kernel g = grad(f, wrt=[x, w])``). With ``donate`` backward may write over what forward saved, so that a step
    needs less memory, and ``saved`` serves one call of it. A function of ``opc.ops`` gives a pair for
    arrays of any sizes.

    Raises LanguageError E0252–E0256 for a bad ``wrt``, PassError for what has no derivative, and what
    ``opc.compile`` raises; RuntimeCallError E0937 and E0938 for sources that nothing can be derived of.
    """
    names = _names(wrt)
    given = any(s is not None for s in (dtype, layout, machine, kernel, *sizes))
    given = given or numerics != STRICT or bool(mixed) or donate
    if isinstance(source, Kernel):
        request = _of_kernel(source, names, given)
        count = source.threads if threads is None else threads
        return driver.compile_pair(request, count, tune)
    if getattr(source, "__module__", "") == "opc.ops" and callable(source) and names and not given:
        return of_operator(source, names)
    if not isinstance(source, str | Path):
        raise _not_a_kernel(f"a {type(source).__name__}")
    wanted = Wanted(kernel, sizes, dtype, layout, FORWARD, names, str(mixed), donate)
    return driver.compile_pair(sources.asked(source, wanted, machine, numerics), threads, tune)


def _names(wrt: Sequence[str] | None) -> tuple[str, ...]:
    if wrt is None:
        return ()
    if isinstance(wrt, str) or not wrt or not all(isinstance(n, str) for n in wrt):
        from opc.lang import no_list

        raise no_list()
    return tuple(wrt)


def load_pair(path: str | Path) -> Pair:
    """The pair that ``Pair.save`` wrote to ``path``. Raises RuntimeCallError E0914, E0920."""
    from opc.pair_archive import read

    name, forward, backward = read(path)
    return Pair(name, driver.loaded(forward), driver.loaded(backward))


def _of_kernel(kernel: Kernel, wrt: tuple[str, ...], settings: bool) -> Request:
    """The request for a compiled kernel's derivative. Raises RuntimeCallError E0938."""
    request = kernel.request
    if settings:
        raise _not_a_kernel("a compiled kernel and settings, which it has already")
    if request.half or "." in (request.kernel or ""):
        raise _not_a_kernel("one kernel of a pair: derivatives of derivatives are not built yet")
    if not wrt:
        raise _not_a_kernel("a compiled kernel without wrt=")
    return request._replace(half=FORWARD, wrt=wrt, plans="")


def _not_a_kernel(given: str) -> Exception:
    return fail(
        RuntimeCallError,
        "E0938",
        f"opc.grad cannot differentiate {given}",
        help='opc.grad(kernel, wrt=["x", "w"]), or opc.grad("file.k", "f", wrt=["x"], N=8)',
    )
