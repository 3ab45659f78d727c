"""The numerics licence: who takes it, what remembers it, and the bound it is held to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import opc
from opc import cli, data, driver, machine
from opc.errors import RuntimeCallError
from opc.pipeline import FAST, NUMERICS, STRICT
from opc.tensor.interpret import oracle, oracle_under

CONV = Path("kernels_dsl/conv_bn_relu.k")
SIZES = {"N": 1, "C": 8, "H": 10, "W": 9, "K": 16}


def test_unknown_numerics() -> None:
    with pytest.raises(RuntimeCallError, match="unknown numerics 'loose'") as caught:
        opc.compile(CONV, numerics="loose", **SIZES)
    assert caught.value.code == "E0930"


@pytest.mark.parametrize("numerics", NUMERICS)
def test_a_saved_kernel_remembers(numerics: str, tmp_path: Path) -> None:
    kernel = opc.compile(CONV, numerics=numerics, layout="nhwc", **SIZES)
    assert kernel.numerics == numerics
    kernel.save(tmp_path / "k.opc")
    assert opc.load(tmp_path / "k.opc").numerics == numerics


def test_ops_take_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 10, 10), np.float32).transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    w = rng.standard_normal((8, 8, 3, 3), np.float32)
    strict, fast = (opc.ops.conv2d(x, w, pad=1, numerics=n) for n in NUMERICS)
    np.testing.assert_allclose(fast, strict, rtol=0, atol=1e-4)


@pytest.mark.parametrize("numerics", NUMERICS)
def test_the_oracle_of_a_build(numerics: str) -> None:
    target = machine.load("avx2")
    function = driver.specialise(CONV.read_text(), str(CONV), target, None, SIZES, None, "nhwc")
    built = driver.build(function, target, numerics=numerics)
    arrays = data.arguments(function)
    expected, plain = built.oracle(arrays)["y"], oracle(function, arrays)["y"]
    assert (expected.value == plain.value).all(), (
        "the reference is the kernel as written, whatever the licence"
    )
    if numerics == STRICT:
        assert (expected.bound == plain.bound).all()
    else:
        assert (expected.bound == oracle_under(function, built.function, arrays)["y"].bound).all()


def test_a_float64_reference_counts_its_own_error() -> None:
    target = machine.load("avx2")
    function = driver.specialise(CONV.read_text(), str(CONV), target, None, SIZES, "f64", "nhwc")
    arrays = data.arguments(function)
    plain = oracle(function, arrays)["y"]
    np.testing.assert_allclose(oracle_under(function, function, arrays)["y"].bound, 2 * plain.bound)


def test_the_command_line_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ",".join(f"{name}={size}" for name, size in SIZES.items())
    assert cli.run(["run", str(CONV), "--target", "cpu", "--set", sizes, "--numerics", FAST]) == 0
    assert "ok" in capsys.readouterr().out
    assert cli.run(["run", str(CONV), "--numerics", "loose"]) == 2
