"""Options that several subcommands share, and the work they describe."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

from opc import driver
from opc.errors import MachineError, OpcError, RuntimeCallError, fail
from opc.files import read_bytes
from opc.machine.model import Machine
from opc.tensor.ir import Function


@dataclass(frozen=True)
class Job:
    """One kernel of the source for one machine."""

    kernel: str
    machine: Machine
    function: Function


def add_source(parser: argparse.ArgumentParser) -> None:
    """Declare the options that select and specialise kernels."""
    parser.add_argument("file", metavar="FILE", help="a .k file, or - for standard input")
    parser.add_argument("--kernel", metavar="NAME", help="only this kernel of the file")
    parser.add_argument(
        "--set", metavar="N=8,C=128", type=sizes, action="append", default=[], help="sizes and attributes"
    )
    parser.add_argument("--dtype", metavar="T", help="element type of T: f64 f32 f16 bf16 i32 i8")
    parser.add_argument("--layout", metavar="L", help="memory order of images: nchw or nhwc")


def add_target(parser: argparse.ArgumentParser) -> None:
    """Declare the options that select machines."""
    parser.add_argument("--target", choices=["cpu", "npu"], help="only this target (default: both)")
    parser.add_argument("--machine", metavar="NAME|FILE.toml", help="a machine instead of the default one")


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


def chosen_sizes(options: argparse.Namespace) -> dict[str, int | float]:
    """All ``--set`` options merged, later ones first."""
    return {name: value for group in options.set for name, value in group.items()}


def machines(options: argparse.Namespace) -> list[Machine]:
    """The machines a command line asks for. Raises MachineError (E0605 if target and machine disagree)."""
    if options.machine is None:
        return [driver.target_machine(t) for t in ([options.target] if options.target else ["cpu", "npu"])]
    machine = driver.target_machine("", options.machine)
    if options.target and machine.kind != options.target:
        message = f"machine '{machine.name}' is of kind {machine.kind}, not {options.target}"
        raise fail(MachineError, "E0605", message, help=f"leave out --target, or say --target {machine.kind}")
    return [machine]


def source(options: argparse.Namespace) -> tuple[bytes, str]:
    """Bytes and display name of the input."""
    return read_bytes(options.file), "<stdin>" if options.file == "-" else options.file


def kernels(options: argparse.Namespace, text: bytes, file: str) -> list[str]:
    """Names of the kernels to work on."""
    from opc.lang import kernel_names

    names = kernel_names(text, file)
    if options.kernel is None:
        return names
    if options.kernel not in names:
        known = ", ".join(names) or "none"
        raise fail(RuntimeCallError, "E0926", f"'{file}' has no kernel '{options.kernel}'", help=f"its kernels: {known}")
    return [options.kernel]


def jobs(options: argparse.Namespace, text: bytes, file: str) -> Iterator[Job | OpcError]:
    """Every kernel for every machine; a machine that cannot hold the dtype yields its diagnostic instead."""
    for kernel in kernels(options, text, file):
        for machine in machines(options):
            try:
                function = driver.specialise(
                    text, file, machine, kernel, chosen_sizes(options), options.dtype, options.layout
                )
            except MachineError as error:
                yield error
                continue
            yield Job(kernel, machine, function)
