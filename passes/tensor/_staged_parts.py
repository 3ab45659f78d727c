"""Into how many parts a long sum is worth cutting where operands pass a staging memory on their way to the cube."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod

from opc.machine.model import Machine
from opc.program.cost import vector_model
from opc.tensor.ir import Tensor
from passes.tensor._contraction import Contraction
from passes.tensor._outer_products import pure

# Shares that work is cut into. What a machine has in cores must not decide how terms add up.
_SHARES = 32
_GAIN = 0.9  # of the time without parts, at most: this is an estimate
_PHASE = 500  # cycles: a grid barrier, and the first loads and last stores of a phase


def staged_parts(c: Contraction, tensors: Mapping[str, Tensor], machine: Machine) -> int:
    """How many parts; 0: the sum stays whole, and its rows or columns are spread over cores."""
    operand = tensors[c.a.tensor].dtype
    depth = machine.cube_shape[operand][2]
    slowest, others = c.k[0].extent, prod(d.extent for d in c.k[1:])
    counts = [n for n in range(2, min(_SHARES, slowest) + 1) if slowest % n == 0]
    if not counts:
        return 0
    # Blocks of depth that one part takes: of parts as short, the fewest.
    count = min(counts, key=lambda n: (ceil(slowest // n * others / depth), n))
    prices = _Prices(c, tensors, machine)
    return count if prices.split(count) < _GAIN * prices.whole() else 0


class _Prices:
    """Cycles of the busiest core if work is cut into shares, by the pipe that has the most to do."""

    def __init__(self, c: Contraction, tensors: Mapping[str, Tensor], machine: Machine) -> None:
        roles, operand = machine.roles, tensors[c.a.tensor].dtype
        self.machine, self.block = machine, machine.cube_shape[operand]
        summed = machine.accumulators[operand]
        self.terms = prod(d.extent for d in c.k)
        self.m, self.n = (prod(d.extent for d in dims) for dims in (c.m, c.n))
        # Elements of either operand per term; a window's positions share theirs.
        self.rows, self.columns = (
            prod(d.extent for d in pure(read, dims, c)) for read, dims in ((c.a, c.m), (c.b, c.n))
        )
        load = machine.route("copy_in", roles["memory"], roles["stage"])
        store = machine.route("copy_out", roles["vector"], roles["memory"])
        self.load = operand.bytes / load.bandwidth if load is not None else 0.0
        self.fetch = summed.bytes / load.bandwidth if load is not None else 0.0
        self.store = summed.bytes / store.bandwidth if store is not None else 0.0
        slope = vector_model(machine, "reduce_sum", summed, summed).slope
        self.add = slope * summed.bytes / machine.vector_bytes

    def whole(self) -> float:
        """Rows or columns are spread; of the other operand every share has all."""
        return min(
            self._spread(self.m, self.block[0], self.rows, self.columns),
            self._spread(self.n, self.block[1], self.columns, self.rows),
        )

    def _spread(self, size: int, block: int, mine: int, other: int) -> float:
        shares = min(_SHARES, ceil(mine / max(1, block * mine // size)))
        return max(self._products() / shares, self.terms * (mine / shares + other) * self.load)

    def split(self, count: int) -> float:
        """Terms are cut into ``count`` parts, which are stored and then added up."""
        results = self.m * self.n
        loads = self.terms * (self.rows + self.columns) * self.load
        parts = max(self._products() / count, loads / count, results * self.store)
        return parts + results * count / _SHARES * max(self.fetch, self.add) + _PHASE

    def _products(self) -> float:
        return self.machine.cube_block * self.m * self.n * self.terms / prod(self.block)
