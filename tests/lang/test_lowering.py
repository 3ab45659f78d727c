"""What the front end makes of each construct: dimensions, types, pieces, calls, sizes, orders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import LanguageError
from opc.lang import check, kernel_info, kernel_names, lower
from opc.tensor.interpret import evaluate
from opc.tensor.ir import Function, Read, reads
from opc.tensor.text import print_expr, print_function
from opc.tensor.verify import verify


def made(
    clauses: str, args: str = "x: T[N, M]", res: str = "y: T[N, M]", dtype: DType = DType.F32
) -> Function:
    f = lower(f"kernel f({args}) -> ({res}) {{ example N = 4, M = 3 {clauses} }}", dtype=dtype)
    verify(f)
    return f


def body(f: Function, op: int = -1) -> str:
    return print_expr(f.ops[op].pieces[0].body)


def types(f: Function) -> dict[str, str]:
    return {t.name: str(t.dtype) for op in f.ops for t in op.outputs}


# Dimensions and extents.


def test_bare_reads_give_extents() -> None:
    piece = made("y[i, j] = x[i, j] + b[j]", "x: T[N, M], b: T[M]").ops[0].pieces[0]
    assert piece.extents == {"i": 4, "j": 3}


def test_reads_win_over_the_output_and_the_output_over_padded_reads() -> None:
    f = made("y[i, j] = x[i, j] y[N + i, j] = x[i, j]", res="y: T[2*N, M]")
    assert [p.extents["i"] for p in f.ops[0].pieces] == [4, 4]
    f = made("y[i, j] = x[i, j] else 0", res="y: T[N + 2, M]")
    assert f.ops[0].pieces[0].extents["i"] == 6
    f = made("a[i, j] = x[i, j] else 0  y[i, j] = a[i, j]")
    assert f.ops[0].pieces[0].extents == {"i": 4, "j": 3}


def test_a_bound_restricts_a_dimension() -> None:
    f = made("y[i, j] = x[i, j] for i < 2", res="y: T[2, M]")
    assert f.ops[0].pieces[0].extents == {"i": 2, "j": 3}


def test_dimensions_stand_in_the_order_of_the_index() -> None:
    piece = made("y[i*3 + j] = x[i, j]", res="y: T[N*M]").ops[0].pieces[0]
    assert [d.name for d in piece.dims] == ["i", "j"]
    assert piece.index == (Affine.of({"i": 3, "j": 1}),)


def test_a_fill_is_dropped_where_the_read_is_inside() -> None:
    f = made("y[i, j] = (x[i, j] else 0) + (x[i - 1, j] else 7)")
    assert [r.fill for r in reads(f.ops[0])] == [None, 7.0]


def test_fills_take_the_type_of_the_tensor() -> None:
    f = made("y[i, j] = x[i - 1, j] else -inf", dtype=DType.I8)
    assert [r.fill for r in reads(f.ops[0])] == [-128]
    f = made("y[i, j] = x[i - 1, j] else -inf", dtype=DType.F16)
    assert [r.fill for r in reads(f.ops[0])] == [float("-inf")]


def test_intermediate_shapes_follow_the_index() -> None:
    f = made("a[2*i + r, j] = x[i, j] for i < N, r < 2  y[i, j] = a[2*i, j] for i < N")
    assert f.tensors()["a"].shape == (8, 3)


# Expressions.


def test_dimensions_are_values() -> None:
    f = made("y[i, j] = select(i <= j + 1, x[i, j], 2*i - j)")
    assert body(f) == "select(le(dim(i), dim(j + 1)), x[i, j], dim(i*2 - j))"


def test_products_of_dimensions_are_values_too() -> None:
    assert body(made("y[i, j] = x[i, j] * (i*j)")) == "mul(x[i, j], mul(dim(i), dim(j)))"


def test_constants_are_folded() -> None:
    assert body(made("y[i, j] = x[i, j] * (1 / (N*M)) + 7 // 2")) == f"add(mul(x[i, j], {1 / 12!r}), 3)"
    assert body(made("y[i, j] = x[i, j] * rsqrt(N)")) == "mul(x[i, j], 0.5)"
    assert body(made("y[i, j] = x[i, j] * max(N, -M)")) == "mul(x[i, j], 4)"


def test_conversions() -> None:
    assert body(made("y[i, j] = T(f32(x[i, j]) * 2)", dtype=DType.F16)) == "f16(mul(f32(x[i, j]), 2))"
    assert body(made("y[i, j] = x[i, j] + f16(0.5)")) == "add(x[i, j], 0.5:f16)"
    ints = "y[i, j] = i32(x[i, j]) + i32(-2.7) + i8(2.5) + i8(300) + i8(-inf)"
    assert body(made(ints, res="y: i32[N, M]")).endswith("-2:i32), 2:i8), 127:i8), -128:i8)")


def test_attributes_are_constants() -> None:
    f = lower("kernel f(x: T[N], a: f32 = 1, k: int = 2) -> (y: T[N]) { example N = 3 y[i] = x[i]*a + k }")
    assert body(f) == "add(mul(x[i], 1.0), 2)"


def test_precedence_of_else() -> None:
    f = made("y[i, j] = x[i - 1, j] else 0 * 2")
    assert body(f) == "mul(x[i - 1, j] else 0.0, 2)"


# Reductions.


def test_a_reduction_alone_is_the_operation() -> None:
    f = made("y[i] = sum[j](x[i, j])", res="y: T[N]", dtype=DType.F16)
    (op,) = f.ops
    assert (op.monoid, op.accumulate, str(op.outputs[0].dtype)) == ("sum", DType.F32, "f16")


def test_reductions_inside_expressions_get_operations() -> None:
    f = made("y[i, j] = x[i, j] / sum[k](x[i, k])")
    assert [op.name for op in f.ops] == ["y_sum", "y"]
    assert f.tensors()["y_sum"].shape == (4,)
    assert body(f) == "div(x[i, j], y_sum[i])"


def test_reductions_inside_reductions() -> None:
    f = made("y[i] = sum[j](x[i, j] * max[k](x[k, j]))", res="y: T[N]")
    assert [op.name for op in f.ops] == ["y_max", "y"]
    assert f.tensors()["y_max"].shape == (3,)


def test_totals_have_one_element() -> None:
    f = made("y[i, j] = x[i, j] - sum[a, b](x[a, b])")
    assert f.tensors()["y_sum"].shape == (1,)
    x = np.arange(12.0).reshape(4, 3)
    assert np.array_equal(evaluate(f, {"x": x})["y"], x - x.sum())


def test_siblings_may_share_names() -> None:
    f = made("y[i] = sum[k](x[i, k]) + sum[k](x[k, 0])", res="y: T[N]")
    assert [op.name for op in f.ops] == ["y_sum", "y_sum_2", "y"]
    assert [dict(op.pieces[0].extents)["k"] for op in f.ops[:2]] == [3, 4]


def test_pieces_with_different_reductions() -> None:
    f = made("y[i] = sum[j](x[i, j])  y[N + i] = max[j](x[i, j])", res="y: T[2*N]")
    assert f.ops[-1].monoid is None
    assert [op.monoid for op in f.ops[:-1]] == ["sum", "max"]
    x = np.arange(12.0).reshape(4, 3)
    assert np.array_equal(evaluate(f, {"x": x})["y"], np.concatenate([x.sum(1), x.max(1)]))


def test_pieces_with_one_reduction_stay_one_operation() -> None:
    f = made("y[i] = sum[j](x[i, j])  y[N + i] = sum[k < 2](x[i, k])", res="y: T[2*N]")
    assert (len(f.ops), f.ops[0].monoid, len(f.ops[0].pieces)) == (1, "sum", 2)


def test_moments_give_two_tensors() -> None:
    f = made("m[i], s[i] = moments[j](x[i, j])  y[i, j] = x[i, j] - m[i] + s[i]", dtype=DType.BF16)
    assert [t.name for t in f.ops[0].outputs] == ["m", "s"]
    assert types(f) == {"m": "f32", "s": "f32", "y": "bf16"}


def test_an_index_stored_as_float() -> None:
    f = made("y[i] = argmax[j](x[i, j])", res="y: f32[N]")
    assert types(f) == {"y_argmax": "i32", "y": "f32"}


# Types of intermediates.


@pytest.mark.parametrize(
    ("clause", "dtype", "expected"),
    [
        ("a[i, j] = x[i, j]", DType.F16, "f16"),
        ("a[i, j] = max(x[i, j], 0)", DType.F16, "f16"),
        ("a[i, j] = -x[i, j]", DType.BF16, "bf16"),
        ("a[i, j] = select(i < j, x[i, j], 0)", DType.F16, "f16"),
        ("a[i, j] = x[i, j] + 1", DType.F16, "f32"),
        ("a[i, j] = exp(x[i, j])", DType.F16, "f32"),
        ("a[i, j] = x[i, j] + 1", DType.F64, "f64"),
        ("a[i, j] = T(x[i, j] + 1)", DType.F16, "f16"),
        ("a[i, j] = max(x[i, j], f32(0))", DType.F16, "f32"),
        ("a[i, j] = sum[k](x[i, k] * x[k, j]) for j < 3", DType.F16, "f32"),
        ("a[i, j] = max[k < 2](x[i, k]) for j < 3", DType.F16, "f16"),
        ("a[i, j] = x[i, j]", DType.I8, "i8"),
        ("a[i, j] = x[i, j] + x[i, j]", DType.I8, "i32"),
        ("a[i, j] = i + j for i < N, j < M", DType.F16, "i32"),
        ("a[i, j] = 0.5 for i < N, j < M", DType.F16, "f16"),
        ("a[i, j] = 1 for i < N, j < M", DType.F16, "i32"),
        ("a[i, j] = sum[k < 3](0.5) for i < N, j < M", DType.F16, "f32"),
    ],
)
def test_types_of_intermediates(clause: str, dtype: DType, expected: str) -> None:
    clause = clause.replace("x[k, j]", "x[k, 0]").replace("[k]", "[k < 3]")
    assert types(made(f"{clause}  y[i, j] = x[i, j]", dtype=dtype))["a"] == expected


def test_integers_stay_exact() -> None:
    f = made("y[i, j] = x[i, j] * 2 + i", dtype=DType.I8)
    x = np.full((4, 3), 100, np.int8)
    assert evaluate(f, {"x": x})["y"].max() == 127, "stores to i8 saturate"


# Calls.

HELPER = (
    "kernel twice(x: T[N, M], by: f32 = 2) -> (y: T[N, M]) { t[i, j] = x[i, j] * by  y[i, j] = t[i, j] }\n"
)
MAIN = HELPER + "kernel f(x: T[N, M]) -> (y: T[N, M]) { example N = 4, M = 3 CLAUSES }"


def called(clauses: str) -> Function:
    f = lower(MAIN.replace("CLAUSES", clauses))
    verify(f)
    return f


def test_called_kernels_are_inlined_under_fresh_names() -> None:
    f = called("a = twice(x)  b = twice(a, by=3)  y = twice(b)")
    assert [op.name for op in f.ops] == ["a_t", "a", "b_t", "b", "y_t", "y"]
    assert np.array_equal(evaluate(f, {"x": np.ones((4, 3))})["y"], np.full((4, 3), 12.0))


def test_fresh_names_avoid_those_of_the_caller() -> None:
    f = called("a_t[i, j] = x[i, j]  a = twice(a_t)  y[i, j] = a[i, j] + a_t[i, j]")
    assert [op.name for op in f.ops] == ["a_t", "a_t_2", "a", "y"]
    assert np.array_equal(evaluate(f, {"x": np.ones((4, 3))})["y"], np.full((4, 3), 3.0))


def test_calls_as_arguments() -> None:
    f = called("y = twice(twice(x, 5), by=7)")
    assert np.array_equal(evaluate(f, {"x": np.ones((4, 3))})["y"], np.full((4, 3), 35.0))


def test_operations_carry_the_line_of_the_call() -> None:
    text = (
        HELPER
        + "\nkernel f(x: T[N, M]) -> (y: T[N, M]) {\n example N = 2, M = 2\n a = twice(x)\n y = half(a) }\n"
    )
    text += "kernel half(x: T[N, M]) -> (y: T[N, M]) { y[i, j] = 0.5*x[i, j] }"
    f = lower(text, kernel="f")
    assert [op.line for op in f.ops] == [5, 5, 6]


def test_several_results() -> None:
    f = lower("kernel f(x: T[N, C, H, W]) -> (y: f32[C]) { example N = 2, C = 3, H = 2, W = 2 "
              "m, v = batch_stats(x) y[c] = m[c] + v[c] }")  # fmt: skip
    verify(f)
    assert types(f)["y"] == "f32"


def test_a_kernel_of_the_file_hides_the_library() -> None:
    f = lower("kernel softmax(x: T[N]) -> (y: T[N]) { y[i] = x[i] }\n"
              "kernel f(x: T[N]) -> (y: T[N]) { example N = 2 y = softmax(x) }")  # fmt: skip
    assert len(f.ops) == 1


def test_t_of_a_called_kernel_comes_from_its_arguments() -> None:
    f = lower("kernel f(x: T[N, M]) -> (y: f32[N, M]) { example N = 2, M = 3 a[i, j] = f32(x[i, j]) y = softmax(a) }",
              dtype=DType.F16)  # fmt: skip
    verify(f)
    assert set(types(f).values()) == {"f32"}


def test_sizes_that_lets_compute_may_shape_arguments() -> None:
    text = "kernel f(x: T[N], b: T[P]) -> (y: T[P]) { example N = 9 let P = N // 2 y[i] = x[2*i] + b[i] }"
    assert [a.tensor.shape for a in lower(text).args] == [(9,), (4,)]
    assert lower(text, sizes={"N": 4}).args[1].tensor.shape == (2,)


# inout.


def test_inout_is_updated_in_place() -> None:
    f = lower("kernel step(inout w: f32[N], inout m: f32[N], g: f32[N], rate: f32 = 0.5) -> (norm: f32[1]) {"
              " example N = 3 v[i] = m[i]*0.5 + g[i]  m[i] = v[i]  w[i] = w[i] - rate*v[i]"
              " norm[0] = sum[i](g[i]*g[i]) }")  # fmt: skip
    verify(f)
    assert [a.kind for a in f.args] == ["inout", "inout", "input"]
    assert f.results == ("norm", "w", "m")
    one = np.ones(3)
    out = evaluate(f, {"w": one, "m": one, "g": one})
    assert out["w"].tolist() == [0.25] * 3
    assert out["m"].tolist() == [1.5] * 3


def test_inout_through_a_call() -> None:
    f = lower("kernel bump(inout m: T[N]) -> (y: T[N]) { y[i] = m[i] m[i] = m[i] + 1 }\n"
              "kernel f(inout s: T[N]) -> (y: T[N]) { example N = 2 y = bump(s) }", kernel="f")  # fmt: skip
    verify(f)
    out = evaluate(f, {"s": np.zeros(2)})
    assert (out["y"].tolist(), out["s"].tolist()) == ([0, 0], [1, 1])
    with pytest.raises(LanguageError) as caught:
        lower("kernel bump(inout m: T[N]) -> (y: T[N]) { y[i] = m[i] m[i] = m[i] + 1 }\n"
              "kernel f(inout s: T[N]) -> (y: T[N]) { example N = 2 a = bump(s) y = bump(s) }", kernel="f")  # fmt: skip
    assert caught.value.code == "E0209"


# Files, kernels, sizes, orders.


def test_use_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.k").write_text('use "b.k"\nkernel a(x: T[N]) -> (y: T[N]) { y = b(x) }')
    (tmp_path / "lib" / "b.k").write_text("kernel b(x: T[N]) -> (y: T[N]) { y[i] = 2*x[i] }")
    text = 'use "lib/a.k"\nkernel f(x: T[N]) -> (y: T[N]) { example N = 2 y = a(x) }'
    assert len(lower(text, str(tmp_path / "main.k")).ops) == 1
    assert len(lower(text, "<string>", use_path=tmp_path).ops) == 1
    with pytest.raises(LanguageError) as caught:
        lower(
            'use "lib/a.k"\nkernel f(x: T[N]) -> (y: T[N]) { example N = 2 y = b(x) }',
            str(tmp_path / "main.k"),
        )
    assert caught.value.code == "E0204", "what a used file uses is its own affair"


def test_errors_in_used_files_show_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.k").write_text("kernel a(x: T[N]) -> (y: T[N]) { y[i] = z[i] }")
    with pytest.raises(LanguageError) as caught:
        lower(
            'use "a.k"\nkernel f(x: T[N]) -> (y: T[N]) { example N = 2 y = a(x) }', str(tmp_path / "main.k")
        )
    assert caught.value.span is not None
    assert caught.value.span.file.endswith("a.k")
    assert "y[i] = z[i]" in str(caught.value)


def test_which_kernel() -> None:
    helper = "kernel g(x: T[N]) -> (y: T[N]) { y[i] = x[i] }\n"
    shown = "kernel f(x: T[N]) -> (y: T[N]) { example N = 2 y = g(x) }\n"
    assert kernel_names(helper + shown) == ["f"]
    assert kernel_names(helper) == ["g"]
    assert lower(helper + shown).name == "f"
    assert lower(helper + shown, kernel="g", sizes={"N": 3}).name == "g"


def test_sizes_win_over_examples_and_defaults() -> None:
    text = "kernel f(x: T[N], k: int = 2) -> (y: T[k*N]) { example N = 4, k = 3 y[k*i + j] = x[i] for i < N, j < k }"
    assert lower(text).tensors()["y"].shape == (12,)
    assert lower(text, sizes={"N": 5, "k": 1}).tensors()["y"].shape == (5,)


def test_defaults_may_name_attributes_before_them() -> None:
    text = (
        "kernel f(x: T[N], a: int = 2, b: int = a + 1) -> (y: T[b]) { example N = 9 y[i] = x[i] for i < b }"
    )
    assert lower(text).tensors()["y"].shape == (3,)
    assert lower(text, sizes={"a": 4}).tensors()["y"].shape == (5,)
    assert [a.default for a in kernel_info(text).attributes] == [2, 3]


def test_orders() -> None:
    text = "kernel f(x: T[N, C, H, W], param w: T[C, C, H, W], b: T[C]) -> (y: T[N, C, H, W], z: T[C]) {"
    text += " example N = 1, C = 2, H = 3, W = 4 y[n, c, h, w] = x[n, c, h, w] z[c] = b[c] }"

    def orders(layout: str | None) -> list[tuple[int, ...] | None]:
        f = lower(text, layout=layout)
        return [a.tensor.order for a in f.args] + [f.tensors()[r].order for r in f.results]

    assert orders("nhwc") == [(0, 2, 3, 1), None, None, (0, 2, 3, 1), None]
    assert orders("NHWC") == orders("nhwc")
    assert orders(None) == orders("nchw") == [None] * 5
    assert orders("chwn") == [(1, 2, 3, 0), None, None, (1, 2, 3, 0), None]


def test_info() -> None:
    text = 'kernel f(x: T[N, 2*N], param w: f32[N], inout s: T[N], k: int) -> (y: T[k]) { "Words\n  here."\n'
    text += " example N = 2*3 y[i] = x[i, 0] for i < k  s[i] = w[i] }"
    info = kernel_info(text)
    assert info.doc == "Words here."
    assert [(p.name, p.kind, p.dtype, p.shape) for p in info.params] == [
        ("x", "input", "T", ("N", "2 * N")),
        ("w", "param", "f32", ("N",)),
        ("s", "inout", "T", ("N",)),
    ]
    assert (info.symbols, info.example, info.missing) == (("N",), {"N": 6}, ("k",))
    assert (info.results[0].kind, info.results[0].shape) == ("result", ("k",))


def test_check_needs_no_sizes() -> None:
    assert check("kernel f(x: T[N]) -> (y: T[N]) { y[i] = x[i] }").kernels[0].name == "f"


def test_lowering_is_deterministic() -> None:
    text = "kernel f(x: T[N, C, H, W], w: T[C, C, 3, 3]) -> (y: T[N, C, H, W])"
    text += " { example N = 1, C = 2, H = 4, W = 4 a = conv2d(x, w, pad=1) y = relu(a) }"
    assert print_function(lower(text)) == print_function(lower(text.encode()))


def test_reads_of_constants_are_allowed() -> None:
    f = made("y[i, j] = x[N - 1, 0]")
    (read,) = reads(f.ops[0])
    assert read == Read("x", (Affine((), 3), Affine()))


def test_sizes_may_be_any_integer_type() -> None:
    text = "kernel f(x: T[N], a: f32 = 1) -> (y: T[N]) { y[i] = x[i]*a }"
    sizes = {"N": np.int64(5), "a": np.float32(2)}
    assert body(lower(text, sizes=sizes)) == "mul(x[i], 2.0)"  # type: ignore[arg-type]
    for wrong in ({"N": 2.0}, {"N": "2"}, {"N": True}, {"N": 2, "a": "x"}, {"N": 2, "a": float("nan")}):
        with pytest.raises(LanguageError) as caught:
            lower(text, sizes=wrong)  # type: ignore[arg-type]
        assert caught.value.code == "E0317"
