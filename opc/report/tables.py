"""Plain text tables for terminals: aligned columns, no colour, no box drawing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "  ") -> str:
    """Columns as wide as their longest cell; cells that are numbers or end in a unit align right."""
    cells = [[str(c) for c in row] for row in rows]
    lines = [list(header), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    right = [all(_numeric(row[i]) for row in cells) and bool(cells) for i in range(len(header))]
    out = []
    for line in lines:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        out.append((indent + "  ".join(parts)).rstrip())
    return "\n".join(out)


def _numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "-.+" or cell == "n/a"


def duration(seconds: float) -> str:
    """A time with three significant digits and its unit."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
