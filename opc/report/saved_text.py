"""What a pair of kernels saves between forward and backward, and what backward computes again, as a table."""

from __future__ import annotations

from typing import Any

from opc.report.tables import table
from opc.tensor.saved import Half


def saved_rows(half: Half) -> list[dict[str, Any]]:
    """Every tensor that backward needs: what became of it, the memory it takes in between, and why."""
    return [
        {
            "name": c.tensor.name,
            "tensor": f"{c.tensor.dtype}[{','.join(map(str, c.tensor.shape))}]",
            "how": c.how,
            "bytes": c.bytes,
            "why": c.why,
        }
        for c in half.choices
    ]


def saved_table(half: Half) -> str:
    """The rows, and the size of the buffer."""
    rows = [(r["name"], r["tensor"], r["how"], f"{r['bytes']:,}", r["why"]) for r in saved_rows(half)]
    end = f"  {half.pair} saves {sum(c.bytes for c in half.choices):,} bytes for backward"
    shown = table(("for backward", "tensor", "is", "bytes", "because"), rows) + "\n" if rows else ""
    return shown + end
