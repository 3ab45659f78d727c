"""Plans for machines whose cube reads memory and accumulates in registers: the register block is given."""

from __future__ import annotations

from opc.machine.model import Machine
from passes.lowering._knobs import Knobs
from passes.lowering._plan import TASKS, Plan, Shape, balanced, by_columns, parallel_dim, slab_rows


def plan_registers(s: Shape, machine: Machine, knobs: Knobs) -> Plan:
    """Loop tiles around one register block; all of K goes into one instruction."""
    block_m, block_n, _ = machine.cube_shape[s.operand]
    outer = {d.name: 1 for d in (*s.batch, *s.m, *s.n)}
    if s.n:
        outer[s.n[-1].name] = min(s.n[-1].extent, block_n)
    inner: dict[str, int] = {}
    capacity = machine.role("stage").capacity
    if s.m:
        inner[s.m[-1].name] = block_rows(s.m[-1].extent, block_m, knobs.rows)
        outer.update(slab_rows(s, inner[s.m[-1].name], capacity, TASKS, knobs.slab))
    whole = {d.name: d.extent for d in s.k}
    rows = Plan(parallel_dim(s, outer, TASKS), outer, inner, whole)
    return by_columns(s, rows, capacity, knobs) or rows


def alternatives(s: Shape, plan: Plan) -> list[Knobs]:
    """Other register blocks and the other order."""
    if not s.m:
        return []
    rows = plan.inner[s.m[-1].name]
    found = [Knobs(rows=r) for r in (rows - 1, rows + 1) if r > 1]
    if len(s.n) > 1 and not s.batch and s.n[-2].extent > 1:
        found.append(Knobs(order="rows" if plan.columns else "columns"))
    return found


def block_rows(extent: int, limit: int, wanted: int | None) -> int:
    """Rows of an accumulator block, at most ``limit`` of them."""
    return min(extent, limit, wanted) if wanted else register_rows(extent, limit)


def register_rows(extent: int, limit: int) -> int:
    """Rows of a register block: a divisor close to the limit if there is one, else as even as possible.

    Fewer rows leave multipliers idle while an addition's latency passes, so blocks stay near the limit.
    """
    exact = [t for t in range(limit, max(1, limit * 2 // 3) - 1, -1) if extent % t == 0]
    return exact[-1] if exact else balanced(extent, limit)
