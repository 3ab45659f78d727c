"""Elementwise instructions: vector.*, scale.drain and copies whose source index never leaves its buffer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.cpu import access, nest, ops, pairs, transpose, values
from opc.cpu.function import Function
from opc.cpu.layout import STACK, View
from opc.cpu.values import Vec
from opc.dtypes import DType
from opc.program.ir import Instr

UNROLL_LIMIT = 128  # vectors; a register buffer with more lives on the stack anyway
NARROW = (DType.BF16, DType.F16)
COPIES = ("copy_in.copy", "copy_out.copy", "vector.copy", "scale.drain")


@dataclass(frozen=True, slots=True)
class Element:
    """An elementwise instruction with its operands linearised; literals stay numbers."""

    instr: Instr
    dst: View
    src: tuple[View | float | int, ...]

    @property
    def views(self) -> list[View]:
        return [self.dst, *(s for s in self.src if isinstance(s, View))]

    @property
    def move(self) -> bool:
        """True if bits are copied unchanged."""
        source = self.src[0] if self.src else 0
        return (
            self.instr.opcode in COPIES
            and isinstance(source, View)
            and source.dtype is self.dst.dtype
            and not set(self.instr.scale) - {"convert"}
        )


def emit(f: Function, e: Element) -> None:
    """Emit the whole instruction: everything is read before anything is written."""
    if _overlaps(e):
        _through_copy(f, e)
    else:
        _emit(f, e)


def _overlaps(e: Element) -> bool:
    """True if a source may hold bytes that the destination writes at another point of the box."""
    extents = e.instr.extents
    written = _span(e.dst, extents)
    for v in e.views[1:]:
        if v.buffer == e.dst.buffer and v.form != e.dst.form:
            read, outside = _span(v, extents), (v.form - e.dst.form).split(extents)[1]
            distance = outside.const if outside.is_const else None
            if distance is None or (read[0] + distance < written[1] and written[0] < read[1] + distance):
                return True
    return False


def _span(v: View, extents: dict[str, int]) -> tuple[int, int]:
    """First and last + 1 byte of the access, relative to its form outside the box."""
    low, high = v.form.split(extents)[0].interval(extents)
    return low, high + v.dtype.bytes


def _through_copy(f: Function, e: Element) -> None:
    """Compute into a temporary, then move it to the destination."""
    form, step = Affine(), e.dst.dtype.bytes
    for name, extent in reversed(e.instr.dims):
        form = form + Affine.var(name, step)
        step *= extent
    heap = step > STACK
    base = (
        f.call("malloc", "ptr", [str(step)], ["i64"]) if heap else f.alloca("i8", step, f.module.vector_bytes)
    )
    copy = View(base, form, e.dst.dtype, "")
    move = replace(e.instr, opcode="vector.copy", src=(), form=None, scale=())

    def both() -> None:
        _emit(f, replace(e, dst=copy))
        _emit(f, Element(move, e.dst, (copy,)))

    if heap:
        f.note_depth(base)
    f.scoped(both)
    if heap:
        f.call("free", "void", [base], ["ptr"])


def _emit(f: Function, e: Element) -> None:
    dims = nest.significant(f, e.instr.dims)
    form = e.instr.form or Affine()
    dims, forms = nest.merge(dims, [*(v.form for v in e.views), form])
    e, form = _with_forms(e, forms[:-1]), forms[-1]
    if e.move and _block_move(f, e, dims):
        return
    if _turn(f, e, dims) or (e.move and _pair(f, e, dims)):
        return
    vector = _vector_dim(e, dims)
    lanes = _lanes(f, e, vector.extent)
    outer = nest.by_stride([d for d in dims if d is not vector], e.dst)
    count = -(-vector.extent // lanes)
    for d in outer:
        count *= d.extent
    unroll = count <= (UNROLL_LIMIT if any(v.register for v in e.views) else 8)

    def body(live: int) -> None:
        store_result(f, e, vector.name, _value(f, e, form, vector.name, lanes, live), live)

    nest.walk(f, outer, lambda: nest.chunks(f, vector, lanes, body, unroll), unroll)


def _with_forms(e: Element, forms: list[Affine]) -> Element:
    left = iter(forms)
    dst = e.dst.moved(next(left))
    return Element(e.instr, dst, tuple([s.moved(next(left)) if isinstance(s, View) else s for s in e.src]))


def _block_move(f: Function, e: Element, dims: list[nest.Dim]) -> bool:
    """Long contiguous rows in memory go through memcpy."""
    source = e.src[0]
    assert isinstance(source, View)
    inner = [d for d in dims if e.dst.stride(d.name) == 1 and source.stride(d.name) == 1]
    size = e.dst.dtype.bytes
    if e.dst.register or source.register or not inner or inner[0].extent * size < 256:
        return False
    length = inner[0].extent * size
    f.bind({inner[0].name: 0})

    def body() -> None:
        copy_bytes(f, f.pointer(e.dst.base, e.dst.form), f.pointer(source.base, source.form), str(length))

    outer = nest.by_stride([d for d in dims if d is not inner[0]], e.dst)
    nest.walk(f, outer, body, unroll=False)
    return True


def _turn(f: Function, e: Element, dims: list[nest.Dim]) -> bool:
    """Copies that turn go block by block; what blocks leave over goes the plain way."""
    source = e.src[0] if e.instr.opcode in COPIES and not e.instr.scale else None
    if not isinstance(source, View):
        return False
    found = transpose.find(f, e.dst, source, [(d.name, d.extent) for d in dims])
    if found is None:
        return False
    size, rest = found.size, [d for d in dims if d.name not in (found.along, found.across)]
    extents = {d.name: d.extent for d in dims}
    whole = {n: extents[n] // size * size for n in (found.along, found.across)}
    blocks = [*rest, nest.Dim(found.across, whole[found.across]), nest.Dim(found.along, whole[found.along])]
    nest.walk_steps(f, blocks, {found.along: size, found.across: size}, lambda: transpose.block(f, found))
    for name, box in ((found.across, extents), (found.along, {**extents, found.across: whole[found.across]})):
        if whole[name] < extents[name]:
            _remainder(f, e, name, whole[name], {**box, name: extents[name] - whole[name]})
    return True


def _pair(f: Function, e: Element, dims: list[nest.Dim]) -> bool:
    """Copies that lay two rows side by side go vector by vector."""
    source = e.src[0]
    assert isinstance(source, View)
    found = pairs.find(f, e.dst, source, [(d.name, d.extent) for d in dims])
    if found is None:
        return False
    along = next(d for d in dims if d.name == found.along)
    rows = nest.by_stride([d for d in dims if d.name not in (found.across, found.along)], e.dst)
    nest.walk(f, rows, lambda: pairs.row(f, found, along), unroll=False)
    return True


def _remainder(f: Function, e: Element, name: str, start: int, extents: dict[str, int]) -> None:
    """The plain copy of a part of the box that begins at ``start`` along ``name``."""
    ahead = {name: Affine.var(name) + start}
    forms = [v.form.substitute(ahead) for v in e.views]
    part = replace(e.instr, dims=tuple(extents.items()))
    _emit(f, _with_forms(replace(e, instr=part), forms))


def copy_bytes(f: Function, to: str, source: str, length: str) -> None:
    """Emit a memcpy."""
    f.call("llvm.memcpy.p0.p0.i64", "void", [to, source, length, "false"], ["ptr", "ptr", "i64", "i1"])


def _vector_dim(e: Element, dims: list[nest.Dim]) -> nest.Dim:
    """Unit stride in the destination before unit stride in the sources before length."""
    if not dims:
        return nest.Dim("one.", 1)

    def merit(d: nest.Dim) -> tuple[int, int, int]:
        strides = [v.stride(d.name) for v in e.views]
        return (
            (strides[0] == 1) * 2 + sum(s == 1 for s in strides[1:]),
            sum(s == 0 for s in strides),
            d.extent,
        )

    return max(dims, key=merit)


def _lanes(f: Function, e: Element, extent: int) -> int:
    width = max((v.dtype.compute.bytes for v in e.views), default=4)
    sources = [v.register for v in e.views[1:]]
    if e.move and (not any(v.register for v in e.views) or (all(sources) and not e.dst.register)):
        width = e.dst.dtype.bytes
    elif not e.move and e.instr.opcode in COPIES and e.dst.dtype in NARROW:
        width = e.dst.dtype.bytes  # two vectors are packed to one
    if extent == 1:
        f.bind({"one.": 0})
        return 1
    return min(f.module.vector_bytes // width, 1 << (extent - 1).bit_length())


def _value(f: Function, e: Element, form: Affine, dim: str, lanes: int, live: int) -> Vec:
    i = e.instr
    if i.op == "iota":
        return iota(f, form, dim, lanes)
    operands: list[ops.Value] = [
        access.load(f, s, dim, lanes, live, raw=e.move) if isinstance(s, View) else s for s in e.src
    ]
    if i.opcode == "scale.drain":
        return _drained(f, e, operands, lanes)
    if i.opcode in COPIES:
        return _copied(e, operands[0], lanes)
    loaded = operands[1:] if i.op == "select" else operands
    kinds = [v.kind for v in loaded if isinstance(v, Vec)]
    literals = [v for v in loaded if not isinstance(v, Vec)]
    kind = ops.compute_kind(i.op, kinds, literals, str(e.dst.dtype.compute))
    return ops.apply(f, i.op, operands, kind, lanes)


def _copied(e: Element, value: ops.Value, lanes: int) -> Vec:
    return value if isinstance(value, Vec) else values.splat(str(e.dst.dtype.compute), lanes, value)


def _drained(f: Function, e: Element, operands: list[ops.Value], lanes: int) -> Vec:
    kinds = [v.kind for v in operands if isinstance(v, Vec)]
    literals = [v for v in operands if not isinstance(v, Vec)]
    if e.move:
        return _copied(e, operands[0], lanes)
    kind = ops.compute_kind("copy", kinds, literals, str(e.dst.dtype.compute))
    value, extra = operands[0], iter(operands[1:])
    for form in e.instr.scale:
        if form == "relu":
            value = ops.apply(f, "max", [value, 0], kind, lanes)
        elif form in ("scale", "shift"):
            value = ops.apply(f, "mul" if form == "scale" else "add", [value, next(extra)], kind, lanes)
    return value if isinstance(value, Vec) else _copied(e, value, lanes)


def iota(f: Function, form: Affine, dim: str, lanes: int) -> Vec:
    """The form's value as i32, stepping along ``dim``."""
    start = f.index(form)
    if isinstance(start, int):
        base: Vec = values.splat("i32", lanes, start)
    else:
        base = values.broadcast(f, Vec("i32", 1, f.op(f"trunc i64 {start} to i32")), lanes)
    step = form.coefficient(dim)
    if lanes == 1 or not step:
        return base
    steps = Vec("i32", lanes, "<" + ", ".join(f"i32 {i * step}" for i in range(lanes)) + ">")
    return values.binary(f, "add", base, steps)


def store_result(f: Function, e: Element, dim: str, value: Vec, live: int) -> None:
    """Store into the destination, whose bits ``value`` already holds if the instruction only moves."""
    works = e.instr.opcode_class == "vector" and e.dst.register
    access.store(f, e.dst, dim, values.pinned(f, value) if works else value, live, raw=e.move)
