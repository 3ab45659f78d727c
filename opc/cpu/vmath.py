"""Vectorised elementary functions as LLVM IR."""

from __future__ import annotations

from opc.cpu.function import Function
from opc.cpu.values import Vec, binary, intrinsic, splat


def emit(f: Function, name: str, x: Vec) -> Vec:
    """``name`` of a float vector, within the ulp of ``opc.scalar``."""
    if name == "sqrt":
        return intrinsic(f, "sqrt", x)
    if name == "rsqrt":
        return binary(f, "fdiv", splat(x.kind, x.lanes, 1), intrinsic(f, "sqrt", x))
    raise NotImplementedError(name)
