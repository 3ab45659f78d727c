"""The trap itself: it executes what is right, and counts what a processor with AMX would refuse."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from opc.cpu.jit import Target, host_triple, loaded
from tests.cpu import tile_trap

pytestmark = pytest.mark.skipif(not tile_trap.available(), reason="needs an x86-64 host without AMX, and gcc")

# One product c[2, 3] += a[2, 4] · b[4, 3] in bf16: tiles 0 (c), 1 (a), 2 (b) of 2x12, 2x8 and 2x12 bytes.
_SHAPES = {0: (2, 12), 1: (2, 8), 2: (2, 12)}
_TEXT = """
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8 immarg)
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tileloaddt164(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void @llvm.x86.tdpbf16ps(i8 immarg, i8 immarg, i8 immarg)
define void @product(ptr %config, ptr %a, ptr %b, ptr %c) {
  call void @llvm.x86.ldtilecfg(ptr %config)
  call void @llvm.x86.tilezero(i8 0)
  call void @llvm.x86.tileloadd64(i8 1, ptr %a, i64 8)
  call void @llvm.x86.tileloaddt164(i8 2, ptr %b, i64 12)
  call void @llvm.x86.tdpbf16ps(i8 0, i8 LEFT, i8 2)
  call void @llvm.x86.tilestored64(i8 0, ptr %c, i64 12)
  call void @llvm.x86.tilerelease()
  ret void
}
"""


def _product(
    factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch, shapes: dict[int, tuple[int, int]], left: int
) -> tuple[np.ndarray, tile_trap.Trapped]:
    config = np.zeros(64, np.uint8)
    config[0] = 1
    for number, (rows, row_bytes) in shapes.items():
        config[16 + 2 * number], config[48 + number] = row_bytes, rows
    bits = lambda values: (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)  # noqa: E731
    a, b, c = bits([[1, 2, 3, 4], [5, 6, 7, 8]]), bits([[1, 0], [0, 1], [1, 1]] * 2), np.zeros(6, np.float32)
    target = Target(host_triple(), frozenset({"amx-tile", "amx-bf16"}))
    code = loaded(_TEXT.replace("LEFT", str(left)), target)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(code.address("product"))
    with tile_trap.trapping(factory.getbasetemp(), patch) as trapped:
        call(config.ctypes.data, a.ctypes.data, b.ctypes.data, c.ctypes.data)
    return c.reshape(2, 3), trapped


def test_a_product(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    c, trapped = _product(tmp_path_factory, monkeypatch, _SHAPES, 1)
    b = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1]])
    assert (c == np.array([[1, 2, 3, 4], [5, 6, 7, 8]]) @ b).all()
    assert trapped.faults == 0
    assert trapped.counts == {**dict.fromkeys(tile_trap.KINDS, 1), "tdpbssd": 0}


@pytest.mark.parametrize(
    ("shapes", "left", "complaint"),
    [
        ({0: (2, 12), 1: (2, 8)}, 1, "not configured"),
        ({**_SHAPES, 1: (3, 8)}, 1, "do not agree"),
        ({**_SHAPES, 2: (2, 16)}, 1, "do not agree"),
        ({**_SHAPES, 3: (17, 4)}, 1, "larger than 16 rows"),
        ({**_SHAPES, 3: (4, 0)}, 1, "only one extent"),
        ({**_SHAPES, 9: (0, 4)}, 1, "reserved byte"),
        (_SHAPES, 2, "coincide"),
    ],
)
def test_what_a_processor_refuses_is_counted(
    shapes: dict[int, tuple[int, int]],
    left: int,
    complaint: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, trapped = _product(tmp_path_factory, monkeypatch, shapes, left)
    assert trapped.faults > 0
    assert complaint in trapped.message
