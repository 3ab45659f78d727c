"""What the machine can do: loops of multiply-adds in registers as LLVM text: FMA, and for bf16 tile products or dot
products of pairs where there are any.

The best of several short runs, on every CPU of the process at once: what a kernel is held against.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from benchmarks.case import Array
from benchmarks.team import Team
from opc.cpu import features
from opc.cpu.image import Loaded
from opc.cpu.jit import Target, host_triple, loaded

_TURNS = 1_000_000  # about a millisecond
_TRIES = 40


def operations(dtype: str, threads: int) -> float:
    """Multiply-adds of that type a second, times two, on ``threads`` CPUs together; the best of many runs."""
    tiles = dtype == "bf16" and features.amx_permitted()
    pairs = dtype == "bf16" and {"avx512f", "avx512bf16"} <= features.host_features()
    call, each = _tile_loop() if tiles else _pair_loop() if pairs else _fma_loop()
    turns = _TURNS // 8 if tiles else _TURNS
    team = Team(sorted(os.sched_getaffinity(0))[-threads:])
    return team.size * each * turns / min(team(lambda index: call(turns)) for _ in range(_TRIES))


Loop = Callable[[int], object]


@lru_cache(maxsize=1)
def _fma_loop() -> tuple[Loop, float]:
    """A loop of independent FMAs, and its operations per turn."""
    wide = "avx512f" in features.host_features()
    lanes, chains = (16, 24) if wide else (8, 12)
    kind = f"<{lanes} x float>"
    function = f"{kind} @llvm.fma.v{lanes}f32({kind} {{0}}, {kind} {{0}}, {kind} {{1}})"
    wanted = {"avx", "avx2", "fma", "avx512f", "avx512vl"}
    return _register_loop("fma_peak", function, kind, lanes, chains, wanted), 2.0 * lanes * chains


@lru_cache(maxsize=1)
def _pair_loop() -> tuple[Loop, float]:
    """A loop of independent dot products of bf16 pairs, and its operations per turn."""
    lanes, chains, kind, pair = 16, 24, "<16 x float>", "<32 x bfloat>"
    function = f"{kind} @llvm.x86.avx512bf16.dpbf16ps.512({kind} {{1}}, {pair} {{0}}, {pair} {{0}})"
    wanted = {"avx512f", "avx512vl", "avx512bw", "avx512bf16"}
    return _register_loop("pair_peak", function, pair, lanes, chains, wanted), 4.0 * lanes * chains


def _register_loop(name: str, function: str, operand: str, lanes: int, chains: int, wanted: set[str]) -> Loop:
    """A loop of ``chains`` calls of a function, each on an operand and on its own result before."""
    kind = f"<{lanes} x float>"
    phis = "\n".join(
        f"  %a{i} = phi {kind} [ zeroinitializer, %entry ], [ %b{i}, %loop ]" for i in range(chains)
    )
    calls = "\n".join(f"  %b{i} = call {function.format('%x', f'%a{i}')}" for i in range(chains))
    sums = "\n".join(f"  store volatile {kind} %b{i}, ptr %out, align 64" for i in range(chains))
    text = f"""
declare {function.format("", "")}
define void @{name}(i64 %turns, ptr %out) #0 {{
entry:
  %x = load volatile {operand}, ptr %out, align 64
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
{phis}
{calls}
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, %turns
  br i1 %more, label %loop, label %done
done:
{sums}
  ret void
}}
attributes #0 = {{ nounwind "min-legal-vector-width"="{lanes * 32}" "prefer-vector-width"="{lanes * 32}" }}
"""
    return _loaded(name, text, frozenset(wanted & features.host_features()))


@lru_cache(maxsize=1)
def _tile_loop() -> tuple[Loop, float]:
    """A loop of four tile products on four accumulators, and its operations per turn."""
    configuration = bytes([1, *[0] * 15]) + b"".join(n.to_bytes(2, "little") for n in [64] * 8 + [0] * 8)
    configuration += bytes([16] * 8 + [0] * 8)
    shown = "".join(f"\\{b:02X}" for b in configuration)
    zeros = "\n".join(f"  call void @llvm.x86.tilezero(i8 {t})" for t in range(8))
    products = "\n".join(
        f"  call void @llvm.x86.tdpbf16ps(i8 {m * 2 + n}, i8 {4 + m}, i8 {6 + n})"
        for m in (0, 1)
        for n in (0, 1)
    )
    text = f"""
@configuration = private constant [64 x i8] c"{shown}", align 64
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8)
declare void @llvm.x86.tdpbf16ps(i8, i8, i8)
define void @tile_peak(i64 %turns, ptr %out) {{
entry:
  call void @llvm.x86.ldtilecfg(ptr @configuration)
{zeros}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
{products}
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, %turns
  br i1 %more, label %loop, label %done
done:
  call void @llvm.x86.tilerelease()
  ret void
}}
"""
    return _loaded("tile_peak", text, frozenset({"amx-tile", "amx-bf16"})), 4 * 2.0 * 16 * 16 * 32


def _loaded(name: str, text: str, wanted: frozenset[str]) -> Loop:
    code = loaded(text, Target(host_triple(), wanted))
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(code.address(name))
    raw = np.zeros(128, np.uint8)
    out = raw.ctypes.data + -raw.ctypes.data % 64

    def call(turns: int, keep: tuple[Loaded, Array] = (code, raw)) -> None:
        function(turns, out)

    return call
