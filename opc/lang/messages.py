"""Making language errors: an exception at a place of a file, and "did you mean" help."""

from __future__ import annotations

from collections.abc import Iterable

from opc.errors import Diagnostic, LanguageError, Span
from opc.lang.syntax import File


def problem(
    code: str,
    message: str,
    span: Span,
    help: str = "",
    notes: tuple[str, ...] = (),
    secondary: tuple[tuple[Span, str], ...] = (),
    label: str = "",
) -> Diagnostic:
    """A diagnostic with its place."""
    return Diagnostic(code, message, span, label, notes, help, secondary)


def error(
    file: File,
    code: str,
    message: str,
    span: Span,
    help: str = "",
    notes: tuple[str, ...] = (),
    secondary: tuple[tuple[Span, str], ...] = (),
) -> LanguageError:
    """An exception with one diagnostic in ``file``."""
    return LanguageError(problem(code, message, span, help, notes, secondary), file.text)


def noted(exception: LanguageError, note: str) -> LanguageError:
    """The same error with one more note on its first diagnostic."""
    first, *rest = exception.diagnostics
    notes = (*first.notes, note)
    again = Diagnostic(first.code, first.message, first.span, first.label, notes, first.help, first.secondary)
    return LanguageError((again, *rest), exception.source)


def suggest(name: str, known: Iterable[str]) -> str:
    """A help text naming the known name that is most like ``name``, or listing a few known ones."""
    names = sorted(set(known))
    # difflib is quadratic in the length of a name; nobody means a name of thousands of letters.
    if len(name) <= 60:
        import difflib

        close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        if not close:
            close = [n for n in names if n.lower() == name.lower()]
        if close:
            return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def shown(name: str) -> str:
    """``name`` in backquotes, cut to a readable length."""
    return f"`{name}`" if len(name) <= 60 else f"`{name[:57]}...`"


def listed(words: Iterable[str], last: str = "and") -> str:
    """``a, b and c``."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def count(number: int, thing: str) -> str:
    """``1 axis`` or ``2 axes``."""
    plural = {"axis": "axes", "index": "indices"}.get(thing, thing + "s")
    return f"{number} {thing if number == 1 else plural}"
