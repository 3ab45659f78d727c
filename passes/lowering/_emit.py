"""Building program IR: a statement list with loop scopes, buffers with unique names, and the map
from tensors in index order to buffers in memory order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.program.ir import Access, Buffer, Instr, Loop, Operand, Program, Stmt
from opc.tensor.ir import Tensor

Declared = tuple[str, DType, tuple[int, ...], str]  # hint, type, shape and role of a local buffer
Pool = dict[Declared, list[str]]


@dataclass(frozen=True, slots=True)
class Tile:
    """One block of a dimension: first index, size, and a form that is 0 in the first block only."""

    base: Affine
    size: int
    order: Affine

    def local(self, name: str) -> Affine:
        """The whole dimension's index as a form of the block's own variable ``name``."""
        return self.base + (Affine.var(name) if self.size > 1 else Affine())


@dataclass
class Emitter:
    """Collects one program. Role spaces are written as the role's name."""

    name: str
    machine: Machine
    buffers: dict[str, Buffer] = field(default_factory=dict)
    line: int = 0
    _bodies: list[list[Stmt]] = field(default_factory=lambda: [[]])
    _loops: list[str] = field(default_factory=list)
    _pool: Pool | None = None
    _used: dict[Declared, int] = field(default_factory=dict)

    def program(self) -> Program:
        """What was emitted so far."""
        assert len(self._bodies) == 1, "a loop is still open"
        return Program(self.name, self.machine.name, tuple(self.buffers.values()), tuple(self._bodies[0]))

    def memory(self, tensor: Tensor, kind: str) -> None:
        """Declare a tensor that lives in the memory space."""
        if tensor.name not in self.buffers:
            shape = tuple(tensor.shape[axis] for axis in tensor.memory_order)
            self.buffers[tensor.name] = Buffer(
                tensor.name, tensor.dtype, shape, self.machine.roles["memory"], kind
            )

    def workspace(self, hint: str, dtype: DType, shape: Sequence[int]) -> str:
        """Declare a buffer of the caller's memory that all cores share; returns its name."""
        name = self._unique(hint, self.buffers)
        self.buffers[name] = Buffer(name, dtype, tuple(shape), self.machine.roles["memory"], "workspace")
        return name

    def local(self, hint: str, dtype: DType, shape: Sequence[int], role: str, *, shared: bool = True) -> str:
        """Declare a core-private buffer; returns its name. Not ``shared``: whatever it stands beside, it is new."""
        if self._pool is not None and shared:
            return self._pooled((hint, dtype, tuple(shape), role))
        name = self._unique(hint, self.buffers)
        self.buffers[name] = Buffer(name, dtype, tuple(shape), role)
        return name

    @contextmanager
    def sharing(self, pool: Pool) -> Iterator[None]:
        """What is declared here takes the place of what was declared alike, and as often, with this pool before."""
        self._pool, self._used = pool, {}
        yield
        self._pool = None

    def _pooled(self, key: Declared) -> str:
        assert self._pool is not None
        names, n = self._pool.setdefault(key, []), self._used.get(key, 0)
        self._used[key] = n + 1
        if n == len(names):
            hint, dtype, shape, role = key
            names.append(self._unique(hint, self.buffers))
            self.buffers[names[n]] = Buffer(names[n], dtype, shape, role)
        return names[n]

    def dtype(self, buffer: str) -> DType:
        return self.buffers[buffer].dtype

    @staticmethod
    def _unique(hint: str, taken: dict[str, Buffer] | list[str]) -> str:
        if hint not in taken:
            return hint
        n = 1
        while f"{hint}_{n}" in taken:
            n += 1
        return f"{hint}_{n}"

    @contextmanager
    def loop(self, hint: str, extent: int, parallel: bool = False) -> Iterator[Affine]:
        """Open a loop; yields its variable as a form (0 where one iteration needs no loop)."""
        if extent == 1 and not parallel:
            yield Affine()
            return
        var = self._unique(hint, self._loops)
        self._loops.append(var)
        self._bodies.append([])
        yield Affine.var(var)
        body = self._bodies.pop()
        self._loops.pop()
        self._bodies[-1].append(Loop(var, extent, tuple(body), parallel))

    def tiles(
        self,
        dim: str,
        extent: int,
        size: int,
        parallel: bool = False,
        *,
        unroll: bool = False,
        ends: bool = False,
    ) -> Iterator[Tile]:
        """Blocks of a dimension, the remainder peeled: the caller's body runs once per variant. With ``ends``
        the first and the last whole block are variants of their own, with ``unroll`` every block is.
        """
        full, tail = divmod(extent, size)
        edges = {0, full - 1} if ends else set()
        if unroll or full <= len(edges):
            edges = set(range(full))
        inner = full - len(edges)
        first = 0 in edges
        for n in sorted(edges)[: 1 if inner else None]:
            yield from self._tile(dim, n * size, size, n, parallel)
        if inner:
            with self.loop(f"{dim}_o", inner, parallel) as var:
                yield Tile(var * size + first * size, size, var + int(first))
            for n in sorted(edges)[1:]:
                yield from self._tile(dim, n * size, size, n, parallel)
        if tail:
            yield from self._tile(dim, full * size, tail, full, parallel)

    def _tile(self, dim: str, base: int, size: int, order: int, parallel: bool) -> Iterator[Tile]:
        # A parallel block is a loop too: every statement at the top belongs to one.
        with self.loop(f"{dim}_o", 1, parallel):
            yield Tile(Affine((), base), size, Affine((), order))

    def even_tiles(self, dim: str, extent: int, size: int) -> Iterator[Tile]:
        """Blocks of at most ``size``, of two sizes that differ by one: no thin remainder."""
        count = -(-extent // size)
        high = -(-extent // count)
        wide = extent - count * (high - 1)
        with self.loop(f"{dim}_o", wide) as var:
            yield Tile(var * high, high, var)
        if count > wide:
            with self.loop(f"{dim}_o", count - wide) as var:
                yield Tile(var * (high - 1) + wide * high, high - 1, var + wide)

    def emit(
        self,
        opcode: str,
        dims: Sequence[tuple[str, int]],
        dst: Sequence[Access],
        src: Sequence[Operand],
        **fields: object,
    ) -> None:
        """Append one instruction; dimensions of extent 1 are replaced by 0."""
        ones: dict[str, Affine | int] = {n: 0 for n, e in dims if e == 1}
        instr = Instr(opcode, tuple(d for d in dims if d[1] != 1), tuple(dst), tuple(src), line=self.line)
        instr = replace(instr, **fields)  # type: ignore[arg-type]
        if ones:
            instr = _substitute(instr, ones)
        self._bodies[-1].append(instr)


def _substitute(instr: Instr, values: dict[str, Affine | int]) -> Instr:
    def access(o: Operand) -> Operand:
        if not isinstance(o, Access):
            return o
        return replace(o, index=tuple(f.substitute(values) for f in o.index))

    return replace(
        instr,
        dst=tuple(access(d) for d in instr.dst),  # type: ignore[misc]
        src=tuple(access(s) for s in instr.src),
        form=instr.form.substitute(values) if instr.form is not None else None,
    )


def memory_access(tensor: Tensor, index: Sequence[Affine]) -> Access:
    """Access to a tensor's buffer: the index permuted into memory order."""
    return Access(tensor.name, tuple(index[axis] for axis in tensor.memory_order))
