"""The bodies of a program as scheduling problems, and the program with each of them in its best order found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from opc.machine.model import Machine
from opc.program.estimate import Estimator
from opc.program.ir import Instr, Loop, Program, Stmt, instructions
from opc.schedule.lists import schedule
from opc.schedule.problem import Problem, duration

GAIN = 0.001  # share of the time that another order must save


@dataclass(frozen=True)
class Body:
    """One body in the given order, as a problem, and the order chosen for ``iterations`` iterations of it."""

    loops: tuple[Loop, ...]  # around it, the last one is its own
    stmts: tuple[Stmt, ...]
    problem: Problem
    iterations: int
    order: Sequence[int]

    @property
    def name(self) -> str:
        """The loops around it, outermost first."""
        return "/".join(f"{loop.var}<{loop.extent}" for loop in self.loops)


@dataclass
class Reordered:
    """The program in its new order, and its bodies, inner ones first."""

    program: Program
    bodies: list[Body] = field(default_factory=list)


def reorder(program: Program, machine: Machine, gain: float = GAIN, thorough: bool = True) -> Reordered:
    """Reorder body by body, innermost first; an order stays unless another saves ``gain`` of its time.

    Machines on which one stream of instructions feeds all pipes have no bodies here.
    """
    queues = len(machine.pipes) > 1 and not machine.window
    if not queues or any(i.opcode_class == "sync" for i, _ in instructions(program.body)):
        return Reordered(program)  # one pipe runs everything in turn, and flags belong to their places
    found = Reordered(program)
    estimator = Estimator(program, machine)
    body = tuple(_inside(s, (), estimator, gain, thorough, found.bodies) for s in program.body)
    found.program = program if body == program.body else program.with_body(body)
    return found


def loops(program: Program, machine: Machine) -> list[Body]:
    """The sequential loops of a program, as problems in the given order."""
    estimator = Estimator(program, machine)
    found: list[Body] = []

    def walk(body: tuple[Stmt, ...], around: tuple[Loop, ...]) -> None:
        for s in body:
            if isinstance(s, Instr):
                continue
            inside = (*around, s)
            walk(s.body, inside)
            if not s.parallel and len(s.body) > 1:
                problem = estimator.body(s.body, inside)
                found.append(Body(inside, s.body, problem, s.extent, range(len(s.body))))

    walk(program.body, ())
    return found


def _inside(
    stmt: Stmt,
    loops: tuple[Loop, ...],
    estimator: Estimator,
    gain: float,
    thorough: bool,
    bodies: list[Body],
) -> Stmt:
    if isinstance(stmt, Instr):
        return stmt
    body = tuple(_inside(s, (*loops, stmt), estimator, gain, thorough, bodies) for s in stmt.body)
    around = (*loops, replace(stmt, body=body))
    problem = estimator.body(body, around)
    # Where a core runs several iterations of a parallel loop, a barrier keeps them apart.
    iterations = 1 if stmt.parallel else stmt.extent
    found = schedule(problem, iterations, thorough)
    given = range(len(body))
    order = found.order if found.cost < duration(problem, given, iterations) * (1 - gain) else given
    bodies.append(Body(around, body, problem, iterations, tuple(order)))
    return replace(stmt, body=tuple(body[j] for j in order))
