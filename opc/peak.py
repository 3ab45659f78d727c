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

_DEPTH = 128  # multiply-adds per pass over the operands: they fit the nearest cache
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

    if machine.feeds(dtype) or machine.cube_shape.get(dtype, (0, 0, 1))[2] == 1:
        dtype = dtype.compute  # narrow types are widened before they are multiplied term by term
    if machine.feeds(dtype) or dtype not in machine.cube_shape:
        return 0.0
    rows, columns, together = machine.cube_shape[dtype]
    program = _loop(machine, dtype, rows, columns, together)
    kernel = compile_kernel(None, program, machine)
    arrays = {b.name: np.zeros(b.shape, b.dtype.numpy) for b in program.buffers if b.kind != "local"}
    workspace = np.zeros(kernel.workspace_size() + 64, np.uint8)
    pointers = [arrays[b.name].ctypes.data for b in kernel.run_arguments]
    seconds = _best(lambda: kernel.run(pointers, 0, workspace.ctypes.data))
    return 2.0 * rows * columns * together * _DEPTH * _ROUNDS / seconds


def _loop(machine: Machine, dtype: DType, rows: int, columns: int, together: int) -> Program:
    from opc.program.text import parse_program

    memory, registers = machine.roles["memory"], machine.roles[machine.accumulator_role(dtype)]
    total = machine.accumulators[dtype]
    return parse_program(
        f"""program v1 peak machine {machine.name} {{
          buffer a: {dtype}[{rows},{_DEPTH},{together}]@{memory} input
          buffer b: {dtype}[{_DEPTH},{columns},{together}]@{memory} input
          buffer y: {total}[{rows},{columns}]@{memory} output
          buffer acc: {total}[{rows},{columns}]@{registers} local at 0
          parallel core < 1 {{
            loop r < {_ROUNDS} {{
              cube.mma acc[m, n] = a[m, k, v], b[k, n, v] for m<{rows}, n<{columns}, k<{_DEPTH}, v<{together} {{init=r}}
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
