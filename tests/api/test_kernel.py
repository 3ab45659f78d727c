"""The Kernel object: calls, binding, outputs, threads, looking inside, saving."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import kernels_dsl
import opc

LINEAR = kernels_dsl.path("linear_bias_relu")


@pytest.fixture(scope="module")
def kernel() -> opc.Kernel:
    return opc.compile(LINEAR, threads=1, M=6, K=40, N=21)


def data(kernel: opc.Kernel, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {s.name: random.standard_normal(s.shape).astype(s.dtype) for s in kernel.signature.args}


def expected(a: dict[str, Any]) -> Any:
    return np.maximum(a["x"].astype(np.float64) @ a["w"].T + a["bias"], 0)


def test_call_by_position_and_name(kernel: opc.Kernel) -> None:
    a = data(kernel)
    y = kernel(a["x"], a["w"], a["bias"])
    np.testing.assert_allclose(y, expected(a), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kernel(a["x"], bias=a["bias"], w=a["w"]), y)
    out = kernel.empty("y")
    assert kernel(**a, out=out) is out
    np.testing.assert_array_equal(out, y)


def test_parameters_updated_in_place_are_never_stale(kernel: opc.Kernel) -> None:
    a = data(kernel)
    before = kernel(**a)
    a["w"] *= 2
    a["bias"] += 1
    after = kernel(**a)
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, expected(a), rtol=1e-5, atol=1e-5)


def test_bind_packs_once(kernel: opc.Kernel) -> None:
    a = data(kernel)
    bound = kernel.bind(w=a["w"], bias=a["bias"])
    y = bound(a["x"])
    np.testing.assert_array_equal(y, kernel(**a))
    a["w"][:] = 0
    a["bias"][:] = 0
    np.testing.assert_array_equal(bound(a["x"]), y)
    assert "w, bias bound" in repr(bound)


def test_start_and_wait(kernel: opc.Kernel) -> None:
    a = data(kernel)
    pending = [kernel.start(**a) for _ in range(4)]
    for p in pending:
        np.testing.assert_array_equal(p.wait(), kernel(**a))
        assert p.done()
    with pytest.raises(opc.RuntimeCallError):
        kernel.start(a["x"]).wait()


@pytest.mark.parametrize("name", ["linear_bias_relu", "softmax", "conv_bn_relu", "layer_norm"])
def test_same_bits_at_any_thread_count(name: str) -> None:
    sizes = {"N": 2, "C": 8, "H": 13, "W": 9, "K": 24} if name == "conv_bn_relu" else {"M": 50, "N": 33}
    results = []
    for threads in (1, 2, 3, 8):
        k = opc.compile(kernels_dsl.path(name), threads=threads, **sizes)  # type: ignore[arg-type]
        a = {s.name: np.abs(v) for s, v in zip(k.signature.args, data(k).values(), strict=True)}
        results.append(k(**a).tobytes())
    assert len(set(results)) == 1


def test_threads_share_a_kernel(kernel: opc.Kernel) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        a = data(kernel, seed)
        want = expected(a)
        for _ in range(50):
            if not np.allclose(kernel(**a), want, rtol=1e-5, atol=1e-5):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_builds_are_reproducible() -> None:
    first, second = (opc.compile(LINEAR, M=6, K=40, N=21) for _ in range(2))
    for view in ("tensor_ir", "program_ir", "llvm_ir", "asm", "listing"):
        assert getattr(first, view) == getattr(second, view)


def test_looking_inside() -> None:
    k = opc.compile(LINEAR, dtype="f16", M=6, K=40, N=21)
    assert k.tensor_ir.startswith("func v1 linear_bias_relu")
    assert "program v1 linear_bias_relu" in k.program_ir
    assert "define" in k.llvm_ir
    assert "ret" in k.asm
    assert k.listing.startswith("listing v1 linear_bias_relu")
    assert k.timeline.cycles > 0
    a = data(k)
    np.testing.assert_allclose(
        k.simulate(**a).astype(np.float32), k(**a).astype(np.float32), rtol=1e-2, atol=1e-2
    )


def test_kernel_for_the_npu_only() -> None:
    k = opc.compile(LINEAR, machine="ascend910", M=6, K=40, N=21)
    a = data(k)
    assert a["x"].dtype == np.float16
    np.testing.assert_allclose(k.simulate(**a), expected(a), rtol=1e-2, atol=1e-2)
    with pytest.raises(opc.RuntimeCallError, match="E0912"):
        k(**a)


def test_a_dtype_the_npu_lacks_shows_when_the_listing_is_asked_for() -> None:
    k = opc.compile(LINEAR, dtype="bf16", M=6, K=40, N=21)
    a = data(k)
    assert k(**a).dtype == ml_dtypes.bfloat16
    with pytest.raises(opc.MachineError):
        k.listing  # noqa: B018


def test_copies_share_the_machine_code(kernel: opc.Kernel) -> None:
    assert copy.deepcopy([kernel])[0] is kernel is copy.copy(kernel)
    with pytest.raises(TypeError, match=r"cannot pickle 'Kernel': save\(\)"):
        pickle.dumps(kernel)


def test_save_and_load(kernel: opc.Kernel, tmp_path: Path) -> None:
    kernel.save(tmp_path / "k.opc")
    kernel.save(tmp_path / "again.opc")
    assert (tmp_path / "k.opc").read_bytes() == (tmp_path / "again.opc").read_bytes()
    loaded = opc.load(tmp_path / "k.opc")
    a = data(kernel)
    np.testing.assert_array_equal(loaded(**a), kernel(**a))
    assert loaded.program_ir == kernel.program_ir


def test_damaged_archives(kernel: opc.Kernel, tmp_path: Path) -> None:
    good = tmp_path / "k.opc"
    kernel.save(good)
    raw = good.read_bytes()
    bad = tmp_path / "bad.opc"
    for text in (b"", b"PK", raw[: len(raw) // 2], b"x" * 1000):
        bad.write_bytes(text)
        with pytest.raises(opc.RuntimeCallError, match="E0914"):
            opc.load(bad)
    with zipfile.ZipFile(good) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    for change in (
        {"module.program": parts["module.program"] + b"# changed\n"},
        {"manifest.json": json.dumps({"format": "v9"})},
    ):
        with zipfile.ZipFile(bad, "w") as archive:
            for name, content in {**parts, **change}.items():
                archive.writestr(name, content)
        with pytest.raises(opc.RuntimeCallError, match="E0914"):
            opc.load(bad)
    with pytest.raises(opc.RuntimeCallError, match="E0920"):
        opc.load(tmp_path / "none.opc")


def test_kernel_from_text_and_layout() -> None:
    text = "kernel twice(x: T[N, C, H, W]) -> (y: T[N, C, H, W]) { y[n, c, h, w] = x[n, c, h, w] * 2 }"
    k = opc.compile(text, layout="nhwc", N=1, C=3, H=4, W=5)
    x = k.empty("x")
    assert x.shape == (1, 3, 4, 5)
    assert x.transpose(0, 2, 3, 1).flags.c_contiguous
    x[...] = np.arange(60).reshape(x.shape)
    y = k(x)
    np.testing.assert_array_equal(y, x * 2)
    assert y.strides == x.strides
    with pytest.raises(opc.RuntimeCallError, match="E0904"):
        k(np.ascontiguousarray(x))


def test_views_with_gaps_are_copied(kernel: opc.Kernel) -> None:
    a = data(kernel)
    wide = np.zeros((6, 80), np.float32)
    wide[:, ::2] = a["x"]
    np.testing.assert_array_equal(kernel(wide[:, ::2], a["w"], a["bias"]), kernel(**a))


def test_inout_changes_in_place() -> None:
    k = opc.compile(kernels_dsl.path("sgd"), N=37, rate=0.5, momentum=0.0)
    w, m, g = np.ones(37, np.float32), np.zeros(37, np.float32), np.arange(37, dtype=np.float32)
    change = k(w, m, g)
    assert change == [18.0]
    np.testing.assert_array_equal(w, 1 - 0.5 * g)
    np.testing.assert_array_equal(m, g)
    locked = np.ones(37, np.float32)
    locked.flags.writeable = False
    with pytest.raises(opc.RuntimeCallError, match="E0905"):
        k(locked, m, g)
    with pytest.raises(opc.RuntimeCallError, match="E0910"):
        k(w, w, g)


def test_bad_calls(kernel: opc.Kernel) -> None:
    a = data(kernel)
    locked = kernel.empty("y")
    locked.flags.writeable = False
    relu, shared = (
        opc.compile(kernels_dsl.path("relu"), N=1, C=1, H=2, W=2),
        np.ones((1, 1, 2, 2), np.float32),
    )
    cases = {
        "E0901": lambda: kernel([1.0], a["w"], a["bias"]),
        "E0902": lambda: kernel(a["x"][:2], a["w"], a["bias"]),
        "E0903": lambda: kernel(a["x"].astype(np.float64), a["w"], a["bias"]),
        "E0904": lambda: kernel(np.asfortranarray(a["x"]), a["w"], a["bias"]),
        "E0905": lambda: kernel(**a, out=locked),
        "E0906": lambda: kernel(a["x"]),
        "E0907": lambda: kernel(**a, v=a["x"]),
        "E0908": lambda: kernel(a["x"], **a),
        "E0909": lambda: kernel(**a, out=(locked, locked)),
        "E0910": lambda: relu(shared, out=shared),
        "E0911": lambda: kernel.bind(x=a["x"]),
        "E0913": lambda: opc.compile(LINEAR, threads=0),
        "E0925": lambda: opc.compile(LINEAR, dtype="float"),
    }
    for code, call in cases.items():
        with pytest.raises(opc.OpcError) as caught:
            call()
        assert caught.value.code == code
        assert caught.value.help
        assert isinstance(caught.value, opc.RuntimeCallError)


def test_thread_setting_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPC_NUM_THREADS", "many")
    with pytest.raises(opc.RuntimeCallError, match="E0913"):
        opc.compile(LINEAR)


def test_errors_carry_code_span_and_help() -> None:
    with pytest.raises(opc.LanguageError) as caught:
        opc.compile("kernel f(x: T[N]) -> (y: T[N]) {\n  example N = 4\n  y[i] = z[i]\n}")
    assert caught.value.code.startswith("E02")
    assert caught.value.span is not None
    assert (caught.value.span.file, caught.value.span.line) == ("<string>", 3)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_fresh_arrays_start_at_a_cache_line(layout: str) -> None:
    kernel = opc.compile(kernels_dsl.path("conv_bn_relu"), layout=layout, C=3, H=5, W=7, K=5)
    for name in ("x", "w", "gamma", "y"):
        assert kernel.empty(name).__array_interface__["data"][0] % 64 == 0
