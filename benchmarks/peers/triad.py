"""The yardstick of bandwidth: ``a = b + s * c`` with stores that bypass the caches, as LLVM text."""

from __future__ import annotations

import ctypes
import os

import numpy as np

from benchmarks.case import Array, Case, problem
from benchmarks.engine import Engine, Prepared
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


class Triad(Engine):
    """Three arrays that together have as many bytes as the case moves, split over the threads."""

    def version(self) -> str:
        return f"a = b + s * c in f32, non-temporal stores of {_vector_bytes()} bytes"

    def prepare(self, case: Case) -> Prepared:
        share = problem(case).moved // (3 * self.threads) // _LINE * _LINE
        arrays = [_aligned(share * self.threads) for _ in range(3)]
        code = loaded(
            _text(_vector_bytes()), Target(host_triple(), features.host_features() & {"avx", "avx512f"})
        )
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)
        function = kind(code.address("triad"))
        starts = [a.ctypes.data for a in arrays]
        team = Team(sorted(os.sched_getaffinity(0)))

        def part(index: int, keep: tuple[object, ...] = (code, arrays)) -> None:
            function(*(s + index * share for s in starts), share)

        return Prepared(lambda: team(part), lambda: arrays[0])


def _vector_bytes() -> int:
    return 64 if "avx512f" in features.host_features() else 32


def _text(size: int) -> str:
    kind = f"<{size // 4} x float>"
    vectors = (_VECTOR.format(n=n, offset=n * size, kind=kind, bytes=size) for n in range(_LINE // size))
    return _TEXT.format(body="\n".join(vectors), step=_LINE, bits=size * 8)


def _aligned(size: int) -> Array:
    raw: Array = np.ones(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(np.float32)
