"""Parser, tables and tree: current, quick, positions right, dump stable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kernels_dsl
from opc.lang import dump_ast, parse
from opc.lang import syntax as ast
from opc.lang.sizes import text_of
from opc.lang.tables import TABLES, build

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", ["1", "77"])
def test_tables_are_current_and_do_not_depend_on_hashing(seed: str) -> None:
    command = [
        sys.executable,
        "-c",
        "from opc.lang.tables import build; import sys; sys.stdout.write(build())",
    ]
    made = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == TABLES.read_text(encoding="utf-8"), "run `python -m opc.lang.tables`"


def test_the_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    from lark import Lark, logger

    from opc.lang.tables import GRAMMAR

    logger.setLevel("DEBUG")
    Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr", debug=True)
    logger.setLevel("CRITICAL")
    assert not [r for r in caplog.records if "onflict" in r.getMessage()]
    assert build()


def test_lowering_imports_neither_lark_nor_numpy() -> None:
    code = (
        "import sys; from opc.lang import lower; import kernels_dsl;"
        "lower(kernels_dsl.source('conv_bn_relu'), 'k');"
        "print([m for m in ('lark', 'numpy', 'rich', 'llvmlite', 'difflib') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == "[]\n"


def expression(text: str) -> ast.Expr:
    file = parse(f"kernel f(x: T[N]) -> (y: T[N]) {{ y[i] = {text} }}")
    clause = file.kernels[0].clauses[0]
    assert isinstance(clause, ast.Assign)
    return clause.value


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("a - b - c", "a - b - c"),
        ("a - (b - c)", "a - (b - c)"),
        ("a * (b + c) // d % e", "a * (b + c) // d % e"),
        ("--a * -b", "--a * -b"),
        ("(a)", "a"),
        ("-(a + b)", "-(a + b)"),
        ("x[i] else 0 + 1", "(x[i] else 0) + 1"),
        ("sum[ i, j<3 ](x[i]*2)", "sum[i, j < 3](x[i] * 2)"),
        ("select(a<b,1,2.5e-3)", "select(a < b, 1, 0.0025)"),
        ("f(a, b=2, wrt=[p,q])", "f(a, b=2, wrt=[p, q])"),
        ("max(a, b)", "max(a, b)"),
        ("max\n [i](a)", "max[i](a)"),
        ("sum2[i] + maximum[i]", "sum2[i] + maximum[i]"),
    ],
)
def test_expressions(text: str, again: str) -> None:
    assert text_of(expression(text)) == again
    assert text_of(expression(again)) == again


def test_spans() -> None:
    read = expression("1 +\n  x[i + 2]")
    assert isinstance(read, ast.Binary)
    assert (read.right.span.line, read.right.span.column, read.right.span.length) == (2, 3, 8)
    assert (read.span.line, read.span.length) == (1, 3), "a span stops at the end of its first line"


def test_commas_may_trail() -> None:
    file = parse("kernel f(x: T[N], a: int = 1,) -> (y: T[N],) { y = g(x,) }")
    assert [p.name for p in file.kernels[0].params] == ["x", "a"]


def test_lines_may_end_in_any_way() -> None:
    text = "kernel f(x: T[N]) -> (y: T[N]) {\r\n\ty[i] = x[i] # comment\r\n}\r\n"
    assert parse(text).kernels[0].name == "f"
    assert parse(b"\xef\xbb\xbf" + text.encode()).kernels[0].name == "f"


def test_derived_kernels_are_in_the_tree() -> None:
    (node,) = parse("kernel g = grad(f, wrt=[x, w])").declarations
    assert isinstance(node, ast.Derived)
    assert text_of(node.call) == "grad(f, wrt=[x, w])"


def test_dump() -> None:
    text = 'kernel f(x: T[N], k: int = 2) -> (y: T[N]) { "Doc." require N > 0 "some" y[i] = x[i] else -1 for i < N }'
    assert dump_ast(parse(text)) == (Path(__file__).parent / "dump.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", kernels_dsl.names())
def test_every_kernel_dumps(name: str) -> None:
    lines = dump_ast(parse(kernels_dsl.source(name))).split("\n")
    assert lines[0] == "ast v1"
    assert all(re.fullmatch(r" *[A-Z]\w+( \w+=.*)? at \d+:\d+", line) for line in lines[1:-1])
