"""Small random programs of an NPU-like machine, and what they do instance by instance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from opc import machine
from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt
from opc.program.memory import slot_size
from opc.program.opcodes import OPCODES
from opc.program.pipes import pipe_of

ASCEND = machine.load("ascend910")
ROWS, COLS = 6, 4
# opcode, destination space, source spaces
MOVES = (
    ("copy_in.copy", "ub", ("gm",)),
    ("copy_in.copy", "l1", ("gm",)),
    ("copy_in.copy", "l0a", ("l1",)),
    ("copy_in.copy", "l0b", ("l1",)),
    ("cube.mma", "l0c", ("l0a", "l0b")),
    ("scale.drain", "ub", ("l0c",)),
    ("vector.add", "ub", ("ub", "ub")),
    ("vector.copy", "ub", ("ub",)),
    ("copy_out.copy", "gm", ("ub",)),
)


@dataclass(frozen=True)
class Instance:
    """One execution of an instruction: what it reads and writes, a bit per element of memory."""

    instr: Instr
    pipe: str
    env: tuple[tuple[str, int], ...]
    reads: int
    writes: int

    def conflicts(self, other: Instance) -> bool:
        return bool(self.writes & (other.reads | other.writes) or self.reads & other.writes)


class Memory:
    """Numbers the bytes of all buffers; planned buffers share numbers where they share bytes."""

    def __init__(self, program: Program, m: Machine) -> None:
        self.table, self.machine = program.table(), m
        self.base: dict[tuple[str, int], int] = {}
        self.size = 0
        spaces: dict[str, int] = {}
        for b in program.buffers:
            for slot in range(b.slots):
                if b.offsets and b.kind == "local":
                    if b.space not in spaces:
                        spaces[b.space] = self.size
                        same = [o for o in program.buffers if o.space == b.space and o.kind == "local"]
                        self.size += max(max(o.offsets, default=0) + o.slot_bytes for o in same)
                    self.base[b.name, slot] = spaces[b.space] + b.offsets[slot]
                else:
                    self.base[b.name, slot] = self.size
                    self.size += b.slot_bytes

    def elements(self, access: Access, instr: Instr, env: dict[str, int]) -> int:
        """What an access touches; memory outside the buffer is nothing."""
        b = self.table[access.buffer]
        grids = dict(
            zip((n for n, _ in instr.dims), np.ogrid[tuple(slice(e) for _, e in instr.dims)], strict=True)
        )
        linear, inside = np.zeros((), int), np.ones((), bool)
        for form, extent in zip(access.index, b.shape, strict=True):
            index = form.const + sum(c * (env[v] if v in env else grids[v]) for v, c in form.terms)
            linear, inside = linear * extent + index, inside & (index >= 0) & (index < extent)
        touched = np.zeros((b.elements, b.dtype.bytes), bool)
        linear, inside = np.broadcast_arrays(linear, inside)
        touched[linear[inside]] = True
        bits = int.from_bytes(np.packbits(touched, bitorder="little").tobytes(), "little")
        return bits << self.base[b.name, access.slot.evaluate(env) % b.slots]

    def instance(self, instr: Instr, env: dict[str, int]) -> Instance:
        reads = writes = 0
        for a in instr.sources:
            reads |= self.elements(a, instr, env)
        overwrite = instr.init is not None and instr.init.evaluate(env) == 0
        for a in instr.dst:
            touched = self.elements(a, instr, env)
            writes |= touched
            reads |= touched if OPCODES[instr.opcode].reduces and not overwrite else 0
        return Instance(
            instr, pipe_of(instr, self.table, self.machine), tuple(sorted(env.items())), reads, writes
        )


def expand(body: tuple[Stmt, ...], env: dict[str, int]) -> Iterator[tuple[Instr, dict[str, int]]]:
    """Every execution in program order."""
    for s in body:
        if isinstance(s, Instr):
            yield s, env
        else:
            for v in range(s.extent):
                yield from expand(s.body, {**env, s.var: v})


def trace(program: Program, m: Machine = ASCEND, core: int = 0, cores: int | None = None) -> list[Instance]:
    """What one core executes."""
    found = []
    memory = Memory(program, m)
    for s in program.body:
        if isinstance(s, Loop) and s.parallel:
            runs = [(s.body, {s.var: i}) for i in range(core, s.extent, cores or m.cores)]
        else:
            runs = [((s,), {})] if core == 0 else []
        for body, env in runs:
            found += [memory.instance(i, e) for i, e in expand(body, env)]
    return found


def resolve(i: Instr, env: dict[str, int], program: Program) -> tuple[object, ...]:
    """The instruction with every loop variable replaced by its value."""

    def access(a: object) -> object:
        if not isinstance(a, Access):
            return a
        slot = Affine((), a.slot.evaluate(env) % program.buffer(a.buffer).slots)
        return Access(a.buffer, tuple(f.substitute(env) for f in a.index), slot)

    init = i.init.evaluate(env) == 0 if i.init is not None else None
    form = i.form.substitute(env) if i.form is not None else None
    return (
        i.opcode,
        i.dims,
        tuple(map(access, i.dst)),
        tuple(map(access, i.src)),
        init,
        i.fill,
        form,
        i.scale,
        i.line,
    )


@st.composite
def programs(draw: st.DrawFn, planned: bool | None = None, parallel: int = 1) -> Program:
    """A random program: up to three nested loops, every route of the machine, slots, shared bytes."""
    buffers = _buffers(draw)
    if planned if planned is not None else draw(st.booleans()):
        buffers = [_place(draw, b) for b in buffers]
    counter = iter(range(1000))
    body = _body(draw, buffers, {"core": parallel}, 0, counter)
    return Program("random", "ascend910", tuple(buffers), (Loop("core", parallel, body, True),))


def _buffers(draw: st.DrawFn) -> list[Buffer]:
    types = {
        "gm": DType.F32,
        "ub": DType.F32,
        "l1": DType.F16,
        "l0a": DType.F16,
        "l0b": DType.F16,
        "l0c": DType.F32,
    }
    found = []
    for space, dtype in types.items():
        for n in range(draw(st.integers(1, 2))):
            slots = 1 if space == "gm" else draw(st.sampled_from((1, 1, 2, 2, 3)))
            kind = "inout" if space == "gm" else "local"
            found.append(Buffer(f"{space}{n}", dtype, (ROWS, COLS), space, kind, slots))
    return found


def _place(draw: st.DrawFn, b: Buffer) -> Buffer:
    if b.kind != "local":
        return b
    size = slot_size(ASCEND, b)
    starts = [2 * size * n for n in range(4)]  # two buffers of a space share whole slots or nothing
    offsets = draw(st.permutations(starts))[: b.slots]
    return replace(b, offsets=tuple(offsets))


def _body(
    draw: st.DrawFn, buffers: list[Buffer], loops: dict[str, int], depth: int, counter: Iterator[int]
) -> tuple[Stmt, ...]:
    found: list[Stmt] = []
    for _ in range(draw(st.integers(1, 4 if depth else 5))):
        if depth < 3 and draw(st.integers(0, 3)) == 0:
            var, extent = f"v{next(counter)}", draw(st.integers(1, 5 if depth < 2 else 3))
            found.append(Loop(var, extent, _body(draw, buffers, {**loops, var: extent}, depth + 1, counter)))
        else:
            found.append(_instr(draw, buffers, loops, next(counter)))
    return tuple(found)


def _instr(draw: st.DrawFn, buffers: list[Buffer], loops: dict[str, int], line: int) -> Instr:
    opcode, target, sources = draw(st.sampled_from(MOVES))

    def pick(space: str) -> Buffer:
        return draw(st.sampled_from([b for b in buffers if b.space == space]))

    if opcode == "cube.mma":
        dims, forms = (("m", 2), ("n", 2), ("k", 2)), (("m", "n"), ("m", "k"), ("k", "n"))
        init = draw(st.sampled_from([None, Affine(), *(Affine.var(v) for v in loops)]))
    else:
        dims, forms, init = (("i", 2), ("j", draw(st.integers(1, 2)))), (("i", "j"),) * 3, None
    extents = dict(dims)
    dst, *src = (
        _access(draw, pick(space), names, extents, loops)
        for space, names in zip((target, *sources), forms, strict=False)
    )
    return Instr(opcode, dims, (dst,), tuple(src), init, line=line)


def _access(
    draw: st.DrawFn, b: Buffer, names: tuple[str, str], extents: dict[str, int], loops: dict[str, int]
) -> Access:
    ranges = {**loops, **extents}
    index = []
    for name, extent in zip(names, b.shape, strict=True):
        step = draw(st.sampled_from((1, 1, 2)))
        form = Affine.var(name, step) + draw(st.integers(0, 1))
        for v in draw(st.lists(st.sampled_from(sorted(loops)), max_size=2, unique=True)):
            moved = form + Affine.var(v, draw(st.sampled_from((1, 1, 2, -1))))
            low, high = moved.interval(ranges)
            moved = moved - low if low < 0 else moved
            form = moved if high - min(low, 0) < extent else form
        index.append(form)
    slot = Affine()
    if b.slots > 1:
        for v in draw(st.lists(st.sampled_from(sorted(loops)), max_size=2, unique=True)):
            slot = slot + Affine.var(v, draw(st.integers(1, 3)))
        slot = slot + draw(st.integers(0, 2))
    return Access(b.name, tuple(index), slot)


def keyed(program: Program, m: Machine = ASCEND) -> list[tuple[tuple[object, ...], Instance]]:
    """The trace of one core that runs everything, each instance with a name that survives reordering."""
    seen: dict[tuple[object, ...], int] = {}
    found = []
    for x in trace(program, m, 0, 1):
        bound = resolve(x.instr, dict(x.env), program)
        seen[bound] = seen.get(bound, 0) + 1
        found.append(((*bound, seen[bound]), x))
    return found


def assert_order_only(before: Program, after: Program, m: Machine = ASCEND) -> None:
    """The same instances, and no two that conflict have changed places."""
    old, new = keyed(before, m), keyed(after, m)
    place = {name: n for n, (name, _) in enumerate(new)}
    assert place.keys() == {name for name, _ in old}
    for n, (name, x) in enumerate(old):
        for other, y in old[n + 1 :]:
            if place[other] < place[name]:
                assert not x.conflicts(y), f"swapped: {x.instr} {x.env} and {y.instr} {y.env}"


@st.composite
def tile_loops(draw: st.DrawFn) -> Program:
    """A loop that copies in, computes and copies out, with more slots than ``programs`` draws."""
    extent = draw(st.integers(2, 9))
    gm = [Buffer(f"gm{n}", DType.F32, (16, 4), "gm", "inout") for n in range(3)]
    types = {"ub": DType.F32, "l1": DType.F16, "l0a": DType.F16, "l0b": DType.F16, "l0c": DType.F32}
    local = [
        Buffer(f"{space}{n}", dtype, (16, 4), space, "local", draw(st.integers(1, 4)))
        for space, dtype in types.items()
        for n in range(4 if space == "ub" else 1)
    ]
    shift = draw(st.integers(0, 2))

    def use(space: str) -> Access:
        b = draw(st.sampled_from([b for b in (*gm, *local) if b.space == space]))
        row = Affine.var("i") + draw(st.integers(0, 3)) if space == "gm" else Affine()
        slot = Affine.var("i") + (shift if space == "l1" else 0) if b.slots > 1 else Affine()
        return Access(b.name, (row, Affine.var("j")), slot)

    def matrix() -> Stmt:
        a, b, c = use("l0a"), use("l0b"), use("l0c")
        load = Instr("copy_in.copy", (("j", 2),), (a,), (use("l1"),), line=90)
        c = replace(c, index=(Affine.var("m"), Affine.var("n")))
        a = replace(a, index=(Affine.var("m"), Affine.var("k")))
        b = replace(b, index=(Affine.var("k"), Affine.var("n")))
        mma = Instr("cube.mma", (("m", 2), ("n", 2), ("k", 2)), (c,), (a, b), Affine.var("r"), line=91)
        return Loop("r", draw(st.integers(1, 3)), (load, mma))

    body: list[Stmt] = [
        Instr("copy_in.copy", (("j", 2),), (use(draw(st.sampled_from(("ub", "l1")))),), (use("gm"),))
    ]
    for line in range(draw(st.integers(1, 7))):
        if draw(st.integers(0, 5)) == 0:
            body.append(matrix())
            continue
        opcode, target, sources = draw(st.sampled_from([m for m in MOVES if m[0] != "cube.mma"]))
        src = tuple(use(s) for s in sources)
        body.append(Instr(opcode, (("j", 2),), (use(target),), src, line=line + 1))
    body.append(Instr("vector.copy", (("j", 2),), (use("ub"),), (use("ub"),), line=98))
    body.append(Instr("copy_out.copy", (("j", 2),), (use("gm"),), (use("ub"),), line=99))
    loop: Stmt = Loop("i", extent, tuple(body))
    if draw(st.booleans()):
        loop = Loop("o", 2, (loop,))
    return Program("tiles", "ascend910", (*gm, *local), (Loop("core", 1, (loop,), True),))
