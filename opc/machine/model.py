"""The machine model: spaces, pipes, rates and limits, read from a TOML file.

A target is only this data: no pass and no lowering names a machine.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from opc.dtypes import DType
from opc.machine.factor import Factor

MOVES = ("copy_in", "scale", "copy_out")  # classes whose instructions only move data
ROLES = ("memory", "stage", "operand_a", "operand_b", "accumulator", "registers", "vector", "scratch")


@dataclass(frozen=True, slots=True)
class Space:
    """A memory. ``capacity`` in bytes per core (0: unlimited); ``align`` in bytes.

    ``fractal`` is the block a matrix space rounds its two dimensions up to, in elements.
    Spaces that are not addressable (registers, tiles) need constant offsets and slots.
    """

    name: str
    capacity: int
    align: int = 1
    addressable: bool = True
    fractal: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Gather:
    """Cycles in which a copy that slides a window fills one fractal: ``fixed + step * columns' distance``, and
    ``row`` for each image row that the fractal's columns come from where they are several. ``worst``: at most,
    and for distances that are none of ``steps``.
    """

    steps: tuple[int, ...]
    fixed: float
    step: float
    row: float
    worst: float


@dataclass(frozen=True, slots=True)
class Route:
    """Which pipe runs an instruction class between two spaces, and how fast.

    ``bandwidth`` in bytes per cycle, ``latency`` in cycles before the consumer sees the data,
    ``burst`` the least bytes one contiguous run is charged for. ``curve`` says when the data of one transfer
    is there where ``latency`` alone is too coarse: points of (bytes, cycles), straight lines between.
    ``units`` equal engines share each transfer: the machine file has the figures of one of them, here they are
    those of all. ``gather``: how much longer it takes to pick a sliding window's columns.
    """

    opcode_class: str
    source: str
    target: str
    pipe: str
    bandwidth: float
    latency: float = 0.0
    burst: int = 32
    head: float = 0.0
    curve: tuple[tuple[float, float], ...] = ()
    units: int = 1
    gather: Gather | None = None


@dataclass(frozen=True, slots=True)
class VectorCost:
    """Cycles of one vector instruction.

    Back to back: ``fixed + slope * repeats``, at least ``floor``. The first adds ``head``; whoever waits for
    a result also waits ``tail``.
    """

    head: float
    slope: float
    tail: float
    floor: float = 1.0
    fixed: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements that a machine's figures are fitted to: which rows, at which clock."""

    chip: str = ""  # the campaign that counts; empty: every row
    clock_mhz: float = 0.0  # of the cycles written down; 0: the machine's clock
    single: frozenset[str] = frozenset()  # campaigns that time each cube instruction by itself


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything the compiler and the simulator know about a target."""

    name: str
    kind: str  # "cpu" or "npu": which back end emits for it
    description: str
    clock_mhz: float
    cores: int
    spaces: dict[str, Space]
    roles: dict[str, str]  # role -> space name; a role may be absent
    routes: tuple[Route, ...]
    default_dtype: DType
    dtypes: dict[str, tuple[DType, ...]]  # "cube", "vector", "memory" -> legal element types
    accumulators: dict[DType, DType]  # cube operand type -> accumulator type
    cube_shape: dict[DType, tuple[int, int, int]]  # operand type -> (m, n, k) of one block
    vector_bytes: int
    vector_functions: frozenset[str]
    scale_forms: frozenset[str]  # what draining an accumulator can do: "convert", "relu", "scale", "shift"
    pipes: tuple[str, ...]  # in-order queues, first is the one that dispatches
    scale_factor: Factor | None = None  # what the form "scale" multiplies by
    vector_pipe: str = ""
    cube_pipe: str = ""
    prefetch_pipe: str = ""  # runs prefetches; none on machines without caches
    # By operation, "operation.type" or "operation.source type.result type"; "default" for all others.
    vector_costs: dict[str, VectorCost] = field(default_factory=dict)
    vector_units: int = 1  # equal vector units that share the repeats of an instruction
    operand_dtypes: tuple[
        DType, ...
    ] = ()  # types the operand spaces take; empty: all that the cube multiplies
    cube_issue: float = 0.0
    cube_block: float = 1.0  # cycles per block
    cube_latency: float = 0.0
    dispatch_cycles: float = 0.0
    queue_depth: int = 0
    window: int = 0  # instructions of one stream that overlap by themselves; 0: every pipe has its queue
    event_ids: int = 0
    sync: str = "none"  # "flags": pipes need set_flag/wait_flag; "none": program order holds
    unordered_pipes: frozenset[str] = frozenset()  # dependent instructions on these need a barrier
    sync_cycles: float = 1.0
    limits: dict[str, int] = field(default_factory=dict)  # e.g. accumulator_registers, l1_bytes
    features: tuple[str, ...] = ()  # CPU features the emitted code needs
    measured: Measured = Measured()
    sources: dict[str, str] = field(default_factory=dict)  # figure -> where it comes from
    text: str = field(default="", compare=False, repr=False)  # the file that says all this

    def role(self, role: str) -> Space:
        """The space that plays ``role``; KeyError if this machine has none."""
        return self.spaces[self.roles[role]]

    @property
    def line_bytes(self) -> int:
        """Bytes of a cache line: what one prefetch brings."""
        return self.limits.get("line_bytes", 64)

    def has_role(self, role: str) -> bool:
        return role in self.roles

    def feeds(self, dtype: DType) -> bool:
        """Whether operands of ``dtype`` are copied to operand spaces before the cube multiplies them.

        Otherwise the cube reads memory itself and accumulates in the "registers" role, or in the
        "accumulator" role where a machine has no other.
        """
        return "operand_a" in self.roles and (not self.operand_dtypes or dtype in self.operand_dtypes)

    def accumulator_role(self, dtype: DType) -> str:
        """The role of the buffer that a contraction of ``dtype`` accumulates in."""
        return "accumulator" if self.feeds(dtype) or "registers" not in self.roles else "registers"

    def way(self, opcode_class: str, source: str, target: str) -> tuple[Route, ...]:
        """The fewest moves from source to target, the first of that class; none if there is no way."""
        queue: deque[tuple[str, tuple[Route, ...]]] = deque([(source, ())])
        seen = {source, self.roles["memory"]}  # memory holds no local buffer, so nothing stops over there
        while queue:
            space, done = queue.popleft()
            for r in self.routes:
                allowed = r.opcode_class == opcode_class or (done and r.opcode_class in MOVES)
                if r.source != space or not allowed:
                    continue
                if r.target == target:
                    return (*done, r)
                if r.target not in seen:
                    seen.add(r.target)
                    queue.append((r.target, (*done, r)))
        return ()

    def route(self, opcode_class: str, source: str, target: str) -> Route | None:
        """The route of a class between two spaces, if there is one."""
        for r in self.routes:
            if (r.opcode_class, r.source, r.target) == (opcode_class, source, target):
                return r
        return None
