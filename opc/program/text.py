"""Canonical text of program IR. ``print_program(parse_program(t)) == t`` for canonical ``t``.

    program v1 axpy machine avx2 {
      buffer x: f32[64]@gm input
      buffer t: f32[8]@reg local slots 2 at 0, 32
      parallel i < 8 {
        copy_in.copy t{i}[j] = x[i*8 + j] for j<8
        vector.mul t{i}[j] = t{i}[j], 2.0 for j<8 {line=3}
      }
    }

A slot is 0 and a buffer has one unless written otherwise.
"""

from __future__ import annotations

import math
import re

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import IRError, OpcError, Span, fail
from opc.program.ir import BUFFER_KINDS, Access, Buffer, Imm, Instr, Loop, Module, Operand, Program, Stmt
from opc.program.opcodes import OPCODES

VERSION = "v1"
MAX_DEPTH = 64  # loops inside loops; everything that walks a program recurses


def print_program(program: Program) -> str:
    """The canonical text, ending in a newline."""
    lines = [f"program {VERSION} {program.name} machine {program.machine} {{"]
    lines += [f"  {_buffer(b)}" for b in program.buffers]
    _body(program.body, 1, lines)
    lines.append("}")
    return "\n".join(lines) + "\n"


def print_stmt(stmt: Stmt) -> str:
    """Text of one statement, for messages."""
    lines: list[str] = []
    _body((stmt,), 0, lines)
    return "\n".join(lines)


def _buffer(b: Buffer) -> str:
    text = f"buffer {b.name}: {b.dtype}[{','.join(map(str, b.shape))}]@{b.space} {b.kind}"
    if b.slots != 1:
        text += f" slots {b.slots}"
    if b.lender:
        text += f" in {b.lender}"
    if b.offsets:
        text += " at " + ", ".join(map(str, b.offsets))
    return text


def _body(body: tuple[Stmt, ...], depth: int, lines: list[str]) -> None:
    pad = "  " * depth
    for stmt in body:
        if isinstance(stmt, Instr):
            lines.append(pad + _instr(stmt))
            continue
        lines.append(f"{pad}{'parallel' if stmt.parallel else 'loop'} {stmt.var} < {stmt.extent} {{")
        _body(stmt.body, depth + 1, lines)
        lines.append(pad + "}")


def _instr(i: Instr) -> str:
    text = i.opcode
    if i.flag is not None:
        source, target, number = i.flag
        text += f" {source}" if i.op == "barrier" else f" {source} -> {target} id {number}"
    if i.dst:
        text += " " + ", ".join(map(_operand, i.dst)) + " ="
    if i.src:
        text += " " + ", ".join(map(_operand, i.src))
    if i.dims:
        text += " for " + ", ".join(f"{n}<{e}" for n, e in i.dims)
    attributes = _attributes(i)
    return text + (f" {{{attributes}}}" if attributes else "")


def _attributes(i: Instr) -> str:
    items = []
    if i.init is not None:
        items.append(f"init={i.init}")
    if i.fill is not None:
        items.append(f"fill={number(i.fill)}")
    if i.form is not None:
        items.append(f"form={i.form}")
    if i.scale:
        items.append(f"scale={'+'.join(i.scale)}")
    if i.hint:
        items.append(f"hint={i.hint}")
    if i.stage is not None:
        items.append(f"stage={i.stage}")
    if i.chain:
        items.append(f"chain={i.chain}")
    if i.line:
        items.append(f"line={i.line}")
    return ", ".join(items)


def number(value: float | int) -> str:
    """A literal that reads back to the same value and type."""
    return repr(value) if isinstance(value, int) else repr(float(value))


def _operand(o: Operand) -> str:
    if isinstance(o, Imm):
        return number(o.value)
    slot = "" if o.slot == Affine() else f"{{{o.slot}}}"
    return f"{o.buffer}{slot}[{', '.join(map(str, o.index))}]"


_NAME = r"[A-Za-z_][A-Za-z0-9_.]*"
_HEADER = re.compile(rf"program (\S+) ({_NAME}) machine (\S+) \{{$")
_INT = r"\d{1,19}"
_BUFFER = re.compile(
    rf"buffer ({_NAME}): (\w+)\[((?:{_INT},)*(?:{_INT})?)\]@(\w+) (\w+)"
    rf"(?: slots ({_INT}))?(?: in ({_NAME}))?(?: at ({_INT}(?:, {_INT})*))?$"
)
_LOOP = re.compile(rf"(loop|parallel) ({_NAME}) < ({_INT}) \{{$")
_FLAG = re.compile(r" (\w+) -> (\w+) id ([^{]+?)(?= \{|$)")
_BARRIER = re.compile(r" (\w+)")
_ACCESS = re.compile(rf"({_NAME})(?:\{{([^}}]*)\}})?\[([^\]]*)\]")
_NUMBER = re.compile(r"-?(?:inf|nan|\d+(?:\.\d*)?(?:e[-+]?\d+)?)")
_DIM = re.compile(rf"({_NAME})<(\d+)$")


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.lines = text.split("\n")
        self.text, self.file, self.at = text, file, 0

    def error(self, message: str, help: str = "") -> OpcError:
        span = Span(self.file, self.at, 1, max(1, len(self.lines[self.at - 1]) if self.at else 1))
        shown = message if len(message) <= 200 else message[:197] + "…"
        error = fail(IRError, "E0401", shown, help=help, span=span)
        return IRError(error.diagnostics, self.text)

    def next(self) -> str | None:
        while self.at < len(self.lines):
            line = self.lines[self.at].strip()
            self.at += 1
            if line and not line.startswith("#"):
                return line
        return None

    def peek(self) -> bool:
        """Whether another line follows; the position stays."""
        at = self.at
        found = self.next() is not None
        self.at = at
        return found


def print_module(module: Module) -> str:
    """Both programs, prepare first; an empty prepare is left out."""
    shown = module.programs if module.prepare.body or module.prepare.buffers else (module.run,)
    return "".join(print_program(p) for p in shown)


def parse_module(text: str, file: str = "<program>") -> Module:
    """Read what ``print_module`` prints; a single program gets an empty prepare."""
    reader = _Reader(text, file)
    found = [_read_program(reader)]
    if reader.peek():
        found.append(_read_program(reader))
    if reader.peek():
        raise reader.error("text after the end of the module")
    run = found[-1]
    prepare = found[0] if len(found) == 2 else Program(run.name, run.machine, (), ())
    return Module(prepare, run)


def parse_program(text: str, file: str = "<program>") -> Program:
    """Read program text. Raises IRError (E0401, E0402) at the offending line."""
    reader = _Reader(text, file)
    program = _read_program(reader)
    if reader.peek():
        raise reader.error("text after the end of the program")
    return program


def _read_program(reader: _Reader) -> Program:
    header = _HEADER.match(reader.next() or "")
    if header is None:
        raise reader.error("expected 'program v1 NAME machine NAME {'")
    if header[1] != VERSION:
        raise fail(IRError, "E0402", f"program text is version {header[1]}, this opc reads {VERSION}")
    buffers: list[Buffer] = []
    stack: list[tuple[tuple[str, int, bool] | None, list[Stmt]]] = [(None, [])]
    while (line := reader.next()) is not None:
        if line == "}":
            loop, body = stack.pop()
            if loop is None:
                return Program(header[2], header[3], tuple(buffers), tuple(body))
            stack[-1][1].append(Loop(loop[0], loop[1], tuple(body), loop[2]))
        elif line.startswith("buffer "):
            buffers.append(_read_buffer(reader, line))
        elif (match := _LOOP.match(line)) is not None:
            if len(stack) > MAX_DEPTH:
                raise reader.error(f"loops are nested more than {MAX_DEPTH} deep")
            stack.append(((match[2], int(match[3]), match[1] == "parallel"), []))
        else:
            stack[-1][1].append(_read_instr(reader, line))
    raise reader.error("the program is not closed", help="add the missing '}'")


def _read_buffer(reader: _Reader, line: str) -> Buffer:
    match = _BUFFER.match(line)
    if match is None or match[5] not in BUFFER_KINDS or match[2] not in list(DType):
        raise reader.error(
            "bad buffer", help="buffer NAME: DTYPE[SHAPE]@SPACE KIND [slots N] [in LENDER] [at OFFSETS]"
        )
    shape = tuple(int(n) for n in match[3].split(",") if n)
    offsets = tuple(int(n) for n in match[8].split(",")) if match[8] else ()
    return Buffer(
        match[1], DType(match[2]), shape, match[4], match[5], int(match[6] or 1), offsets, match[7] or ""
    )


def _read_instr(reader: _Reader, line: str) -> Instr:
    opcode, _, rest = line.partition(" ")
    rest = " " + rest if rest else ""
    if opcode not in OPCODES:
        raise reader.error(f"unknown opcode '{opcode}'", help="opcodes: opc.program.opcodes")
    try:
        return _operands(opcode, rest)
    except (ValueError, KeyError) as problem:
        raise reader.error(f"bad instruction: {problem}") from None


def _operands(opcode: str, rest: str) -> Instr:
    fields: dict[str, object] = {}
    if opcode.startswith("sync."):
        match = (_BARRIER if opcode == "sync.barrier" else _FLAG).match(rest)
        if match is None:
            raise ValueError("sync wants 'A -> B id N' or a pipe")
        zero = opcode == "sync.barrier"
        target, number = (match[1], Affine()) if zero else (match[2], Affine.parse(match[3]))
        fields["flag"] = (match[1], target, number)
        rest = rest[match.end() :]
    body, brace, attributes = rest.partition(" {")
    # A slot's brace follows its name directly, so " {" only opens the attributes.
    if brace:
        if not attributes.endswith("}"):
            raise ValueError("attributes are not closed")
        fields.update(_read_attributes(attributes[:-1]))
    body, has_dims, dims = body.partition(" for ")
    if has_dims:
        fields["dims"] = tuple(_read_dim(d.strip()) for d in dims.split(","))
    left, equals, right = body.partition(" =")
    if equals:
        fields["dst"] = tuple(_read_operands(left))
        fields["src"] = tuple(_read_operands(right))
    elif OPCODES[opcode].sources and not OPCODES[opcode].destinations:
        fields["src"] = tuple(_read_operands(left))
    elif left.strip():
        raise ValueError(f"unexpected '{left.strip()}'")
    return Instr(opcode, **fields)  # type: ignore[arg-type]


def _read_dim(text: str) -> tuple[str, int]:
    match = _DIM.match(text)
    if match is None:
        raise ValueError(f"bad dimension '{text}'")
    return match[1], int(match[2])


def _read_operands(text: str) -> list[Operand]:
    found: list[Operand] = []
    position = 0
    text = text.strip()
    while position < len(text):
        if (access := _ACCESS.match(text, position)) is not None:
            index = tuple(Affine.parse(f) for f in access[3].split(",")) if access[3].strip() else ()
            slot = Affine.parse(access[2]) if access[2] is not None else Affine()
            found.append(Access(access[1], index, slot))
            position = access.end()
        elif (literal := _NUMBER.match(text, position)) is not None:
            found.append(Imm(_read_number(literal[0])))
            position = literal.end()
        else:
            raise ValueError(f"bad operand at '{text[position : position + 20]}'")
        if position < len(text):
            if text[position] != ",":
                raise ValueError(f"expected ',' at '{text[position : position + 20]}'")
            position += 1
            while position < len(text) and text[position] == " ":
                position += 1
    return found


def _read_number(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        value = float(text)
        return value if not math.isnan(value) else math.nan


def _read_attributes(text: str) -> dict[str, object]:
    fields: dict[str, object] = {}
    for item in text.split(", "):
        key, equals, raw = item.partition("=")
        if not equals:
            raise ValueError(f"bad attribute '{item}'")
        if key in ("init", "form"):
            fields[key] = Affine.parse(raw)
        elif key in ("stage", "chain", "line"):
            fields[key] = int(raw)
        elif key == "fill":
            fields[key] = _read_number(raw)
        elif key == "scale":
            fields[key] = tuple(raw.split("+"))
        elif key == "hint":
            fields[key] = raw
        else:
            raise ValueError(f"unknown attribute '{key}'")
    return fields
