"""The training benchmark: its reference, its bars, and what happens between two calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import suite, training_memory, training_npu, training_ops
from benchmarks.case import Array, Case
from benchmarks.check_training import Reference, TrainingChecker
from benchmarks.engine import Engine, Prepared
from benchmarks.peers.own_training import Step
from benchmarks.problems.resnet50 import RESNET50
from benchmarks.problems.train import EPS, NAMES, QUICK, WRT, TrainProblem
from benchmarks.results import Results, Sample
from benchmarks.training_bars import training_bars
from benchmarks.worker import Worker
from opc import driver
from opc import machine as machines
from opc.cpu.features import pick_machine
from opc.dtypes import DType

C20 = Case("train", "c20", "f32", 1, 1)


def right(case: Case) -> Array:
    what = TrainProblem(case)
    reference = Reference.of(what)
    found = reference.results(reference.y > 0)
    return np.concatenate([a.ravel() for a in found.values()])


@pytest.mark.parametrize("name", ["c07", "c15"])
def test_the_reference_agrees_with_autograd_in_float64(name: str) -> None:
    torch = pytest.importorskip("torch")
    what = TrainProblem(Case("train", name, "f32", 1, 1))
    arrays = {k: torch.from_numpy(a.astype(np.float64)) for k, a in what.arrays().items()}
    inputs = [arrays[n].requires_grad_() for n in WRT]
    a = torch.conv2d(inputs[0], inputs[1], None, what.conv.stride, what.conv.pad)
    y = torch.relu(torch.nn.functional.batch_norm(a, None, None, *inputs[2:], True, 0.1, EPS))
    gradients = torch.autograd.grad(y, inputs, arrays["d_y"])
    found = what.parted(what.joined([t.detach().numpy() for t in (y, *gradients)]))
    expected = what.parted(right(what.case).astype(np.float32))
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=1e-6 * np.abs(value).max(), err_msg=key)


def test_one_wrong_gradient_is_found_by_its_name() -> None:
    checker, result = TrainingChecker(), right(C20)
    assert checker.peer(C20, result).problem is None
    what = TrainProblem(C20)
    pieces = what.parted(result)
    pieces["d_w"][0, 0] += 1
    assert "d_w is off by" in str(checker.peer(C20, result).problem)
    pieces["d_w"][0, 0] = np.nan
    assert "d_w is off by inf" in str(checker.peer(C20, result).problem)
    assert checker.own("strict", C20, right(C20)).problem is None
    assert "other bits" in str(checker.own("strict", C20, result).problem)


class _Negated(Engine):
    """Notes the weights that each call meets."""

    def __init__(self, weights: Array) -> None:
        super().__init__(1)
        self.weights, self.seen = weights, list[float]()

    def version(self) -> str:
        return "0"

    def prepare(self, case: Case) -> Prepared:
        def call() -> None:
            self.seen.append(float(self.weights[0, 0]))

        return Prepared(call, lambda: self.weights, weights=(self.weights,), peak=lambda: 7)


def test_every_timed_call_meets_other_weights() -> None:
    engine = _Negated(np.ones((2, 3), np.float32).T)
    worker = Worker(engine)
    worker.prepared = engine.prepare(C20)
    assert len(worker.time(warm=1, runs=3, cold=0)["seconds"]) == 3
    assert engine.seen == [1, -1, 1, -1]
    assert worker.memory() == {"bytes": 7}


def test_bars_take_the_worst_case_and_the_thriftier_torch() -> None:
    found = Results()
    for name, ours in (("c03", 1.0), ("c05", 2.0)):
        case = Case("train", name, "f32", 8, 1)
        for engine, seconds, memory in (
            ("opc-train", ours, 90),
            ("torch-eager-train", 2.0, 100),
            ("torch-compile-train", 4.0, 80),
        ):
            found.samples.append(Sample(0, case, engine, (seconds,), seconds, 3, 0.0, memory))
    strict = {"a": 400.0, "a2": 150.0, "c": 130.0, "d": 125.0}
    found.simulated = {
        n: {**strict, "a+": 300.0, "a2+": 120.0, "c+": 140.0, "d+": 100.0} for n in ("c03", "c05")
    }
    assert [line for bar in training_bars(found) for line in bar.lines() if line.startswith("bar ")] == [
        "bar bf16_vs_best_peer n/a 2 n/a",
        "bar f32_vs_best_peer 1.414 1.3 ok",
        "bar worst_shape 1.000 0.97 ok",
        "bar memory 1.125 1 short",
        "bar npu_gain 4.000 3 ok",
        "bar npu_fusion_gain 1.500 1.4 ok",
        "bar npu_order_gain 1.400 1.3 ok",
    ]


def test_the_kernel_takes_the_arrays_of_the_problem() -> None:
    what = TrainProblem(Case("train", "c07", "bf16", 8, 1))
    machine = driver.target_machine("cpu")
    function = driver.specialise(what.source, "c07.k", machine, None, what.sizes, "bf16", what.layout)
    shapes = {a.tensor.name: a.tensor.shape for a in function.args}
    assert {n: a.shape for n, a in what.arrays().items() if n in WRT} == {n: shapes[n] for n in WRT}


def test_one_block_on_opc_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "train.json"
    cell = ["--shapes", "c20", "--dtype", "f32", "--batch", "1", "--threads", "1", "--processes", "1"]
    arguments = [*cell, "--targets", "cpu", "--engines", "opc-train", "--output", str(output)]
    assert suite.run(training_ops.SUITE, arguments) == 0
    found = Results.read(output)
    assert found.checked["opc-train"] <= 1
    held = found.memory(Case("train", "c20", "f32", 1, 1), "opc-train")
    w, x, y = 4 * 2048 * 512, 4 * 49 * 512, 4 * 49 * 2048
    assert held is not None
    assert (
        held >= w + x + 2 * y
    )  # gradients of the weights and the image, the convolution's result and the block's
    assert "bar npu_gain n/a 3 n/a" in capsys.readouterr().out


def test_simulations_are_part_of_a_run_and_of_its_pieces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def simulate(name: str, results: Results) -> None:
        strict = {"a": 390.0, "a2": 180.0, "c": 143.0, "d": 130.0}
        results.simulated[name] = {**strict, "a+": 250.0, "a2+": 150.0, "c+": 120.0, "d+": 100.0}

    fake = replace(training_ops.SUITE, simulate=simulate)
    pieces = [str(tmp_path / f"{name}.json") for name in ("c03", "c05")]
    for name, path in zip(("c03", "c05"), pieces, strict=True):
        assert suite.run(fake, ["--targets", "npu", "--shapes", name, "--output", path]) == 0
    capsys.readouterr()
    assert suite.run(fake, ["--from", *pieces]) == 0
    printed = capsys.readouterr().out
    assert "bar npu_gain 3.900 3 ok" in printed
    assert "(a)/(d+): c03 3.90 c05 3.90; without the licence 3.000; with it on both sides 2.500" in printed
    assert "(c+)/(d+): c03 1.20 c05 1.20; without the licence 1.100" in printed
    assert "bar npu_order_gain 1.200 1.3 short" in printed


def test_the_backward_kernel_of_a_block_is_simulated_in_f16() -> None:
    function = training_npu.backward("c20", machines.load(training_npu.MACHINE), batch=1)
    assert function.results == tuple(f"d_{name}" for name in WRT)
    assert function.tensors()["d_x"].dtype is DType.F16


def test_the_blocks_are_shapes_of_the_network() -> None:
    assert set(QUICK) < set(NAMES) < set(RESNET50)
    assert len(NAMES) >= 8


def test_the_table_of_memory_counts_what_a_step_holds(capsys: pytest.CaptureFixture[str]) -> None:
    name = pick_machine()
    peak = Step(1).prepare(C20).peak
    assert peak is not None
    assert training_memory.held(C20, name).most == peak()
    assert training_memory.show(["--shapes", "c20", "--batch", "1", "--peers", "none"]) == 0
    assert "c20" in capsys.readouterr().out
