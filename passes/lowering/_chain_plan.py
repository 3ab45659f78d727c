"""How many rows of a chain one block has, by a cost model over the machine's rates and cache sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

from opc.dtypes import DType
from opc.machine.model import Machine


@dataclass(frozen=True, slots=True)
class ChainSizes:
    """``dims``: extents whose product the rows are, slowest first; ``batch`` products per row, channel and column."""

    dims: tuple[int, ...]
    rows: int
    batch: int
    channels: int
    columns: int
    dtype: DType


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """``blocks``: size of a block in every dimension; empty where the stages follow each other over all rows.

    ``rows`` of a block tell the plans of a chain apart.
    """

    blocks: tuple[int, ...]
    rows: int
    cost: float


# Cycles of an addition, which as many rows hide, and of beginning and ending a register block.
_LATENCY = 4
_START = 40

# Teams that a plan is judged for: it is made before the number of threads is known.
_TEAMS = (1, 2, 4)


def chain_plans(s: ChainSizes, machine: Machine) -> list[ChainPlan]:
    """All plans, best estimate first."""
    found = [ChainPlan((), s.rows, _cost(s, s.rows, 1, machine))]
    for blocks in _blockings(s.dims):
        rows, count = prod(blocks), prod(ceil(e / b) for e, b in zip(s.dims, blocks, strict=True))
        teams = sum(ceil(count / t) * t / count for t in _TEAMS) / len(_TEAMS)
        found.append(ChainPlan(blocks, rows, teams * _cost(s, rows, count, machine)))
    return sorted(found, key=lambda p: p.cost)


def _blockings(dims: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Inner dimensions whole, one divided, outer ones one at a time; never all rows as one block."""
    for i, extent in enumerate(dims):
        even = sorted({ceil(extent / n) for n in range(1 if i else 2, extent + 1)})
        for size in even:
            if size > 1 or i == len(dims) - 1:
                yield (*(1 for _ in dims[:i]), size, *dims[i + 1 :])


def _cost(s: ChainSizes, rows: int, count: int, machine: Machine) -> float:
    """Cycles of one core for ``count`` blocks of ``rows``."""
    lanes = machine.vector_bytes / s.dtype.bytes
    route = machine.route("copy_in", machine.roles["memory"], machine.roles["stage"])
    rate = route.bandwidth if route is not None else float("inf")
    near = machine.limits.get("l2_bytes", machine.role("stage").capacity)
    high, wide, _ = machine.cube_shape[s.dtype]
    # A register block of few rows waits for its own sums, and each block starts, ends and is stored.
    blocks = s.batch * ceil(s.columns / wide) * ceil(rows / high)
    products = s.batch * max(rows, _LATENCY * ceil(rows / high)) * s.channels * s.columns / (2 * lanes)
    products += _START * blocks
    weights = s.batch * s.channels * s.columns * s.dtype.bytes
    kept = s.batch * rows * (s.channels + s.columns) * s.dtype.bytes
    # What fits stays. Of what does not, each byte is fetched, written, written back and read; of weights half is
    # fetched while the block before is still at work.
    far = 4 * max(0.0, kept - 0.75 * near) + (weights / 2 if weights > near else 0)
    return count * (products + far / rate)
