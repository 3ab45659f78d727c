"""Plans for machines whose cube is fed from memory: blocks of accumulator tiles, K in tile-sized chunks."""

from __future__ import annotations

from opc.machine.model import Machine
from opc.tensor.ir import Dim
from passes.lowering._knobs import Knobs
from passes.lowering._plan import TASKS, Plan, Shape, by_columns, parallel_dim, slab_rows
from passes.lowering._plan_registers import block_rows


def plan_tiles(s: Shape, machine: Machine, knobs: Knobs) -> Plan:
    """Loop tiles around one block of accumulator tiles, fed by chunks of K."""
    block_m, block_n, block_k = machine.cube_shape[s.operand]
    block_m = machine.limits.get("block_rows", block_m)
    block_n = machine.limits.get("block_columns", block_n)
    outer = {d.name: 1 for d in (*s.batch, *s.m, *s.n)}
    if s.n:
        outer[s.n[-1].name] = min(s.n[-1].extent, block_n)
    inner: dict[str, int] = {}
    capacity = machine.role("stage").capacity
    if s.m:
        inner[s.m[-1].name] = block_rows(s.m[-1].extent, block_m, knobs.rows)
        outer.update(slab_rows(s, inner[s.m[-1].name], capacity, TASKS, knobs.slab))
    rows = Plan(parallel_dim(s, outer, TASKS), outer, inner, _innermost(s.k, block_k))
    return by_columns(s, rows, capacity, knobs) or rows


def _innermost(dims: tuple[Dim, ...], room: int) -> dict[str, int]:
    """Innermost dims whole while their product fits, then one divided, the rest one at a time."""
    chunk = {d.name: 1 for d in dims}
    for d in reversed(dims):
        chunk[d.name] = min(d.extent, room)
        room //= chunk[d.name]
        if chunk[d.name] < d.extent or room < 2:
            break
    return chunk
