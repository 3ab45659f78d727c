"""Error rules of scalar functions: every function at every perturbed operand stays inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc.dtypes import DType
from opc.scalar import FUNCTIONS, numpy_function
from opc.tensor.values import Mode, Value, apply, cast

MODE = Mode(np.dtype(np.float64), track=True)
PLAIN = [f.name for f in FUNCTIONS.values() if f.kind in ("arithmetic", "float")]

numbers = st.one_of(
    st.floats(-4, 4), st.floats(-1e6, 1e6), st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 80.0, -80.0, 1e38])
)
errors = st.one_of(st.just(0.0), st.floats(0, 0.5), st.floats(0, 1e-6))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(PLAIN),
    st.lists(st.tuples(numbers, errors), min_size=2, max_size=2),
    st.integers(0, 2**32),
)
def test_perturbed_operands_stay_inside(fn: str, pairs: list[tuple[float, float]], seed: int) -> None:
    # Errors that float64 resolves, and a little room, as x + e is itself rounded here.
    pairs = [(x, max(e, 1e-9 * abs(x)) if e else 0.0) for x, e in pairs[: FUNCTIONS[fn].arity]]
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        operands = [Value(np.array([x]), np.array([e])) for x, e in pairs]
        result = apply(fn, operands, DType.F32, MODE)
        error = np.zeros(1) if result.error is None else result.error
        # The ends of the intervals and points between, correctly rounded to f32 by functions that round.
        for _ in range(8):
            steps = random.choice([-1, 1, 0, random.uniform(-1, 1)], size=len(pairs))
            moved = [np.float64(x) + s * e * (1 - 1e-6) for (x, e), s in zip(pairs, steps, strict=True)]
            found = np.float64(numpy_function(fn)(*moved))
            found = np.float64(np.float32(found)) if FUNCTIONS[fn].ulp else found
            inside = abs(found - result.data[0]) <= error[0] * (1 + 1e-9) or np.isinf(error[0])
            same = found == result.data[0] or (np.isnan(found) and np.isnan(result.data[0]))
            assert inside or same, (moved, found, result)


@pytest.mark.parametrize("target", [DType.F16, DType.BF16, DType.F32])
def test_casts_of_exact_values_cost_one_rounding(target: DType) -> None:
    x = np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.random.default_rng(1).integers(
        -9, 5, 1000
    )
    with np.errstate(all="ignore"):
        result = cast(Value(x), DType.F64, target, MODE)
        apart = np.abs(x.astype(target.numpy).astype(np.float64) - x)
    assert result.error is not None
    assert (apart <= result.error).all()
    normal = np.abs(x) > target.tiny * 2
    assert (result.error[normal] <= np.abs(x[normal]) * target.roundoff * 1.01).all()
    # Flushing a subnormal to zero is allowed.
    small = np.abs(x) < target.tiny
    assert (np.abs(x[small]) <= result.error[small]).all()


@pytest.mark.parametrize("target", [DType.F16, DType.BF16, DType.F32])
def test_casts_of_values_that_fit_cost_nothing(target: DType) -> None:
    x = np.arange(-200.0, 200.0)
    assert cast(Value(x), DType.F64, target, MODE).error is None


@settings(max_examples=200, deadline=None)
@given(st.floats(-300, 300), st.floats(0, 2), st.sampled_from([DType.I8, DType.I32]))
def test_casts_to_integers_span_what_rounding_leaves_open(x: float, e: float, target: DType) -> None:
    result = cast(Value(np.array([x]), np.array([e])), DType.F32, target, MODE)
    error = 0 if result.error is None else result.error[0]
    for moved in (x - e, x + e, x):
        exact = cast(Value(np.array([moved])), DType.F32, target, MODE)
        assert abs(int(exact.data[0]) - int(result.data[0])) <= error


def test_integers_wrap() -> None:
    big = Value(np.array([2**31 - 1, -(2**31)]))
    one = Value(np.array([1, -1]))
    np.testing.assert_array_equal(apply("add", [big, one], DType.I32, MODE).data, [-(2**31), 2**31 - 1])
    np.testing.assert_array_equal(apply("neg", [big], DType.I32, MODE).data, [-(2**31) + 1, -(2**31)])
    assert apply("add", [big, one], DType.I32, MODE).error is None


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16])
def test_the_sign_of_a_quotient_by_zero_is_open(dtype: DType) -> None:
    with np.errstate(divide="ignore"):
        quotient = apply("div", [Value(np.array([1.0, 1.0])), Value(np.array([0.0, 2.0]))], dtype, MODE)
    assert quotient.error is not None
    assert np.isinf(quotient.error[0])
    assert np.isfinite(quotient.error[1])
