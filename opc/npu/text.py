"""Canonical text of a listing. ``print_listing(parse_listing(t)) == t`` for canonical ``t``.

    listing v1 scale machine ascend910
    tensor x: f16[4,64] input
    tensor y: f16[4,64] output
    buffer t: ub 128 at 0, 128
    core c < 2 {
      loop i < 2 {
        MTE2 copy_gm_to_ub f16@ub[(0, 128)[i mod 2] | j:2] = f16@gm:x[c*256 + i*128 | j:2] for j<64 {line=1}
        set_flag MTE2, V, 0
        wait_flag MTE2, V, 0
        V vmuls f16@ub[(0, 128)[i mod 2] | j:2] = f16@ub[(0, 128)[i mod 2] | j:2], 2.0 for j<64 {line=1}
        pipe_barrier ALL
        MTE3 copy_ub_to_gm f16@gm:y[c*256 + i*128 | j:2] = f16@ub[(0, 128)[i mod 2] | j:2] for j<64 {line=1}
      }
    }

A table of addresses is selected by a form modulo its length; strides that are 0 are not printed.
``window=STEPxCOLUMNSxROWS`` says which columns of an image a copy picks; it means nothing but its cost.
"""

from __future__ import annotations

from collections.abc import Iterator

from opc.npu.listing import Argument, Instruction, Listing, Region, Statement
from opc.program.ir import Imm
from opc.program.text import number

VERSION = "v1"


def print_listing(listing: Listing) -> str:
    """The canonical text, ending in a newline."""
    return "".join(line + "\n" for line, _ in _lines(listing))


def places(listing: Listing) -> dict[int, tuple[int, int, int]]:
    """Line, column and length of each instruction in the text, by ``id`` of the instruction."""
    found = {}
    for row, (line, i) in enumerate(_lines(listing), 1):
        if i is not None:
            length = len(line.lstrip())
            found[id(i)] = (row, len(line) - length + 1, length)
    return found


def _lines(listing: Listing) -> Iterator[tuple[str, Instruction | None]]:
    yield f"listing {VERSION} {listing.name} machine {listing.machine}", None
    for t in listing.tensors:
        at = f" at {t.offset}" if t.blob != t.name else ""
        yield f"tensor {t.name}: {t.dtype}[{','.join(map(str, t.shape))}] {t.kind}{at}", None
    for b in listing.buffers:
        yield f"buffer {b.name}: {b.space} {b.bytes} at {', '.join(map(str, b.offsets))}", None
    for phase in listing.phases:
        yield f"core {phase.var} < {phase.extent} {{", None
        yield from _body(phase.body, 1)
        yield "}", None


def _body(body: tuple[Statement, ...], depth: int) -> Iterator[tuple[str, Instruction | None]]:
    pad = "  " * depth
    for s in body:
        if isinstance(s, Instruction):
            yield pad + print_instruction(s), s
            continue
        yield f"{pad}loop {s.var} < {s.extent} {{", None
        yield from _body(s.body, depth + 1)
        yield pad + "}", None


def print_instruction(i: Instruction) -> str:
    """Text of one instruction, without indentation."""
    if i.flag is not None:
        source, target, event = i.flag
        count = f" mod {i.modulo}" if i.modulo else ""
        names = source if i.mnemonic == "pipe_barrier" else f"{source}, {target}, {event}{count}"
        return f"{i.mnemonic} {names}" + (f" {{line={i.line}}}" if i.line else "")
    text = f"{i.pipe} {i.mnemonic} " + ", ".join(_argument(a, i) for a in i.dst) + " ="
    if i.src:
        text += " " + ", ".join(_argument(a, i) for a in i.src)
    if i.dims:
        text += " for " + ", ".join(f"{n}<{e}" for n, e in i.dims)
    attributes = _attributes(i)
    return text + (f" {{{attributes}}}" if attributes else "")


def _argument(a: Argument, i: Instruction) -> str:
    return number(a.value) if isinstance(a, Imm) else _region(a, i)


def _region(r: Region, i: Instruction) -> str:
    place = f"{r.space}:{r.tensor}" if r.tensor else r.space
    address = str(r.base)
    if r.table:
        slot = f"({', '.join(map(str, r.table))})[{r.select} mod {len(r.table)}]"
        address = slot if address == "0" else f"{slot} + {address}"
    strides = ", ".join(f"{n}:{s}" for (n, _), s in zip(i.dims, r.strides, strict=True) if s)
    return f"{r.dtype}@{place}[{address} | {strides}]" if strides else f"{r.dtype}@{place}[{address}]"


def _attributes(i: Instruction) -> str:
    items = []
    if i.bounds:
        items.append("inside=" + " & ".join(f"{b.form} < {b.extent}" for b in i.bounds))
    if i.fill is not None:
        items.append(f"fill={number(i.fill)}")
    if i.init is not None:
        items.append(f"init={i.init}")
    if i.form is not None:
        items.append(f"form={i.form}")
    if i.scale:
        items.append(f"scale={'+'.join(i.scale)}")
    if i.window is not None:
        items.append(f"window={i.window.step}x{i.window.columns}x{i.window.rows}")
    if i.line:
        items.append(f"line={i.line}")
    return ", ".join(items)
