"""What one core of this computer can do: multiply-adds in registers and bytes copied, both measured.

A machine file names no clock that a given computer really runs at, so ``opc bench`` compares with
a loop of the machine's own cube instruction on operands in the nearest cache, and with a large copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from opc.dtypes import DType
from opc.machine.model import Machine
from opc.program.ir import Program

_DEPTH = 128  # terms per pass over the operands: they fit the nearest cache
_ROUNDS = 2000
_COPY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Peak:
    """Operations (a multiply-add is two) and bytes read plus written, per second on one thread."""

    operations: float
    bytes: float


def measure(machine: Machine, dtype: DType) -> Peak:
    """Best of several runs. ``operations`` is 0 where ``dtype`` products need tiles that this host lacks."""
    return Peak(_operations(machine, dtype), _bytes())


def _operations(machine: Machine, dtype: DType) -> float:
    import numpy as np

    from opc.cpu.kernel import compile_kernel

    dtype = dtype.compute
    if machine.feeds(dtype) or dtype not in machine.cube_shape:
        return 0.0
    rows, columns, _ = machine.cube_shape[dtype]
    kernel = compile_kernel(None, _loop(machine, dtype, rows, columns), machine)
    shapes = {"a": (rows, _DEPTH), "b": (_DEPTH, columns), "y": (rows, columns)}
    arrays = {n: np.zeros(s, dtype.numpy) for n, s in shapes.items()}
    workspace = np.zeros(kernel.workspace_size() + 64, np.uint8)
    pointers = [arrays[b.name].ctypes.data for b in kernel.run_arguments]
    seconds = _best(lambda: kernel.run(pointers, 0, workspace.ctypes.data))
    return 2.0 * rows * columns * _DEPTH * _ROUNDS / seconds


def _loop(machine: Machine, dtype: DType, rows: int, columns: int) -> Program:
    from opc.program.text import parse_program

    memory, registers = machine.roles["memory"], machine.roles[machine.accumulator_role(dtype)]
    total = machine.accumulators[dtype]
    return parse_program(
        f"""program v1 peak machine {machine.name} {{
          buffer a: {dtype}[{rows},{_DEPTH}]@{memory} input
          buffer b: {dtype}[{_DEPTH},{columns}]@{memory} input
          buffer y: {total}[{rows},{columns}]@{memory} output
          buffer acc: {total}[{rows},{columns}]@{registers} local at 0
          parallel core < 1 {{
            loop r < {_ROUNDS} {{
              cube.mma acc[m, n] = a[m, k], b[k, n] for m<{rows}, n<{columns}, k<{_DEPTH} {{init=r}}
            }}
            copy_out.copy y[m, n] = acc[m, n] for m<{rows}, n<{columns}
          }}
        }}"""
    )


def _bytes() -> float:
    import numpy as np

    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    return 2.0 * _COPY_BYTES / _best(lambda: np.copyto(target, source))


def _best(call: Callable[[], object]) -> float:
    """Shortest of five calls after one to warm up."""
    call()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
