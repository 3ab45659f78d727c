"""What a plan of a contraction is, and what the planners of all kinds of machine share.

Three planners exist: `_plan_registers` (the cube reads memory and accumulates in registers),
`_plan_tiles` (it is fed from memory tile by tile) and `_plan_spaces` (operands pass through a staging
memory, and tiles must fit operand, accumulator and vector spaces).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, gcd, prod

from opc.dtypes import DType
from opc.tensor.ir import Dim


@dataclass(frozen=True, slots=True)
class Summed:
    """Sums over rows that the cube makes of tiles: how many values of a tile are left and right operands of it, whether
    ones are, and how many results there are.
    """

    left: int
    right: int
    ones: bool
    results: int


@dataclass(frozen=True, slots=True)
class Combined:
    """What the cube makes of an operand while it is loaded: so many products with diagonal matrices, and one more with
    what is added. ``channels``: how many there are of it, and in a part of so many ``elements``.
    """

    products: int
    shift: bool
    channels: int
    at_once: int
    elements: int

    @property
    def matrices(self) -> int:
        """Right operands."""
        return self.products + self.shift


@dataclass(frozen=True, slots=True)
class Shape:
    """What the plan needs to know of one contraction. ``mixed``: K dims that share a tensor axis with an M dim."""

    batch: tuple[Dim, ...]
    m: tuple[Dim, ...]  # slowest first, in the output's memory order
    n: tuple[Dim, ...]
    k: tuple[Dim, ...]  # outermost first
    operand: DType
    accumulator: DType
    reach: dict[str, tuple[int, int]]  # M dim -> (stride, extra rows) of the slab that A's read touches
    slab_channel: int  # elements of A per slab position: product of K extents on pure-K axes
    temporaries: int  # f32 tiles the epilogue keeps alive
    apart: dict[str, int]  # M dim -> bytes between neighbours in A as it lies in memory
    made: float = 0.0  # vector cycles per element of A that is made while it is loaded; 0: it is only loaded
    reductions: int = 0  # passes of the vector unit over the result that sum it up
    run: int | None = None  # bytes in a row where columns packed at run time come from; 0: a column's are
    columns: tuple[tuple[tuple[str, int], ...], ...] = ()  # per axis of B, if known: (dim, step) of its index
    summed: Summed | None = None  # what the cube sums up of the result
    combined: Combined | None = None  # what of that the cube makes
    stored: bool = False  # what is made of A while it is loaded goes to memory as well


@dataclass(frozen=True, slots=True)
class Plan:
    """``outer``: loop tile of every batch, M and N dim at the staging level. ``chunk``: K tile per cube instruction.
    ``parallel``: dim spread over cores. ``columns``: blocks of the outer N dim per parallel iteration where
    columns, not rows, are spread (0: rows).
    ``rows_outer``: row tiles go round outside column tiles, so that rows are staged once. ``band``: how much of
    the parallel dim one core walks tile by tile, so that what it staged serves them all (0: each tile is spread).
    ``shared``: rows are staged whole, in memory, before the loops and by all cores.
    ``inline``: columns that arrive at run time are packed group by group, where they are used.
    ``whole``: operands ("rows", "columns") that a staging memory takes for a tile at once, not step by step of its sum.
    ``prefetch``: blocks of rows ask for columns ahead of use, or bring the next block of columns nearer.
    """

    parallel: str
    outer: dict[str, int]
    chunk: dict[str, int]
    columns: int = 0
    rows_outer: bool = False
    band: int = 0
    shared: bool = False
    prefetch: bool = False
    inline: bool = False
    whole: frozenset[str] = frozenset({"rows", "columns"})


def balanced(extent: int, limit: int) -> int:
    """Largest tile <= limit that splits the extent into equal-as-possible blocks."""
    return ceil(extent / ceil(extent / max(1, min(limit, extent))))


def divisors(n: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def slab_bytes(s: Shape, tile: dict[str, int]) -> int:
    """Bytes of operand A that the slab of a tile of M touches."""
    size = s.operand.bytes * s.slab_channel
    for d in s.m:
        stride, extra = s.reach[d.name]
        t = tile.get(d.name, 1)
        size *= t if not extra else (t - 1) * stride + 1 + extra  # staging leaves out what a step skips
    return size


def column_share(s: Shape, sizes: Mapping[str, int]) -> float:
    """Elements of B that blocks of its dims touch, per element of the columns: windows that overlap share theirs."""
    touched = 1
    for form in s.columns:
        moving = [(step, sizes[name] - 1) for name, step in form if sizes[name] > 1]
        common = gcd(*(step for step, _ in moving)) or 1
        touched *= 1 + sum(step // common * last for step, last in moving)
    dims = {name for form in s.columns for name, _ in form}
    return touched / prod(sizes[name] for name in dims)


def parallel_dim(s: Shape, outer: dict[str, int], cores: int) -> str:
    """The dim whose blocks spread best over the cores; batch, then M, then N on ties. Cores that store
    what they make of A have nothing of it in common.
    """
    best, best_use = "", 0.0
    for d in (*s.batch, *s.m, *s.n) if not s.stored else (d for d in s.m if not s.reach[d.name][1]):
        blocks = ceil(d.extent / outer[d.name])
        use = min(blocks / (cores * ceil(blocks / cores)), 1.0) * min(blocks, cores)
        if use > best_use * 1.05:
            best, best_use = d.name, use
    return best
