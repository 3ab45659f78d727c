"""Kernels for a processor that this computer lacks, executed without an operating system in an emulator of one.

    python benchmarks/bare_metal.py build FOLDER [--machine amx,avx512] [--only TEXT]
    python benchmarks/bare_metal.py check FOLDER OUTPUT

``build`` compiles every case ahead of time and links all of them, with their arguments, into ``FOLDER/image.bin``,
which a multiboot loader starts in 512 MiB or more. It turns on the processor's registers itself, answers the one
system call that kernels make (permission for the tiles), catches faults, and writes results to port 0xe9, which
emulators such as Bochs (``port_e9_hack``) copy to their standard output: ``OUTPUT``. ``check`` holds every result to
the oracle's bound.

Memory is filled with 0xcb before a kernel gets it, and arrays of every other case are aligned to their elements only.
Where the emulator's time stamp counts instructions, ``check --counts`` lists them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

import kernels_dsl  # noqa: E402
from benchmarks.problems import conv_grad  # noqa: E402
from benchmarks.problems.resnet50 import RESNET50  # noqa: E402
from opc import data, driver, machine  # noqa: E402
from opc.arrays import empty, physical  # noqa: E402
from opc.cpu import aot  # noqa: E402
from opc.cpu.header import emit_header  # noqa: E402
from opc.cpu.kernel import Unit, lower  # noqa: E402
from opc.errors import OpcError  # noqa: E402
from opc.sources import Source, Wanted  # noqa: E402
from opc.tensor.bound import check  # noqa: E402
from opc.tensor.interpret import oracle  # noqa: E402
from opc.tensor.ir import Function  # noqa: E402

HERE = Path(__file__).resolve().parent / "bare"
SEED = 0
_PIXELS = 40  # results per channel of a convolution: few, as emulators are slow
_FLAGS = (
    *("-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-ffreestanding", "-fno-pic", "-mcmodel=large"),
    *("-mno-red-zone", "-mgeneral-regs-only", "-fcf-protection=none", "-fno-stack-protector"),
)
_RECORD = re.compile(rb"@case ((?:\d+ ){9})\n")


class Case(NamedTuple):
    """A kernel with its sizes, for a machine."""

    machine: str
    kernel: str
    dtype: str
    sizes: tuple[tuple[str, int], ...] = ()
    layout: str | None = None

    @property
    def name(self) -> str:
        """Its folder."""
        sizes = "".join(f"-{n}{v}" for n, v in self.sizes)
        return f"{self.machine}-{self.kernel}-{self.dtype}{sizes}".lower()

    def source(self) -> Source:
        """The kernel as tensor IR; the backward kernel of a convolution's gradient by its name."""
        text, file = conv_grad.SOURCE, "conv_grad.k"
        if not self.kernel.endswith(".bwd"):
            text, file = kernels_dsl.source(self.kernel), f"{self.kernel}.k"
        wanted = Wanted(self.kernel, dict(self.sizes), self.dtype, self.layout)
        return driver.source(text, file, wanted, machine.load(self.machine))


def cases(machines: list[str]) -> Iterator[Case]:
    """Every shipped kernel in every floating-point type, and the convolutions of ResNet-50 with few pixels."""
    for name in machines:
        for kernel in kernels_dsl.names():
            for dtype in ("f32", "bf16", "f16", "i8"):
                yield Case(name, kernel, dtype)
        for dtype in ("bf16", "f32"):
            yield from _convolutions(name, dtype)


def _convolutions(name: str, dtype: str) -> Iterator[Case]:
    """Real channels, filters and strides; an image of seven or fourteen pixels is kept whole."""
    for conv in RESNET50.values():
        image = conv.image if conv.out**2 <= _PIXELS * 2 else 5 * conv.stride
        sizes = {**conv.sizes(1), "H": image, "W": image}
        sizes |= {"C": min(conv.channels, 512), "K": min(conv.filters, 512)}
        yield Case(name, "conv_bn_relu", dtype, tuple(sizes.items()), "nhwc")
    for layer in ("c03", "c07", "c09", "c14"):
        sizes = {**RESNET50[layer].sizes(2), "H": 9, "W": 9, "C": 64, "K": 80}
        for kernel in ("data.bwd", "weights.bwd"):
            yield Case(name, kernel, dtype, tuple(sizes.items()), "nhwc")


class Result(NamedTuple):
    """What the image wrote of a case."""

    status: int
    instructions: int
    asked: tuple[int, ...]  # the system call and its arguments
    fault: tuple[int, ...]  # the first two words that the processor pushed
    data: bytes


def spans(function: Function) -> dict[str, int]:
    """Where each result begins in what a case writes."""
    table, at, found = function.tensors(), 0, {}
    for name in function.results:
        found[name] = at
        at += -(-table[name].size * table[name].dtype.bytes // 64) * 64
    return {**found, "": at}


def driver_in_c(number: int, unit: Unit, function: Function, skewed: bool) -> str:
    """``case_N``: calls the kernel on the arguments beside it and puts its results one after the other."""
    table, places = function.tensors(), spans(function)
    given = [a.tensor.name for a in function.args]
    lines = [
        f'#include "{unit.name}.h"',
        "void begin(void), end(void);",
        "void *aligned_alloc(size_t, size_t);",
    ]
    lines += ["void *memcpy(void *, const void *, size_t);", f"char results_{number}[{places['']}];"]
    for name in given:
        skip = table[name].dtype.bytes if skewed else 0
        lines.append(f"extern char {name}_v[];")
        lines.append(
            f'__asm__(".data\\n.balign 64\\n.skip {skip}\\n{name}_v: .incbin \\"{name}\\"\\n.text");'
        )
    for name in function.results:
        if name not in given:
            skip = table[name].dtype.bytes if skewed else 0
            size = table[name].size * table[name].dtype.bytes
            lines.append(f"static _Alignas(64) char {name}_s[{size + skip}];")
            lines.append(f"#define {name}_v ({name}_s + {skip})")
    names = {aot.PACKED: "packed", aot.WORKSPACE: "workspace"}
    passed = ", ".join(names.get(n, f"(void *){n}_v") for n in aot.run_order(unit))
    parameters = [f"(void *){b.name}_v" for b in (unit.prepare.arguments if unit.prepare else ())]
    lines += [
        f"int case_{number}(void) {{",
        f"  void *packed = aligned_alloc(64, opc_{unit.name}_packed_size());",
        f"  void *workspace = aligned_alloc(64, opc_{unit.name}_workspace_size());",
        f"  int s = opc_{unit.name}_prepare({', '.join([*parameters, 'packed'])});",
        "  if (s) return s;",
        "  begin();",
        f"  s = opc_{unit.name}_run({passed});",
        "  end();",
    ]
    for name in function.results:
        size = table[name].size * table[name].dtype.bytes
        lines.append(f"  memcpy(results_{number} + {places[name]}, {name}_v, {size});")
    return "\n".join([*lines, "  return s;", "}", ""])


def _tool(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[:2000]}")


def compile_case(place: Path, number: int, case: Case) -> int:
    """One object that defines ``case_N`` and ``results_N`` and nothing else; the bytes of its results."""
    target, found = machine.load(case.machine), case.source()
    unit = lower(*driver.build(found.function, target).module.programs, target)
    place.mkdir(parents=True, exist_ok=True)
    table = found.function.tensors()
    for name, array in data.arguments(found.function, SEED, half=found.half).items():
        (place / name).write_bytes(np.ascontiguousarray(physical(array, table[name])).tobytes())
    (place / "kernel.o").write_bytes(aot.emit_object(unit))
    (place / f"{unit.name}.h").write_text(emit_header(unit, table), encoding="utf-8")
    text = driver_in_c(number, unit, found.function, number % 2 == 1)
    (place / "main.c").write_text(text, encoding="utf-8")
    _tool(place, "gcc", *_FLAGS, "-c", "main.c")
    _tool(place, "ld", "-r", "-o", "both.o", "main.o", "kernel.o")
    kept = [f"--keep-global-symbol={name}_{number}" for name in ("case", "results")]
    _tool(place, "objcopy", *kept, "both.o", "case.o")
    return spans(found.function)[""]


def build(folder: Path, wanted: list[Case]) -> int:
    """The image, and the names of its cases; what the compiler refuses in a type is left out, and said."""
    made: dict[str, int] = {}
    for case in wanted:
        try:
            made[case.name] = compile_case(folder / case.name, len(made), case)
        except OpcError as refusal:
            sys.stdout.write(f"without {case.name}: {str(refusal).splitlines()[0]}\n")
    rows = [f"  {{case_{i}, results_{i}, {size}}}," for i, size in enumerate(made.values())]
    lines = ["#include <stddef.h>", f"enum {{ CASES = {len(made)} }};"]
    lines += [f"int case_{i}(void); extern char results_{i}[];" for i in range(len(made))]
    lines += ["static const struct { int (*function)(void); const char *results; size_t size; } cases[] = {"]
    (folder / "cases.h").write_text("\n".join([*lines, *rows, "};", ""]), encoding="utf-8")
    (folder / "cases.json").write_text(json.dumps(list(made), indent=1), encoding="utf-8")
    _tool(folder, "gcc", *_FLAGS, "-I.", "-c", str(HERE / "runtime.c"), str(HERE / "start.S"))
    objects = ["start.o", "runtime.o", *(f"{name}/case.o" for name in made)]
    _tool(folder, "ld", "-T", str(HERE / "image.ld"), "-o", "image.elf", *objects)
    _tool(folder, "objcopy", "-O", "binary", "image.elf", "image.bin")
    sys.stdout.write(f"{len(made)} cases in {folder / 'image.bin'}\n")
    return 0


def results(output: bytes) -> dict[int, Result]:
    """The records of an image's output, by case."""
    found: dict[int, Result] = {}
    for match in _RECORD.finditer(output):
        number, status, count, *words, size = map(int, match[1].split())
        data = output[match.end() : match.end() + size]
        if len(data) == size:  # else the emulator was stopped
            found[number] = Result(status, count, tuple(words[:3]), tuple(words[3:]), data)
    return found


def verify(folder: Path, output: Path, wanted: list[Case], counts: bool) -> int:
    """One line per case that is wrong, and how many there are."""
    by_name = {c.name: c for c in wanted}
    names = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    found = results(output.read_bytes())
    wrong = 0
    for number, name in enumerate(names):
        problem = _problem(by_name[name], found[number]) if number in found else "no result"
        wrong += bool(problem)
        if problem or counts:
            sys.stdout.write(f"{name}: {problem or 'right'}")
            sys.stdout.write(f", {found[number].instructions:,} instructions\n" if number in found else "\n")
    sys.stdout.write(f"{len(names) - wrong} right, {wrong} wrong\n")
    return 3 if wrong else 0


def _problem(case: Case, result: Result) -> str:
    if result.status:
        return f"status {result.status}, fault {' '.join(map(hex, result.fault))}"
    source = case.source()
    expected = oracle(source.function, data.arguments(source.function, SEED, half=source.half))
    table, places = source.function.tensors(), spans(source.function)
    for name in source.function.results:
        tensor = table[name]
        given = empty(tensor)
        target = physical(given, tensor)
        raw = result.data[places[name] :][: tensor.size * tensor.dtype.bytes]
        target[...] = np.frombuffer(raw, tensor.dtype.numpy).reshape(target.shape)
        report = check(given, expected[name])
        if not report.ok:
            return f"{name}: {report}"
    return ""


def main(given: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("build", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path, nargs="?", help="what the image wrote")
    parser.add_argument("--machine", default="amx,avx512", help="machines, separated by commas")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--counts", action="store_true", help="list every case with its instructions")
    options = parser.parse_args(given)
    wanted = [c for c in dict.fromkeys(cases(options.machine.split(","))) if options.only in c.name]
    if options.command == "build":
        return build(options.folder, wanted)
    if options.output is None:
        parser.error("check needs the output")
    return verify(options.folder, options.output, wanted, options.counts)


if __name__ == "__main__":
    sys.exit(main())
