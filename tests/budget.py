"""Fail when a file or function outgrows the size a reader can take in; print lines per package."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = 400
TEST_LINES = 500  # many small independent pieces
FUNCTION_LINES = 60


def problems(path: Path) -> list[str]:
    """What is too long in one file."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    found = []
    limit = TEST_LINES if name.parts[0] == "tests" else FILE_LINES
    if (lines := text.count("\n")) > limit:
        found.append(f"{name}: {lines} lines (at most {limit})")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(
                    f"{name}:{node.lineno}: {node.name} has {length} lines (at most {FUNCTION_LINES})"
                )
    return found


def main() -> int:
    """Print the totals, then every excess; 1 if there is one."""
    excess = []
    for package in ("opc", "passes", "kernels_dsl", "tests", "benchmarks", "examples"):
        files = sorted((ROOT / package).rglob("*.py"))
        total = sum(f.read_text(encoding="utf-8").count("\n") for f in files)
        print(f"{package:<12} {len(files):>4} files {total:>6} lines")
        excess += [p for f in files for p in problems(f)]
    print(*excess, sep="\n")
    return 1 if excess else 0


if __name__ == "__main__":
    sys.exit(main())
