"""What a convolution costs by its definition and by Winograd's minimal filters, in cycles of one core."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from opc.machine.model import Machine
from passes.tensor._toom_cook import SIZES, TAPS


@dataclass(frozen=True, slots=True)
class Sizes:
    """``windows``: output extent of every window; ``rows``: product of the other row dimensions."""

    batch: int
    rows: int
    windows: tuple[int, ...]
    channels: int
    columns: int
    bytes: int


# A rewrite has to win by more than the estimate is off.
_MARGIN = 0.9


def best_tile(s: Sizes, machine: Machine) -> int:
    """Outputs per tile and window that cost least; 0 where the definition itself does, or is about as good."""
    costs = {m: tiled(s, m, machine) for m in SIZES}
    best = min(costs, key=lambda m: costs[m])
    return best if costs[best] < _MARGIN * direct(s, machine) else 0


def direct(s: Sizes, machine: Machine) -> float:
    """Products, and weights from memory once."""
    taps: int = TAPS ** len(s.windows)
    products = float(s.batch * s.rows * prod(s.windows) * taps * s.channels * s.columns)
    weights = s.batch * taps * s.channels * s.columns * s.bytes
    return products / _products(s, machine) + weights / _bandwidth(machine)


def tiled(s: Sizes, m: int, machine: Machine) -> float:
    """Products of whole tiles, filters of one value per point from memory, and both transforms."""
    points: int = (m + TAPS - 1) ** len(s.windows)
    tiles = s.batch * s.rows * prod(ceil(w / m) for w in s.windows)
    products = float(points * tiles * s.channels * s.columns)
    weights = s.batch * points * s.channels * s.columns * s.bytes
    # Each value of a tile is loaded, added into a few sums and stored, window by window.
    transforms = tiles * points * len(s.windows) * _WORK * (s.channels + s.columns)
    lanes = machine.vector_bytes / s.bytes
    return products / _products(s, machine) + weights / _bandwidth(machine) + transforms / lanes


_WORK = 2.0  # cycles per vector of a transform


def _products(s: Sizes, machine: Machine) -> float:
    """Multiply-adds per cycle: two vectors of them."""
    return 2.0 * machine.vector_bytes / s.bytes


def _bandwidth(machine: Machine) -> float:
    """Bytes of weights per cycle: larger than near caches, they come at half the rate of a copy."""
    route = machine.route("copy_in", machine.roles["memory"], machine.roles["stage"])
    return route.bandwidth / 2 if route is not None else float("inf")
