"""Loops whose iterations overlap: a stage per statement, and the code that runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from opc.affine import Affine
from opc.program.ir import Loop, Stmt
from opc.program.rewrite import map_instrs, substitute


def peel(loop: Loop, stages: Sequence[int], order: Sequence[int]) -> tuple[Stmt, ...]:
    """Step u runs stage s of iteration u - s; the steps in which all stages have work stay a loop."""
    depth = max(stages)

    def step(u: Affine, present: Sequence[int]) -> tuple[Stmt, ...]:
        return tuple(_staged(loop.body[j], stages[j], {loop.var: u - stages[j]}) for j in present)

    prologue = [step(Affine((), u), [j for j in order if stages[j] <= u]) for u in range(depth)]
    steady = Loop(loop.var, loop.extent - depth, step(Affine.var(loop.var) + depth, order))
    epilogue = [step(Affine((), loop.extent + u), [j for j in order if stages[j] > u]) for u in range(depth)]
    return (*(s for part in prologue for s in part), steady, *(s for part in epilogue for s in part))


def _staged(stmt: Stmt, stage: int, values: Mapping[str, Affine]) -> Stmt:
    """The statement in another iteration, its instructions marked with their stage."""
    (moved,) = map_instrs((substitute(stmt, values),), lambda i: replace(i, stage=stage))
    return moved
