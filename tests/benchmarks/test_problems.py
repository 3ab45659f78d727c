"""The problems that are timed are the ones that are named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bars import elementwise_bars, matmul_bars
from benchmarks.case import Case, problem
from benchmarks.check import Checker
from benchmarks.engine import Entry
from benchmarks.harness import Plan, Session, environment
from benchmarks.peers import protobuf
from benchmarks.problems import conv_grad, elementwise, matmul
from benchmarks.process import EngineError, Process
from benchmarks.results import Results, Sample
from opc import driver


@pytest.mark.parametrize("name", matmul.NAMES)
def test_matrix_products_have_the_operands_that_their_names_say(name: str) -> None:
    what = matmul.problem(Case("matmul", name, "f32", 1, 1))
    arrays = what.arrays()
    a, b = (
        np.swapaxes(arrays[key], -1, -2) if flag else arrays[key]
        for key, flag in zip("ab", what.transposed, strict=True)
    )
    m, k = a.shape[-2:]
    assert b.shape[-2] == k
    assert what.flops == 2 * m * k * b.shape[-1] * (a.shape[0] if a.ndim == 3 else 1)
    machine = driver.target_machine("cpu")
    function = driver.specialise(what.source, "matmul", machine, None, what.sizes, "f32", None)
    assert {x.tensor.name: x.tensor.shape for x in function.args} == {n: x.shape for n, x in arrays.items()}


@pytest.mark.parametrize("name", elementwise.NAMES)
def test_large_arrays_repeat_one_piece(name: str) -> None:
    what = elementwise.problem(Case("elementwise", name, "f32", 8, 1))
    assert what.repeats == 2
    ((sizes, piece),) = what.parts()
    whole = what.arrays()
    assert whole.keys() == piece.keys()
    key = next(iter(whole))
    np.testing.assert_array_equal(whole[key], np.concatenate([piece[key]] * 2))
    lead = next(iter(sizes))
    assert what.sizes[lead] == 2 * sizes[lead]
    assert whole[key].nbytes == 8 << 20
    factor = {"add": 3, "max_pool2d": 1.25, "avg_pool2d": 1.25}.get(name, 2)
    assert what.moved == factor * (8 << 20)


def test_a_problem_is_checked_against_the_oracle() -> None:
    case = Case("elementwise", "relu", "f32", 4, 1)
    x = next(iter(problem(case).parts()))[1]["x"].transpose(0, 2, 3, 1)
    right, checker = np.maximum(x, 0), Checker()
    assert checker.peer(case, right).problem is None
    assert "off by" in str(checker.peer(case, right + 1).problem)
    assert "outside their bound" in str(Checker().own("strict", case, right + 1).problem)
    assert checker.own("strict", case, right).problem is None
    assert checker.own("strict", Case("elementwise", "relu", "f32", 4, 2), right).problem is None
    assert "other bits" in str(checker.own("strict", case, right + 1e-6).problem)


def test_onnx_models_are_written_without_a_package() -> None:
    assert protobuf.node("Relu", ["x"], "y") == b"\x0a\x01x\x12\x01y\x22\x04Relu"
    assert protobuf.tensor("w", np.zeros((1, 300), np.float32))[:6] == b"\x08\x01\x08\xac\x02\x10"


def test_a_missing_peer_is_reported_and_left_out() -> None:
    results = Results()
    session = Session(results, Checker(), Plan(), print, set())
    session.start([Entry("ghost", "nowhere:Ghost", ("no_such_package",))], 1)
    session.close()
    assert results.missing == {"ghost": "no_such_package is not installed"}
    assert not session.running


def test_torch_alone_gets_jemalloc() -> None:
    plan = Plan(preload="/lib/j.so", passive=True)
    torch, other = (environment(Entry("x", "", jemalloc=flag), 2, plan) for flag in (True, False))
    assert torch["LD_PRELOAD"] == "/lib/j.so"
    assert other.get("LD_PRELOAD") != "/lib/j.so"
    assert other["OMP_NUM_THREADS"] == "2"
    assert other["OMP_WAIT_POLICY"] == "PASSIVE"


def sample(case: Case, name: str, seconds: float) -> Sample:
    return Sample(0, case, name, (seconds,), seconds, 3, 0.0)


def test_the_bandwidth_bar_is_its_slowest_kernel_and_leaves_out_what_arithmetic_bounds() -> None:
    found = Results()
    for name, seconds in (("relu", 2.0), ("add", 1.0), ("gelu", 9.0)):
        case = Case("elementwise", name, "f32", 1024, 1)
        found.samples += [sample(case, "opc", seconds), sample(case, "triad", 1.0)]
    (bar,) = elementwise_bars(found)
    assert bar.lines()[-1] == "bar bandwidth 0.500 0.9 short"
    assert len(bar.situations) == 2


def test_matrix_products_are_held_against_torch() -> None:
    case = Case("matmul", "512x512x512", "f32", 1, 1)
    found = Results(samples=[sample(case, "opc", 1.0), sample(case, "torch", 0.98)])
    lines = [bar.lines()[-1] for bar in matmul_bars(found)]
    assert lines == ["bar matmul_f32 0.980 0.97 ok", "bar matmul_bf16 n/a 1 n/a"]


def test_a_licence_without_use_keeps_the_strict_bound() -> None:
    case = Case("matmul", "32x48x16", "f32", 1, 1)
    checker = Checker()
    value, _ = checker._reference("strict", case)
    assert checker.own("fast", case, value.astype(np.float32)).problem is None
    assert checker._reference("fast", case)[0] is value


def test_a_worker_that_dies_is_an_error_of_its_engine(tmp_path: Path) -> None:
    entry = Entry("ghost", "nowhere:Ghost")
    process = Process(entry, {min(os.sched_getaffinity(0))}, environment(entry, 1, Plan()), tmp_path / "log")
    with pytest.raises(EngineError, match="KeyError: 'ghost'"):
        process.about()
    process.close()
    with pytest.raises(EngineError, match="ended"):
        process.ask("drop")


@pytest.mark.parametrize("name", ["c07-data", "c07-weights", "c09-data", "c01-weights"])
def test_gradients_are_those_of_the_convolution_that_the_name_says(name: str) -> None:
    case = Case("conv_grad", name, "f32", 8, 1)
    what, machine = conv_grad.problem(case), driver.target_machine("cpu")
    function = driver.specialise(what.source, "conv_grad", machine, what.kernel, what.sizes, "f32", "nhwc")
    assert {x.tensor.name: x.tensor.shape for x in function.args} == {
        n: x.shape for n, x in what.arrays().items()
    }
    wanted = function.tensors()[function.results[0]].shape
    c = what.conv
    image, weights = (8, c.channels, c.image, c.image), (c.filters, c.channels, c.size, c.size)
    assert wanted == (image if what.of == "data" else weights)
    (sizes, part), *rest = what.parts()
    assert len(rest) == 7
    assert sizes.keys() == what.sizes.keys()
    assert part["d_y"].size * 8 == what.arrays()["d_y"].size
