"""What one compilation for one machine produced, and how its passes are run and replayed."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opc.errors import IRError, OpcError, PassError, fail
from opc.files import write_atomic
from opc.machine import load, names
from opc.machine.model import ROLES, Machine
from opc.pipeline import STRICT, Context, Pass, Pipeline, Step
from opc.program.ir import Module, Program
from opc.program.memo import Memo
from opc.tensor.ir import Function
from opc.tensor.saved import Half

if TYPE_CHECKING:
    from opc.program.reorder import Body
    from opc.tensor.bound import Array, Bounded

After = Callable[[Step], None]


@dataclass(frozen=True)
class Build:
    """A kernel lowered for one machine: as written, after the tensor passes, tiled, and in final order."""

    machine: Machine
    source: Function
    function: Function
    tiled: Module
    module: Module
    steps: tuple[Step, ...]
    numerics: str = STRICT
    plans: str = ""  # of the tile pass; empty: the cost model's choice
    half: Half | None = None  # which kernel of a pair it is

    def before(self, name: str) -> Module:
        """The module as program pass ``name`` got it."""
        place = next(n for n, step in enumerate(self.steps) if step.name == name)
        found: Module = self.steps[place - 1].ir
        return found

    def bodies(self) -> list[Body]:
        """Every body that ``list-schedule`` ordered, as a problem with the given and the chosen order."""
        from opc.program.reorder import reorder

        programs = self.before("list-schedule").programs
        return [body for p in programs for body in reorder(p, self.machine).bodies]

    def loops(self) -> list[Body]:
        """The sequential loops that ``pipeline`` found."""
        from opc.program.reorder import loops

        return [loop for p in self.before("pipeline").programs for loop in loops(p, self.machine)]

    def oracle(self, arrays: Mapping[str, Array]) -> dict[str, Bounded]:
        """What a call on ``arrays`` must give: values of the source, within the bound that its numerics state."""
        from opc.tensor.interpret import oracle, oracle_under

        if self.numerics == STRICT:
            return oracle(self.source, arrays)
        return oracle_under(self.source, self.function, arrays)


def text_of(ir: Any) -> str:
    """Canonical text of a tensor function, a program or a module."""
    if isinstance(ir, Function):
        from opc.tensor.text import print_function

        return print_function(ir)
    from opc.program.text import print_module, print_program

    return print_program(ir) if isinstance(ir, Program) else print_module(ir)


def parse_ir(text: str, file: str) -> Any:
    """Read either IR: a function if the first word is ``func``, else a module."""
    first = next(
        (line.split() for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"), [""]
    )
    if first[0] == "func":
        from opc.tensor.text import parse_function

        return parse_function(text, file)
    from opc.program.text import parse_module

    return parse_module(text, file)


# How far a program has come after a pass; the passes between keep the level. See opc.program.verify.
_LEVELS = {"tile": "tiled", "assign-spaces": "legal", "expand-slots": "expanded"}


def verify(ir: Any, machine: Machine, level: str = "tiled", memos: Mapping[int, Memo] | None = None) -> None:
    """Raise IRError with every broken invariant of a function, program or module.

    ``memos``: what is known of programs, by their number in the module.
    """
    if isinstance(ir, Function):
        from opc.tensor.verify import verify as check_function

        check_function(ir)
        return
    from opc.program.verify import verify as check_program

    for number, program in enumerate(ir.programs if isinstance(ir, Module) else (ir,)):
        # Between tile and assign-spaces buffers are in roles, which only the machine maps to spaces.
        in_roles = any(b.space not in machine.spaces and b.space in ROLES for b in program.buffers)
        memo = None if memos is None or in_roles else memos[number]
        check_program(program, None if in_roles else machine, level, memo)


def _accepts(p: Pass, ir: Any, machine: Machine) -> None:
    """Refuse what the user alone can mend: IR of another level, or not yet placed in a machine's spaces.

    Raises PassError E0706 or IRError E0560.
    """
    takes = Function if p.level == "tensor" or p.name == "tile" else (Program, Module)
    right = isinstance(ir, takes)
    if not right:
        level, given = ("tensor", "program") if takes is Function else ("program", "tensor")
        raise fail(PassError, "E0706", f"pass '{p.name}' works on {level} IR, this is {given} IR")
    if p.level != "program":
        return
    for program in ir.programs if isinstance(ir, Module) else (ir,):
        for b in program.buffers:
            if b.space not in machine.spaces:
                message = f"buffer '{b.name}' is in space '{b.space}', which {machine.name} does not have"
                raise fail(IRError, "E0560", message, help="run assign-spaces first")


def run_passes(
    ir: Any,
    passes: Sequence[Pass],
    machine: Machine,
    after: After | None = None,
    dump: Path | None = None,
    numerics: str = STRICT,
) -> tuple[Any, list[Step]]:
    """Run ``passes`` on ``ir``, verified after each; a pass that breaks leaves its input in ``dump``.

    The exception then carries a note with the one-line command that replays the failure.
    """
    done: list[Step] = []
    level = "tiled"
    context = Context(machine, numerics)
    memos = defaultdict[int, Memo](Memo)
    for p in passes:
        level = _LEVELS.get(p.name, level)
        _accepts(p, ir, machine)
        check = partial(verify, machine=machine, level=level, memos=memos)
        try:
            ir, steps = Pipeline((p,), check).run(ir, context, after)
        except OpcError as problem:
            if not isinstance(problem, IRError):
                raise  # the kernel is at fault, not the pass
            raise _blame(problem, ir, p, context, dump) from problem
        except Exception as problem:
            raise _blame(problem, ir, p, context, dump) from problem
        done += steps
    return ir, done


class PassFailedError(Exception):
    """A pass raised, or produced IR that breaks an invariant: a bug in opc, with its replay command."""


def _blame(
    problem: Exception, ir: Any, culprit: Pass, context: Context, dump: Path | None
) -> PassFailedError:
    failure = PassFailedError(f"pass '{culprit.name}' failed: {type(problem).__name__}: {problem}")
    if dump is None:
        import tempfile

        dump = Path(tempfile.mkdtemp(prefix="opc-"))
    where = write_atomic(dump / f"before-{culprit.name}.ir", text_of(ir))
    licence = "" if context.numerics == STRICT else f" --numerics {context.numerics}"
    machine = _machine_file(context.machine, dump)
    failure.add_note(f"replay: opc opt {where} --passes '{pass_text(culprit)}' --machine {machine}{licence}")
    return failure


def _machine_file(machine: Machine, dump: Path) -> str:
    """What ``--machine`` takes for it: its name if opc ships it so, else a copy of its file beside the dump."""
    if not machine.text or (machine.name in names() and load(machine.name).text == machine.text):
        return machine.name
    return str(write_atomic(dump / "machine.toml", machine.text))


def pass_text(p: Any) -> str:
    """A pass as ``--passes`` reads it: its name, and the options that differ from their defaults."""
    options = []
    for field in dataclasses.fields(p):
        value = getattr(p, field.name)
        if value != field.default:
            options.append(f"{field.name}={str(value).lower() if isinstance(value, bool) else value}")
    name: str = p.name
    return name + (f"{{{','.join(options)}}}" if options else "")
