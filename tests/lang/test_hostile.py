"""Inputs made to break a parser: a coded error within a second, never a traceback of ours."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels_dsl
from opc.errors import LanguageError
from opc.lang import check, kernel_names, lower, parse
from opc.lang.source import MAX_LINE, MAX_NESTING
from opc.tensor.verify import verify

HEAD = "kernel f(x: T[N]) -> (y: T[N]) { example N = 4 "
SQUARES = "".join(f"let a{i} = a{i - 1}*a{i - 1} " for i in range(1, 99))


def code_of(text: str | bytes) -> str:
    """The code that ``text`` fails with, reached quickly."""
    start = time.process_time()
    with pytest.raises(LanguageError) as caught:
        lower(text, "hostile.k")
    assert time.process_time() - start < 2, "slow to fail"
    assert all(len(line) < 400 for line in str(caught.value).split("\n"))
    return caught.value.code


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("E0107", HEAD + "y[i] = " + "(" * 200_000 + "x[i]" + ")" * 200_000 + " }"),
        ("E0105", HEAD + "y[i] = " + "(\n" * 200_000 + "x[i]" + ")\n" * 200_000 + " }"),
        ("E0105", HEAD + "y[i] = " + "exp(" * 300 + "x[i]" + ")" * 300 + " }"),
        ("E0105", "kernel f(x: T[" + "(" * 300),
        ("E0106", HEAD + "y[i] = " + "-" * 300 + "x[i] }"),
        ("E0106", HEAD + "y[i] = " + "-\n" * 200_000 + "x[i] }"),
        ("E0106", HEAD + "y[i] = x[i]" + " + x[i]" * 300 + " }"),
        ("E0106", HEAD + "y[" + "i + " * 300 + "i] = x[i] }"),
        ("E0107", HEAD + "y[i] = " + "x[i] + " * 150_000 + "x[i] }"),
        ("E0107", "#" * 1_000_000),
        ("E0107", '"' + "a" * 1_000_000 + '"'),
        ("E0108", "# a comment\n" * 400_000),
        ("E0103", '"' + "a\n" * 500_000),
        ("E0104", b"\xff\xfe\x00"),
        ("E0104", b"kernel f(x: T[N]) -> (y: T[N]) { \xc3"),
        ("E0104", "kernel \ud800"),
        ("E0102", "\x00"),
        ("E0102", "kernel f\x1b[31m"),
        ("E0101", "="),
        ("E0115", ""),
        ("E0115", b"\xef\xbb\xbf"),
        ("E0112", "use"),
        ("E0114", HEAD + "y[i] = x[i] * " + "9" * 10_000 + " }"),
        ("E0101", "kernel " + "a" * 15_000 + " " + "b" * 4_000),
        ("E0202", HEAD + "y[i] = x[i] * " + "a" * 15_000 + " }"),
        ("E0204", HEAD + "y = " + "a" * 15_000 + "(x) }"),
        ("E0232", 'use "' + "a" * 15_000 + '"\n' + HEAD + "y[i] = x[i] }"),
        ("E0232", 'use "."\n' + HEAD + "y[i] = x[i] }"),
        ("E0232", 'use "a\x00b"\n' + HEAD + "y[i] = x[i] }"),
        ("E0319", HEAD + "y[i] = sum[j < inf](x[i]) }"),
        ("E0323", HEAD + "let P = 2.0 " + "* 1000000000000.0 " * 40 + "y[i] = x[i] }"),
        ("E0323", HEAD + "let P = 2 " + "* 1000000000000 " * 40 + "y[i] = sum[j < P](x[i]) }"),
        ("E0323", HEAD + "let a0 = 9 " + SQUARES + "y[i] = x[i] }"),
        ("E0304", HEAD + "y[i] = sum[j < 2000000000 * 2](x[i]) }"),
    ],
)
def test_hostile_text(code: str, text: str | bytes) -> None:
    assert code_of(text) == code


def test_nesting_up_to_the_cap_is_fine() -> None:
    depth = MAX_NESTING - 2
    f = lower(HEAD + "y[i] = " + "-" * (depth - 1) + "x[i] }")
    assert len(f.ops) == 1
    lower(HEAD + "y[i] = " + "(" * depth + "x[i]" + ")" * depth + " }")
    lower(HEAD + "y[i] = " + "exp(" * (depth - 1) + "x[i]" + ")" * (depth - 1) + " }")


@pytest.mark.parametrize(
    ("clause", "code"),
    [
        ("y[i] = k[i] / " + "abs(" * 250 + "k[i]" + ")" * 250, "E0225"),
        ("y[i] = " + "exp(" * 250 + "k[i]" + ")" * 250, "E0224"),
        ("y[i] = " + "".join(f"sum[r{n} < 2](" for n in range(120)) + "x[i]" + ")" * 120, None),
        ("y[i] = " + "sum[r < 2](" * 120 + "x[i]" + ")" * 120, "E0235"),
        ("y[i] = " + "select(x[i] < 1, 0, " * 250 + "x[i]" + ")" * 250, None),
        ("let P = " + "min(1, " * 250 + "N" + ")" * 250 + " y[i] = x[i]", None),
        ("y[i] = x[" + "(i + " * 120 + "i" + ")" * 120 + "]", "E0301"),
        ("y[i] = x[" + "(i * " * 120 + "i" + ")" * 120 + "]", "E0309"),
        ("y[" + "(i + " * 120 + "i" + ")" * 120 + "] = x[i]", "E0313"),
    ],
)
def test_deep_expressions_reach_their_own_error(clause: str, code: str | None) -> None:
    text = f"kernel f(x: T[N], k: i32[N]) -> (y: T[N]) {{ example N = 4 {clause} }}"
    if code is None:
        lower(text)
    else:
        assert code_of(text) == code


def test_a_long_line_below_the_cap_is_fine() -> None:
    f = lower(HEAD + "y[i] = x[i] }" + " " * (MAX_LINE - len(HEAD) - 13))
    assert f.name == "f"


def test_calls_nested_too_deeply() -> None:
    text = "kernel k0(x: T[N]) -> (y: T[N]) { y[i] = x[i] }\n"
    text += "".join(f"kernel k{i}(x: T[N]) -> (y: T[N]) {{ y = k{i - 1}(x) }}\n" for i in range(1, 60))
    with pytest.raises(LanguageError) as caught:
        lower(text, kernel="k59", sizes={"N": 2})
    assert caught.value.code == "E0246"
    assert lower(text, kernel="k20", sizes={"N": 2}).results == ("y",)


def test_calls_in_arguments_nested_deeply() -> None:
    text = "kernel g(x: T[N]) -> (y: T[N]) { y[i] = x[i] }\n"
    for depth in (1, 20, 100, 240):
        f = lower(text + HEAD + "y = " + "g(" * depth + "x" + ")" * depth + " }", kernel="f")
        assert len(f.ops) == depth


def test_calls_that_multiply() -> None:
    text = "kernel k0(x: T[N]) -> (y: T[N]) { y[i] = x[i] }\n"
    for i in range(1, 20):
        text += f"kernel k{i}(x: T[N]) -> (y: T[N]) {{ a = k{i - 1}(x) y = k{i - 1}(a) }}\n"
    start = time.process_time()
    with pytest.raises(LanguageError) as caught:
        lower(text, kernel="k19", sizes={"N": 2})
    assert caught.value.code == "E0246"
    assert time.process_time() - start < 5


def test_many_errors_are_cut() -> None:
    text = HEAD + "y[i] = x[i] " + " ".join(f"a{i}[i] = z[i]" for i in range(500)) + " }"
    with pytest.raises(LanguageError) as caught:
        check(text)
    assert len(caught.value.diagnostics) == 20


TEXT = (
    "kernel f x y T [ ] ( ) { } : -> , = == < for let require example N i sum max moments + - * // % 1 0.5 "
    '"t" else use param inout inf select exp i32 conv2d'
)
WORDS = TEXT.split()


@given(st.lists(st.sampled_from(WORDS), max_size=40))
@settings(max_examples=80, deadline=None)
def test_random_words_never_crash(words: list[str]) -> None:
    _try(" ".join(words))
    _try(HEAD + " ".join(words) + " }")


@given(st.text(max_size=80))
@settings(max_examples=50, deadline=None)
def test_random_text_never_crashes(text: str) -> None:
    _try(text)


@given(st.sampled_from(kernels_dsl.names()), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_damaged_kernels_never_crash(name: str, seed: int) -> None:
    """Shipped kernels with one word deleted, doubled, or replaced by another."""
    chance = random.Random(seed)
    words = kernels_dsl.source(name).replace("[", " [ ").replace("]", " ] ").replace(",", " , ").split(" ")
    at = chance.randrange(len(words))
    words[at : at + 1] = chance.choice([[], [words[at]] * 2, [chance.choice(WORDS)], [chance.choice(words)]])
    _try(" ".join(words))


def _try(text: str) -> None:
    with contextlib.suppress(LanguageError):
        parse(text)
        for name in kernel_names(text):
            verify(lower(text, kernel=name))
