"""Every error a user can meet: exception tree, spans, and the table of diagnostic codes.

OpcError
├── LanguageError   E01xx syntax, E02xx names and types, E03xx shapes and sizes
├── IRError         E04xx text of an IR, E05xx verifier
├── MachineError    E06xx machine files, dtypes and capacities of a machine
├── PassError       E07xx pipelines and passes
├── ListingError    E08xx NPU listings: races, flags, memory
├── RuntimeCallError E09xx arrays handed to a kernel, files, environment
└── CheckError      E10xx results outside their bound
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """A place in a source text: 1-based line and column, length in characters."""

    file: str
    line: int
    column: int = 1
    length: int = 1


class Diagnostic(NamedTuple):
    """One message: a code of ``CODES``, what is wrong here, where, and what to do."""

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    notes: tuple[str, ...] = ()
    help: str = ""
    secondary: tuple[tuple[Span, str], ...] = ()

    def as_json(self) -> dict[str, object]:
        """Plain data for ``--json``."""

        def place(s: Span) -> dict[str, object]:
            return {"file": s.file, "line": s.line, "column": s.column, "length": s.length}

        return {
            "code": self.code,
            "message": self.message,
            "span": place(self.span) if self.span else None,
            "label": self.label,
            "notes": list(self.notes),
            "help": self.help,
            "secondary": [{"span": place(s), "label": text} for s, text in self.secondary],
        }


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", text)


def render(diagnostic: Diagnostic, source: str | None = None) -> str:
    """The message as rustc and ruff print it; ``source`` is the text ``span.file`` names."""
    d = diagnostic
    lines = [f"error[{d.code}]: {_printable(d.message)}"]
    if d.span is not None:
        lines += _excerpt(d, source)
    lines += [f"  = note: {note}" for note in d.notes]
    if d.help:
        lines.append(f"  = help: {d.help}")
    return "\n".join(lines)


def _excerpt(d: Diagnostic, source: str | None) -> list[str]:
    assert d.span is not None
    lines = [f"  --> {_printable(d.span.file)}:{d.span.line}:{d.span.column}"]
    text = source.split("\n") if source is not None else []
    marks = sorted(
        [(d.span, "^", d.label), *((s, "-", label) for s, label in d.secondary if s.file == d.span.file)],
        key=lambda m: (m[0].line, m[0].column),
    )
    shown = [m for m in marks if 1 <= m[0].line <= len(text)]
    if not shown:
        return lines
    gutter = max(len(str(m[0].line)) for m in shown)
    lines.append(f"{' ' * gutter} |")
    for span, sign, label in shown:
        raw = _printable(text[span.line - 1].removesuffix("\r").replace("\t", " "))
        # A window keeps a 1 MB line readable.
        start = max(0, span.column - 1 - 60) if len(raw) > 140 else 0
        window = raw[start : start + 120]
        under = max(1, min(span.length, len(window) - (span.column - 1 - start)))
        lines.append(f"{span.line:>{gutter}} | {window}".rstrip())
        pad = " " * (span.column - 1 - start)
        lines.append(f"{' ' * gutter} | {pad}{sign * under} {label}".rstrip())
    return lines


class OpcError(Exception):
    """Base of every error opc raises on bad input; carries at least one diagnostic."""

    def __init__(self, diagnostics: Diagnostic | Sequence[Diagnostic], source: str | None = None) -> None:
        items = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        assert items, "an error needs a diagnostic"
        self.diagnostics = items
        self.source = source
        super().__init__("\n\n".join(render(d, source) for d in items))

    @property
    def code(self) -> str:
        return self.diagnostics[0].code

    @property
    def span(self) -> Span | None:
        return self.diagnostics[0].span

    @property
    def help(self) -> str:
        return self.diagnostics[0].help


class LanguageError(OpcError):
    """Bad ``.k`` text, or sizes that do not fit it (E01xx–E03xx)."""


class IRError(OpcError):
    """IR text that does not parse, or IR that breaks an invariant (E04xx, E05xx)."""


class MachineError(OpcError):
    """A bad machine file, or a program that a machine cannot run (E06xx)."""


class PassError(OpcError):
    """An unknown pass, bad pass options, or a pass that failed (E07xx)."""


class ListingError(OpcError):
    """An NPU listing that does not parse or is not safe (E08xx)."""


class RuntimeCallError(OpcError):
    """Arrays, files or settings that a kernel call cannot use (E09xx)."""


class CheckError(OpcError):
    """A result outside its proven bound (E10xx)."""


def fail(kind: type[OpcError], code: str, message: str, help: str = "", **where: object) -> OpcError:
    """An exception of ``kind`` with one diagnostic; ``where`` are further Diagnostic fields."""
    return kind(Diagnostic(code, message, help=help, **where))  # type: ignore[arg-type]
