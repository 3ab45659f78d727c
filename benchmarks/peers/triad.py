"""The yardsticks of bandwidth as LLVM text, with stores that bypass the caches: ``a = b + s * c``, and the most that a
kernel can do which reads four bytes for every one it writes.
"""

from __future__ import annotations

import ctypes
import os

import numpy as np

from benchmarks.case import Array, Case, problem
from benchmarks.engine import Engine, Prepared, UnsupportedError
from benchmarks.team import Team
from opc.cpu import features
from opc.cpu.jit import Target, host_triple, loaded

_TEXT = """
define void @triad(ptr noalias %a, ptr noalias %b, ptr noalias %c, i64 %bytes) #0 {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{body}
  %next = add i64 %i, {step}
  %more = icmp ult i64 %next, %bytes
  br i1 %more, label %loop, label %done
done:
  fence seq_cst
  ret void
}}
attributes #0 = {{ nounwind "min-legal-vector-width"="{bits}" "prefer-vector-width"="{bits}" }}
!0 = !{{ i32 1 }}
"""
_VECTOR = """\
  %o{n} = add i64 %i, {offset}
  %pa{n} = getelementptr i8, ptr %a, i64 %o{n}
  %pb{n} = getelementptr i8, ptr %b, i64 %o{n}
  %pc{n} = getelementptr i8, ptr %c, i64 %o{n}
  %vb{n} = load {kind}, ptr %pb{n}, align {bytes}
  %vc{n} = load {kind}, ptr %pc{n}, align {bytes}
  %m{n} = fmul {kind} %vc{n}, splat (float 3.0)
  %s{n} = fadd {kind} %m{n}, %vb{n}
  store {kind} %s{n}, ptr %pa{n}, align {bytes}, !nontemporal !0"""
_LINE = 128  # bytes per turn: two cache lines
_ROWS = """
define void @rows(ptr noalias %a, ptr noalias %b, i64 %unused, i64 %bytes) #0 {{
entry:
  br label %block
block:
  %o = phi i64 [ 0, %entry ], [ %after, %end ]
  %o4 = mul i64 %o, 4
  %pb = getelementptr i8, ptr %b, i64 %o4
  %pa = getelementptr i8, ptr %a, i64 %o
  br label %loop
loop:
  %i = phi i64 [ 0, %block ], [ %next, %loop ]
{body}
  %next = add i64 %i, {step}
  %more = icmp ult i64 %next, {row}
  br i1 %more, label %loop, label %end
end:
  %after = add i64 %o, {row}
  %again = icmp ult i64 %after, %bytes
  br i1 %again, label %block, label %done
done:
  fence seq_cst
  ret void
}}
attributes #0 = {{ nounwind "min-legal-vector-width"="{bits}" "prefer-vector-width"="{bits}" }}
!0 = !{{ i32 1 }}
"""
_ROW_VECTOR = """\
  %x{n} = add i64 %i, {offset}
  %p0{n} = getelementptr i8, ptr %pb, i64 %x{n}
  %p1{n} = getelementptr i8, ptr %p0{n}, i64 {row}
  %p2{n} = getelementptr i8, ptr %p1{n}, i64 {row}
  %p3{n} = getelementptr i8, ptr %p2{n}, i64 {row}
  %v0{n} = load {kind}, ptr %p0{n}, align {bytes}
  %v1{n} = load {kind}, ptr %p1{n}, align {bytes}
  %v2{n} = load {kind}, ptr %p2{n}, align {bytes}
  %v3{n} = load {kind}, ptr %p3{n}, align {bytes}
  %s0{n} = fadd {kind} %v0{n}, %v1{n}
  %s1{n} = fadd {kind} %v2{n}, %v3{n}
  %s2{n} = fadd {kind} %s0{n}, %s1{n}
  %to{n} = getelementptr i8, ptr %pa, i64 %x{n}
  store {kind} %s2{n}, ptr %to{n}, align {bytes}, !nontemporal !0"""
_ROW = 1 << 16  # bytes: an image row of 64 pixels and 256 channels


class Triad(Engine):
    """Three arrays that together have as many bytes as the case moves, split over the threads."""

    def version(self) -> str:
        return f"a = b + s * c in f32, non-temporal stores of {_vector_bytes()} bytes"

    def prepare(self, case: Case) -> Prepared:
        share = problem(case).moved // (3 * self.threads) // _LINE * _LINE
        return _shared("triad", _text(_vector_bytes()), (share, share, share), self.threads)


class Rows(Engine):
    """Four rows added to one: as many bytes as pooling moves, each once, with next to no work on them."""

    def version(self) -> str:
        return f"sums of four rows in f32, non-temporal stores of {_vector_bytes()} bytes"

    def prepare(self, case: Case) -> Prepared:
        if not case.name.endswith("pool2d"):
            raise UnsupportedError("a yardstick for pooling")
        share = problem(case).moved // (5 * self.threads) // _ROW * _ROW
        return _shared("rows", _row_text(_vector_bytes()), (share, 4 * share, 0), self.threads)


def _shared(name: str, text: str, shares: tuple[int, int, int], threads: int) -> Prepared:
    """Calls of a function of three arrays and the bytes of the first, a share of each array per thread."""
    arrays = [_aligned(share * threads) for share in shares]
    code = loaded(text, Target(host_triple(), features.host_features() & {"avx", "avx512f"}))
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)(code.address(name))
    starts = [a.ctypes.data for a in arrays]
    team = Team(sorted(os.sched_getaffinity(0)))

    def part(index: int, keep: tuple[object, ...] = (code, arrays)) -> None:
        function(*(s + index * share for s, share in zip(starts, shares, strict=True)), shares[0])

    return Prepared(lambda: team(part), lambda: arrays[0])


def _vector_bytes() -> int:
    return 64 if "avx512f" in features.host_features() else 32


def _text(size: int) -> str:
    kind = f"<{size // 4} x float>"
    vectors = (_VECTOR.format(n=n, offset=n * size, kind=kind, bytes=size) for n in range(_LINE // size))
    return _TEXT.format(body="\n".join(vectors), step=_LINE, bits=size * 8)


def _row_text(size: int) -> str:
    kind, turn = f"<{size // 4} x float>", _LINE // 2
    places = range(0, turn, size)
    body = (_ROW_VECTOR.format(n=n, offset=o, kind=kind, bytes=size, row=_ROW) for n, o in enumerate(places))
    return _ROWS.format(body="\n".join(body), step=turn, row=_ROW, bits=size * 8)


def _aligned(size: int) -> Array:
    raw: Array = np.ones(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(np.float32)
