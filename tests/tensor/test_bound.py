"""Results against values with bounds: NaN, infinities, and what rounding leaves undecided."""

from __future__ import annotations

import numpy as np
import pytest

from opc.dtypes import DType
from opc.tensor.bound import Bounded, check
from opc.tensor.interpret import oracle
from opc.tensor.text import parse_function


def only(results: dict[str, Bounded]) -> Bounded:
    (result,) = results.values()
    return result


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="the result has the shape"):
        check(np.zeros(3), Bounded(np.zeros(4), np.zeros(4), DType.F32))


@pytest.mark.parametrize(
    ("found", "value", "bound", "dtype", "ok"),
    [
        (1.0, 1.0, 0.0, "f32", True),
        (1.001, 1.0, 0.0, "f32", False),
        (np.nan, np.nan, 0.0, "f32", True),
        (1.0, np.nan, 0.0, "f32", False),
        (np.nan, 1.0, 9.0, "f32", False),
        (np.inf, np.inf, 0.0, "f32", True),
        (-np.inf, np.inf, 0.0, "f32", False),
        (np.inf, 65500.0, 32.0, "f16", True),
        (np.inf, 65000.0, 32.0, "f16", False),
        (-np.inf, 65500.0, 32.0, "f16", False),
        (65504.0, 70000.0, 35.0, "f16", False),
        (7.0, 1.0, np.inf, "f32", True),
        (np.nan, 1.0, np.inf, "f32", True),
    ],
)
def test_check(found: float, value: float, bound: float, dtype: str, ok: bool) -> None:
    report = check(
        np.array([0.0, found]), Bounded(np.array([0.0, value]), np.array([0.0, bound]), DType(dtype))
    )
    assert report.ok is ok
    if not ok:
        assert report.index == (1,)
        assert report.failures == 1
        assert "worst at [1]" in str(report)


def test_undecided_argmax_takes_either_index() -> None:
    text = """func v1 f {
  arg x: f32[3] input
  op y: i32[] argmax { piece reduce i<3 at () = mul(x[i], 0.1) }
  return y
}
"""
    x = np.array([1.0, 1.0 + 1e-7, 0.5], np.float32)
    result = only(oracle(parse_function(text), {"x": x}))
    assert result.undecided is not None
    assert [check(np.asarray(i), result).ok for i in (0, 1, 2, 3, -1)] == [True, True, False, False, False]


def test_undecided_comparison_takes_either_branch() -> None:
    text = """func v1 f {
  arg x: f32[3] input
  op y: f32[3] { piece i<3 at i = select(lt(mul(x[i], 0.1), 0.1), 5, 7) }
  return y
}
"""
    result = only(oracle(parse_function(text), {"x": np.array([0.5, 1.0, 2.0], np.float32)}))
    np.testing.assert_array_equal(result.bound, [0.0, 2.0, 0.0])


@pytest.mark.parametrize("fn", ["tanh", "erf", "sigmoid"])
def test_what_is_unknown_may_be_nan_after_functions_of_bounded_range(fn: str) -> None:
    text = f"""func v1 f {{
  arg x: f16[1] input
  op a: f16[1] {{ piece i<1 at i = mul(x[i], x[i]) }}
  op y: f16[1] {{ piece i<1 at i = {fn}(mul(a[i], sub(x[i], x[i]))) }}
  return y
}}
"""
    result = only(oracle(parse_function(text), {"x": np.array([6e4], np.float16)}))
    assert check(np.array([np.nan], np.float16), result).ok, "an infinity times zero"
