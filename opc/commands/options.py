"""Options that several subcommands share, and the work they describe."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from opc import driver
from opc.errors import MachineError, OpcError, RuntimeCallError, fail
from opc.files import read_bytes
from opc.machine.model import Machine
from opc.numerics import MIXED, NUMERICS, STRICT
from opc.sources import Wanted
from opc.tensor.ir import Function
from opc.tensor.saved import Half

if TYPE_CHECKING:
    from opc.lang import File

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One kernel of the source for one machine; ``half`` says which of a pair it is."""

    kernel: str
    machine: Machine
    function: Function
    half: Half | None = None


def add_source(parser: argparse.ArgumentParser) -> None:
    """Declare the options that select and specialise kernels."""
    parser.add_argument("file", metavar="FILE", help="a .k file, or - for standard input")
    parser.add_argument("--kernel", metavar="NAME", help="only this kernel of the file")
    parser.add_argument(
        "--set", metavar="N=8,C=128", type=sizes, action="append", default=[], help="sizes and attributes"
    )
    parser.add_argument("--dtype", metavar="T", help="element type of T: f64 f32 f16 bf16 i32 i8")
    parser.add_argument("--layout", metavar="L", help="memory order of images: nchw or nhwc")
    parser.add_argument(
        "--mixed", choices=MIXED, default="", help="compute the products of an f32 kernel in this type"
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """Declare the options that select machines."""
    parser.add_argument("--target", choices=["cpu", "npu"], help="only this target (default: both)")
    parser.add_argument("--machine", metavar="NAME|FILE.toml", help="a machine instead of the default one")
    add_numerics(parser)


def add_numerics(parser: argparse.ArgumentParser) -> None:
    """Declare the licence for rewrites that round otherwise than the source."""
    parser.add_argument(
        "--numerics", choices=NUMERICS, default=STRICT, help="what may be done to rounding (default: strict)"
    )


def sizes(text: str) -> dict[str, int | float]:
    """Read ``N=8,C=128``; raises ArgumentTypeError, which argparse reports as a usage error."""
    found: dict[str, int | float] = {}
    for item in text.split(","):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name.isidentifier():
            raise argparse.ArgumentTypeError(f"'{item}' is not NAME=VALUE")
        found[name] = _number(value)
    return found


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return value


def natural(text: str) -> int:
    """Read a whole number from 0; raises ArgumentTypeError, which argparse reports as a usage error."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0")
    return value


def chosen_sizes(options: argparse.Namespace) -> dict[str, int | float]:
    """All ``--set`` options merged, later ones first."""
    return {name: value for group in options.set for name, value in group.items()}


def machines(options: argparse.Namespace) -> list[Machine]:
    """The machines a command line asks for. Raises RuntimeCallError (E0926 if target and machine disagree)."""
    if options.machine is None:
        return [driver.target_machine(t) for t in ([options.target] if options.target else ["cpu", "npu"])]
    machine = driver.target_machine("", options.machine)
    if options.target and machine.kind != options.target:
        message = f"machine '{machine.name}' is of kind {machine.kind}, not {options.target}"
        raise fail(
            RuntimeCallError, "E0926", message, help=f"leave out --target, or say --target {machine.kind}"
        )
    return [machine]


def npu_of(options: argparse.Namespace) -> Machine:
    """The machine to simulate. Raises RuntimeCallError E0933 for one that has no simulator."""
    machine = driver.target_machine("npu", options.machine)
    if machine.kind == "npu":
        return machine
    message = f"machine '{machine.name}' is of kind {machine.kind}: nothing simulates it"
    raise fail(RuntimeCallError, "E0933", message, help=f"give --machine an NPU, such as {driver.NPU}")


def source(options: argparse.Namespace) -> File:
    """The input, parsed. Raises LanguageError with every error found."""
    from opc.lang import check

    return check(read_bytes(options.file), "<stdin>" if options.file == "-" else options.file)


def jobs(options: argparse.Namespace, file: File) -> Iterator[Job]:
    """The chosen kernel, or every one with an example, for every machine."""
    from opc.lang import kernel_names

    for kernel in kernel_names(file, only=options.kernel):
        for machine in machines(options):
            wanted = Wanted(kernel, chosen_sizes(options), options.dtype, options.layout, mixed=options.mixed)
            yield Job(kernel, machine, *driver.source(file, file.name, wanted, machine))


@dataclass
class Refusals:
    """Machines that cannot hold a kernel: reported at the end, fatal only if nothing else was built."""

    required: bool
    as_json: bool = False
    errors: list[OpcError] = field(default_factory=list)
    built: int = 0

    @staticmethod
    def of(options: argparse.Namespace) -> Refusals:
        return Refusals(required=bool(options.target or options.machine), as_json=options.json)

    def attempt(self, work: Callable[[], T]) -> T | None:
        """The result of ``work``, or None if the machine refused."""
        try:
            result = work()
        except MachineError as error:
            if self.required:
                raise
            self.errors.append(error)
            return None
        self.built += 1
        return result

    def close(self) -> None:
        """Print the refusals. Raises the first if nothing was built."""
        if self.errors and not self.built:
            raise self.errors[0]
        if self.errors and self.as_json:
            found = [d.as_json() for error in self.errors for d in error.diagnostics]
            sys.stderr.write(json.dumps({"diagnostics": found}, indent=2) + "\n")
            return
        for text in dict.fromkeys(map(str, self.errors)):  # kernels that meet one limit say so once
            sys.stderr.write(text + "\n")
