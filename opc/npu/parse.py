"""Reader of listing text: what ``opc.npu.text`` prints, and nothing else is executed."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import ListingError, OpcError, Span, fail
from opc.npu.listing import (
    ALL,
    Argument,
    Bound,
    Instruction,
    Listing,
    Loop,
    Phase,
    Placement,
    Region,
    Statement,
    Tensor,
)
from opc.npu.mnemonics import opcode_of
from opc.npu.text import VERSION
from opc.program.cost import Window
from opc.program.ir import BUFFER_KINDS, Imm
from opc.program.opcodes import OPCODES

_NAME = r"[A-Za-z_][A-Za-z0-9_.]*"
_HEADER = re.compile(rf"listing (\S+) ({_NAME}) machine (\S+)$")
_TENSOR = re.compile(rf"tensor ({_NAME}): (\w+)\[([\d,]*)\] (\w+)(?: at (\d+))?$")
_BUFFER = re.compile(rf"buffer ({_NAME}): (\w+) (\d+) at (\d+(?:, \d+)*)$")
_BLOCK = re.compile(rf"(core|loop) ({_NAME}) < (\d+) \{{$")
_FLAG = re.compile(r"(set_flag|wait_flag) (\w+), (\w+), ([^{]+?)(?: mod (\d+))?(?: \{line=(\d+)\})?$")
_BARRIER = re.compile(r"pipe_barrier (\w+)(?: \{line=(\d+)\})?$")
_INSTRUCTION = re.compile(r"(\w+) (\w+) (.*) =(.*?)(?: for ([^{]*?))?(?: \{(.*)\})?$")
_REGION = re.compile(
    rf"(\w+)@(\w+)(?::({_NAME}))?\["
    r"(?:\((\d+(?:, \d+)*)\)\[([^\]]*) mod (\d+)\](?: \+ )?)?([^\]|(]*?)(?: \| ([^\]]*))?\]"
)
_NUMBER = re.compile(r"-?(?:inf|nan|\d+(?:\.\d*)?(?:e[-+]?\d+)?)")
_WINDOW = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8})x([1-9]\d{0,8})")
_DIM = re.compile(rf"({_NAME})<(\d+)$")
_STRIDE = re.compile(rf"({_NAME}):(-?\d+)$")


class _TextError(ValueError):
    """A problem with the fragment ``args[1]`` of the current line."""

    def __init__(self, message: str, fragment: str = "", help: str = "") -> None:
        super().__init__(message, fragment, help)


@lru_cache(maxsize=4096)
def _affine(text: str) -> Affine:
    try:
        return Affine.parse(text)
    except ValueError:
        raise _TextError(f"'{text}' is not affine", text, "sums of NUMBER*VARIABLE and numbers") from None


def parse_listing(text: str, file: str = "<listing>") -> Listing:
    """Read listing text. Raises ListingError E0801 at the offending text, E0802 for another version."""
    reader = _Reader(text, file)
    try:
        return reader.listing()
    except _TextError as problem:
        raise reader.error(*problem.args) from None


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.text, self.file, self.at = text, file, 0
        self.lines = text.split("\n")
        self.tensors: list[Tensor] = []
        self.buffers: list[Placement] = []
        self.phases: list[Phase] = []
        self.blocks: list[tuple[str, str, int, list[Statement]]] = []

    def error(self, message: str, fragment: str, help: str) -> OpcError:
        raw = self.lines[self.at - 1] if self.at else ""
        column = raw.find(fragment) if fragment else -1
        if column < 0:
            column, fragment = len(raw) - len(raw.lstrip()), raw.strip()
        span = Span(self.file, max(1, self.at), column + 1, max(1, len(fragment)))
        return ListingError(fail(ListingError, "E0801", message, help=help, span=span).diagnostics, self.text)

    def next(self) -> str | None:
        while self.at < len(self.lines):
            line = self.lines[self.at].strip()
            self.at += 1
            if line and not line.startswith("#"):
                return line
        return None

    def listing(self) -> Listing:
        header = _HEADER.match(self.next() or "")
        if header is None:
            raise _TextError(f"expected 'listing {VERSION} NAME machine NAME'")
        if header[1] != VERSION:
            message = f"the listing is version {header[1]}, this opc reads {VERSION}"
            raise fail(ListingError, "E0802", message, help="compile the kernel again")
        while (line := self.next()) is not None:
            self._line(line)
        if self.blocks:
            raise _TextError("the listing ends inside a block", help="add the missing '}'")
        return Listing(header[2], header[3], tuple(self.tensors), tuple(self.buffers), tuple(self.phases))

    def _line(self, line: str) -> None:
        if line == "}":
            self._close()
        elif (block := _BLOCK.match(line)) is not None:
            if (block[1] == "core") != (not self.blocks):
                raise _TextError(f"'{block[1]}' cannot stand here", block[1], "loops stand in cores")
            if any(block[2] == name for _, name, _, _ in self.blocks):
                raise _TextError(f"'{block[2]}' is already a loop variable here", block[2])
            self.blocks.append((block[1], block[2], int(block[3]), []))
        elif line.startswith(("tensor ", "buffer ")) and not self.blocks:
            self._declaration(line)
        elif self.blocks:
            instruction = self._instruction(line)
            _in_scope(instruction, {name for _, name, _, _ in self.blocks})
            self.blocks[-1][3].append(instruction)
        else:
            raise _TextError("expected tensor, buffer or core", line.split(" ")[0])

    def _close(self) -> None:
        if not self.blocks:
            raise _TextError("'}' closes nothing", "}")
        kind, var, extent, body = self.blocks.pop()
        if kind == "core":
            self.phases.append(Phase(var, extent, tuple(body)))
        else:
            self.blocks[-1][3].append(Loop(var, extent, tuple(body)))

    def _declaration(self, line: str) -> None:
        if (t := _TENSOR.match(line)) is not None and t[2] in list(DType) and t[4] in BUFFER_KINDS:
            shape = tuple(int(n) for n in t[3].split(",") if n)
            self.tensors.append(Tensor(t[1], DType(t[2]), shape, t[4], int(t[5] or 0)))
        elif (b := _BUFFER.match(line)) is not None:
            offsets = tuple(int(n) for n in b[4].split(","))
            self.buffers.append(Placement(b[1], b[2], int(b[3]), offsets))
        else:
            help = "tensor NAME: DTYPE[SHAPE] KIND [at OFFSET], or buffer NAME: SPACE BYTES at OFFSETS"
            raise _TextError("bad declaration", help=help)

    def _instruction(self, line: str) -> Instruction:
        if (f := _FLAG.match(line)) is not None:
            pipe = f[2] if f[1] == "set_flag" else f[3]
            flag = (f[2], f[3], _affine(f[4]))
            return Instruction(pipe, f[1], flag=flag, modulo=int(f[5] or 0), line=int(f[6] or 0))
        if (b := _BARRIER.match(line)) is not None:
            return Instruction(b[1], "pipe_barrier", flag=(b[1], b[1], Affine()), line=int(b[2] or 0))
        i = _INSTRUCTION.match(line)
        if i is None:
            raise _TextError("not an instruction", help="PIPE MNEMONIC DST = SRC, … for DIMS {ATTRIBUTES}")
        if opcode_of(i[2]) is None or i[1] == ALL:
            raise _TextError(f"unknown instruction '{i[1]} {i[2]}'", i[2])
        dims = tuple(_dim(d) for d in i[5].split(", ")) if i[5] else ()
        names = [n for n, _ in dims]
        dst = _arguments(i[3], names)
        src = _arguments(i[4].strip(), names)
        if any(isinstance(d, Imm) for d in dst):
            raise _TextError("a literal cannot be written", i[3])
        fields = _attributes(i[6]) if i[6] else {}
        # A drain that multiplies or adds takes an operand for it.
        extra = sum(form in ("scale", "shift") for form in fields.get("scale", ()))
        _arity(i[2], len(dst), len(src) - extra)
        return Instruction(i[1], i[2], dims, tuple(dst), tuple(src), **fields)  # type: ignore[arg-type]


def _in_scope(i: Instruction, loops: set[str]) -> None:
    """Addresses and flags count in loop variables, bounds and values in the instruction's dims as well."""
    outer = [f for r in (*i.dst, *i.sources) for f in (r.base, r.select)]
    outer += [f for f in (i.init, i.flag[2] if i.flag else None) if f is not None]
    inner = [b.form for b in i.bounds] + ([i.form] if i.form is not None else [])
    known = loops | {name for name, _ in i.dims}
    unknown = {v for f in outer for v in f.names - loops} | {v for f in inner for v in f.names - known}
    if unknown:
        name = min(unknown)
        raise _TextError(
            f"'{name}' is no loop variable here", name, "loops around it: " + ", ".join(sorted(loops))
        )


def _arity(mnemonic: str, destinations: int, sources: int) -> None:
    declared = OPCODES.get(opcode_of(mnemonic) or "", OPCODES["copy_in.copy"])
    if (destinations, sources) != (declared.destinations, declared.sources):
        wanted = f"{declared.destinations} destination(s) and {declared.sources} source(s)"
        raise _TextError(f"'{mnemonic}' has {wanted}, found {destinations} and {sources}", mnemonic)


def _dim(text: str) -> tuple[str, int]:
    match = _DIM.match(text)
    if match is None or int(match[2]) < 1:
        raise _TextError(f"bad dimension '{text}'", text, "NAME<EXTENT with a positive extent")
    return match[1], int(match[2])


def _arguments(text: str, names: list[str]) -> list[Argument]:
    found: list[Argument] = []
    at = 0
    while at < len(text):
        if (region := _REGION.match(text, at)) is not None:
            found.append(_region(region, names))
            at = region.end()
        elif (literal := _NUMBER.match(text, at)) is not None:
            found.append(Imm(_number(literal[0])))
            at = literal.end()
        else:
            raise _TextError("bad operand", text[at:], "DTYPE@SPACE[ADDRESS | DIM:STRIDE, …], or a number")
        if at < len(text):
            if not text.startswith(", ", at):
                raise _TextError("expected ', ' between operands", text[at:])
            at += 2
    return found


def _region(m: re.Match[str], names: list[str]) -> Region:
    if m[1] not in list(DType):
        raise _TextError(f"unknown dtype '{m[1]}'", m[1], "one of " + ", ".join(DType))
    strides = [0] * len(names)
    for item in m[8].split(", ") if m[8] else ():
        s = _STRIDE.match(item)
        if s is None or s[1] not in names:
            raise _TextError(f"bad stride '{item}'", item, "DIM:BYTES for a dimension of this instruction")
        strides[names.index(s[1])] = int(s[2])
    table = tuple(int(n) for n in m[4].split(",")) if m[4] else ()
    if table and len(table) != int(m[6]):
        raise _TextError(f"{len(table)} addresses are selected mod {m[6]}", m[4])
    if not m[7] and not table:
        raise _TextError("an operand needs an address", m[0])
    select = _affine(m[5]) if table else Affine()
    return Region(DType(m[1]), m[2], _affine(m[7] or "0"), tuple(strides), m[3] or "", table, select)


def _number(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        value = float(text)
        return math.nan if math.isnan(value) else value


def _bound(text: str) -> Bound:
    form, less, extent = text.rpartition(" < ")
    if not less or not extent.isdigit():
        raise _TextError(f"bad bound '{text}'", text, "FORM < EXTENT")
    return Bound(_affine(form), int(extent))


def _attributes(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for item in text.split(", "):
        key, equals, raw = item.partition("=")
        if not equals:
            raise _TextError(f"bad attribute '{item}'", item, "KEY=VALUE")
        if key == "inside":
            fields["bounds"] = tuple(_bound(b) for b in raw.split(" & "))
        elif key == "fill" and _NUMBER.fullmatch(raw):
            fields[key] = _number(raw)
        elif key in ("init", "form"):
            fields[key] = _affine(raw)
        elif key == "scale":
            fields[key] = tuple(raw.split("+"))
        elif key == "window" and (sizes := _WINDOW.fullmatch(raw)) is not None:
            fields[key] = Window(*map(int, sizes.groups()))
        elif key == "line" and raw.isdigit():
            fields[key] = int(raw)
        else:
            keys = "keys: inside, fill, init, form, scale, window, line"
            raise _TextError(f"bad attribute '{item}'", item, keys)
    return fields
