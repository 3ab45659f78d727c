"""The dependences that are kept imply those that are left out, and their number grows with the body."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from opc.program.dependence import Dep, Dependences, touches
from opc.program.ir import Loop, Program, Stmt
from opc.program.nearest import nearest
from opc.program.rewrite import substitute
from opc.program.text import parse_program
from tests.passes.program.programs import ASCEND, programs

TILES = """program v1 tiles machine ascend910 {
  buffer x: f32[COUNT,64]@gm input
  buffer y: f32[COUNT,64]@gm output
  buffer w: f32[64]@gm input
  buffer a: f32[64]@ub local slots 2
  buffer b: f32[64]@ub local slots 2
  buffer c: f32[64]@ub local
  parallel core < 1 {
    copy_in.copy c[j] = w[j] for j<64
    loop i < COUNT {
      copy_in.copy a{i}[j] = x[i, j] for j<64
      vector.add b{i}[j] = a{i}[j], c[j] for j<32
      vector.add b{i}[j + 32] = a{i}[j + 32], c[j + 32] for j<32
      copy_out.copy y[i, j] = b{i}[j] for j<64
    }
  }
}
"""


def closure(count: int, deps: list[Dep]) -> list[int]:
    """Per node the set of nodes that must come before it, as bits."""
    before = [0] * count
    for target in range(count):
        for d in deps:
            if d.target == target:
                before[target] |= before[d.source] | 1 << d.source
    return before


def bodies(
    body: tuple[Stmt, ...], around: tuple[Loop, ...]
) -> list[tuple[tuple[Stmt, ...], tuple[Loop, ...]]]:
    found = [(body, around)]
    for s in body:
        if isinstance(s, Loop):
            found += bodies(s.body, (*around, s))
    return found


@settings(max_examples=80, deadline=None)
@given(programs())
def test_the_closure_is_that_of_all_dependences(program: Program) -> None:
    known = Dependences(program, ASCEND)
    for body, loops in bodies(program.body, ()):
        nodes = [touches(s) for s in body]
        everything = known.between(nodes, loops, 0)
        kept = nearest(known, nodes, loops)
        pairs = {(d.source, d.target) for d in everything}
        assert {(d.source, d.target) for d in kept} <= pairs
        assert closure(len(nodes), kept) == closure(len(nodes), everything)


def unrolled(count: int) -> tuple[Program, tuple[Stmt, ...], tuple[Loop, ...]]:
    program = parse_program(TILES.replace("COUNT", str(count)))
    core = program.body[0]
    assert isinstance(core, Loop)
    *first, loop = core.body
    assert isinstance(loop, Loop)
    body = (*first, *(substitute(s, {"i": i}) for i in range(count) for s in loop.body))
    return program, body, (replace(core, body=body),)


def test_the_number_grows_with_the_body() -> None:
    counts = []
    for count in (50, 100, 200):
        program, body, loops = unrolled(count)
        known = Dependences(program, ASCEND)
        nodes = [touches(s) for s in body]
        kept = nearest(known, nodes, loops)
        counts.append(len(kept))
        if count == 50:
            everything = known.between(nodes, loops, 0)
            assert closure(len(nodes), kept) == closure(len(nodes), everything)
            assert len(everything) > 4 * len(kept)
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])
