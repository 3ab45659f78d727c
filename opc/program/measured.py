"""Measured instruction times, and what the cost model says about each of them.

A table has one row per measured instruction: chip, instruction, element types, size, amount, unit, cycles.
``amount`` counts bytes of a transfer or of a vector instruction's operand, products of a cube instruction.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opc.errors import Diagnostic, MachineError
from opc.machine.model import Machine, Route
from opc.program.cost import cube_cost, listed, transfer_cost, vector_cost

COLUMNS = ("chip", "instruction", "types", "size", "amount", "unit", "cycles")
# Vector instructions under the names that machine files use.
OPERATIONS = {
    "vadd": "add", "vsub": "sub", "vmul": "mul", "vdiv": "div", "vmax": "max", "vmin": "min",
    "vadds": "adds", "vmuls": "muls", "vmaxs": "maxs", "vmins": "mins", "vrelu": "relu", "vabs": "abs",
    "vrec": "reciprocal", "vsqrt": "sqrt", "vrsqrt": "rsqrt", "vexp": "exp", "vln": "log", "vmla": "fma",
    "vaxpy": "axpy", "vsel": "select", "vcmp": "compare", "vconv": "convert", "vconvdeq": "dequantise",
    "vcadd": "reduce_sum", "vcmax": "reduce_max", "vcmin": "reduce_min", "vcgadd": "reduce_groups",
    "vectordup": "fill", "vcopy": "copy",
}  # fmt: skip
_TYPES = {"fp16": "f16", "fp32": "f32", "bf16": "bf16"}
_SHOWN = 8  # bad cells reported before "and so on"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. ``types``: of the first source and of the result."""

    chip: str
    instruction: str
    types: tuple[str, str]
    size: str
    amount: float
    cycles: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Relative errors of some rows, and how many rows the model says nothing about."""

    errors: tuple[float, ...]  # sorted
    not_modelled: int

    def quantile(self, share: float) -> float:
        """The least error that at least this share of the rows does not exceed; NaN without rows."""
        if not self.errors:
            return math.nan
        return self.errors[max(0, math.ceil(share * len(self.errors)) - 1)]


def read(path: str) -> list[Row]:
    """The rows of a table. Raises MachineError E0611 to E0613, every bad cell listed."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            lines, header = list(table), table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise MachineError(
            [Diagnostic("E0611", f"cannot read the measurements '{path}': {problem}")]
        ) from None
    missing = [c for c in COLUMNS if c not in header]
    if missing:
        names = ", ".join(f"'{c}'" for c in missing)
        raise MachineError(
            [Diagnostic("E0612", f"{path}: no column {names}", help="columns: " + ",".join(COLUMNS))]
        )
    if not lines:
        raise MachineError([Diagnostic("E0611", f"{path}: no row of measurements")])
    problems: list[Diagnostic] = []
    rows = [_row(line, f"{path}:{n}", problems) for n, line in enumerate(lines, 2)]
    if problems:
        more = [Diagnostic("E0613", f"and {len(problems) - _SHOWN} more")] if len(problems) > _SHOWN else []
        raise MachineError(problems[:_SHOWN] + more)
    return rows


def _row(line: dict[str, str | None], where: str, problems: list[Diagnostic]) -> Row:
    numbers = []
    for column in ("amount", "cycles"):
        text = line[column] or ""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            problems.append(Diagnostic("E0613", f"{where}: '{column}' is {text!r}, not a positive number"))
        numbers.append(number)
    kinds = [_type(t) for t in (line["types"] or "").split()] or [""]
    chip, instruction, size = (line[c] or "" for c in ("chip", "instruction", "size"))
    return Row(chip, instruction, (kinds[0], kinds[-1]), size, numbers[0], numbers[1])


def _type(name: str) -> str:
    """The short name of an element type: int8 is i8, uint8 is u8."""
    return _TYPES.get(name) or name.replace("uint", "u").replace("int", "i")


def predict(row: Row, machine: Machine) -> float | None:
    """Cycles of the machine's clock that the model gives a row; None for what it does not know.

    One engine is measured at a time, so engines that share work count once. A transfer is timed until its
    data is there, other instructions until the next can start.
    """
    if row.instruction == "mmad":
        cost = cube_cost(cube_blocks(row, machine), machine)
        return cost.latency if row.chip in machine.measured.single else cost.occupancy
    operation = OPERATIONS.get(row.instruction)
    if operation is not None:
        model = listed(machine, operation, *row.types)
        return vector_cost(model, row.amount / machine.vector_bytes).occupancy if model else None
    route = route_of(row, machine)
    return transfer_cost(route, row.amount * route.units).latency if route is not None else None


def route_of(row: Row, machine: Machine) -> Route | None:
    """The route that a transfer measures."""
    source, _, target = row.instruction.partition("_to_")
    for route in machine.routes:
        if (route.source, route.target) == (source, target) and route.opcode_class not in ("vector", "cube"):
            return route
    return None


def cube_blocks(row: Row, machine: Machine) -> float:
    """Blocks of a matrix instruction: from its sizes m x k x n, else from its number of products."""
    m0, n0, k0 = next((s for t, s in machine.cube_shape.items() if t == row.types[0]), (16, 16, 16))
    sizes = row.size.split("x")
    if len(sizes) == 3 and all(s.isdecimal() for s in sizes):
        m, k, n = map(int, sizes)
        return math.ceil(m / m0) * math.ceil(k / k0) * math.ceil(n / n0)
    return row.amount / (m0 * n0 * k0)


def compare(rows: Iterable[Row], machine: Machine) -> Summary:
    """Relative errors of the model, in the clock of the measurements."""
    clock = (machine.measured.clock_mhz or machine.clock_mhz) / machine.clock_mhz
    errors, unknown = [], 0
    for row in rows:
        cycles = predict(row, machine)
        if cycles is None:
            unknown += 1
        else:
            errors.append(abs(cycles * clock / row.cycles - 1))
    return Summary(tuple(sorted(errors)), unknown)


def by_instruction(rows: Iterable[Row], machine: Machine) -> dict[str, Summary]:
    """A summary per instruction, chips apart, in the order of the table."""
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(f"{row.chip} {row.instruction}", []).append(row)
    return {name: compare(found, machine) for name, found in tables.items()}


def split(rows: Sequence[Row], machine: Machine) -> tuple[list[Row], list[Row]]:
    """(rows of the campaign that the figures are fitted to, all others)."""
    chip = machine.measured.chip
    return [r for r in rows if not chip or r.chip == chip], [r for r in rows if chip and r.chip != chip]
