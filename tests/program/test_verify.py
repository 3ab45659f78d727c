"""Every numbered invariant of program IR has a program that breaks it, and only it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings

from opc import machine as machines
from opc.errors import IRError
from opc.program.ir import Program, instructions
from opc.program.memo import Memo
from opc.program.rewrite import map_instrs
from opc.program.text import parse_program, print_program
from opc.program.verify import problems, verify
from tests.strategies.program import programs

SAMPLES = sorted((Path(__file__).parent.parent / "samples").glob("*.program"))
GOOD = """program v1 good machine ascend910 {
  buffer x: f16[8,64]@gm input
  buffer y: f16[8,64]@gm output
  buffer t: f16[64]@ub local
  buffer s: f32[4]@ub local
  parallel core < 4 {
    loop i < 2 {
      copy_in.copy t[j] = x[core*2 + i, j] for j<64
      vector.reduce_sum s[q] = t[q*16 + j] for q<4, j<16 {init=i, chain=32}
      vector.mul t[j] = t[j], 2.0 for j<64
      copy_out.copy y[core*2 + i, j] = t[j] for j<64
    }
  }
}
"""
CUBE = """program v1 cube machine ascend910 {
  buffer x: f16[16,16]@gm input
  buffer y: f32[16,16]@gm output
  buffer s: f16[16,16]@l1 local
  buffer a: f16[16,16]@l0a local
  buffer b: f16[16,16]@l0b local
  buffer c: f32[16,16]@l0c local
  buffer t: f32[16,16]@ub local
  copy_in.copy s[m, k] = x[m, k] for m<16, k<16
  copy_in.copy a[m, k] = s[m, k] for m<16, k<16
  copy_in.copy b[m, k] = s[m, k] for m<16, k<16
  cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<16 {init=0, chain=16}
  scale.drain t[m, n] = c[m, n] for m<16, n<16 {scale=relu}
  copy_out.copy y[m, n] = t[m, n] for m<16, n<16
}
"""
LENT = """program v1 lent machine ascend910 {
  buffer x: f16[4,64]@gm input
  buffer y: f16[8,64]@gm output
  buffer u: f16[4,64]@gm workspace in y at 0
  buffer v: f16[4,32]@gm workspace in y at 512
  buffer w: f16[4,64]@gm workspace
  buffer t: f16[64]@ub local
  parallel i < 4 {
    copy_in.copy t[j] = x[i, j] for j<64
    copy_out.copy u[i, j] = t[j] for j<64
    copy_out.copy v[i, j] = t[j] for j<32
  }
  parallel i < 4 {
    copy_in.copy t[j] = u[i, j] for j<64
    copy_in.copy t[j] = v[i, j] for j<32
    copy_out.copy w[i, j] = t[j] for j<64
  }
  parallel i < 4 {
    copy_in.copy t[j] = w[i, j] for j<64
    copy_out.copy y[i, j] = t[j] for j<64
    copy_out.copy y[i + 4, j] = t[j] for j<64
  }
}
"""
SCALED = """program v1 scaled machine ascend910 {
  buffer x: i8[32,32]@gm input
  buffer g: f32[16]@gm input
  buffer y: i8[16,16]@gm output
  buffer s: i8[32,32]@l1 local
  buffer a: i8[16,32]@l0a local
  buffer b: i8[32,16]@l0b local
  buffer c: i32[16,16]@l0c local
  buffer f: f32[16]@ub local
  buffer t: i8[16,16]@ub local
  copy_in.copy s[m, k] = x[m, k] for m<32, k<32
  copy_in.copy f[n] = g[n] for n<16
  copy_in.copy a[m, k] = s[m, k] for m<16, k<32
  copy_in.copy b[k, n] = s[k, n] for k<32, n<16
  cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {init=0, chain=32}
  scale.drain t[m, n] = c[m, n], f[n] for m<16, n<16 {scale=scale+relu+convert}
  copy_out.copy y[m, n] = t[m, n] for m<16, n<16
}
"""
TS = "t: f16[64]@ub local\n  buffer s: f32[4]@ub local"
VECTOR = "vector.mul t[j] = t[j], 2.0 for j<64"
BROKEN = [
    ("E0550", GOOD, "buffer s: f32[4]@ub local", "buffer t: f32[4]@ub local", "called 't'"),
    ("E0550", GOOD, "loop i < 2", "loop core < 2", "'core' is already in use"),
    ("E0550", GOOD, "2.0 for j<64", "2.0 for j<64, j<2", "'j' is already in use"),
    ("E0550", GOOD, "= t[j], 2.0 for j<64", "= t[j], 2.0 for i<64", "'i' is already in use"),
    ("E0551", GOOD, "buffer s: f32[4]@ub local", "buffer s: f32[0]@ub local", "below 1"),
    ("E0551", GOOD, "input", "input slots 2", "cannot have 2 slots"),
    ("E0553", GOOD, VECTOR, VECTOR + " {hint=stream}", "has no hint 'stream'"),
    ("E0568", CUBE, "  scale.drain t", "  parallel p < 1 {\n  }\n  scale.drain t", "'c' is read"),
    ("E0562", GOOD, VECTOR, "copy_in.prefetch x[0, j + 64] for j<64", "no caches"),
    ("E0552", GOOD, "loop i < 2", "parallel i < 2", "not outermost"),
    ("E0552", GOOD, "loop i < 2", "loop i < 0", "runs 0 times"),
    ("E0552", GOOD, "2.0 for j<64", "2.0 for j<64, z<0", "below 1"),
    ("E0553", GOOD, "t[j], 2.0 for", "t[j] for", "takes 1 destinations and 2 sources"),
    ("E0553", GOOD, VECTOR, VECTOR + " {init=0}", "no 'init'"),
    ("E0553", GOOD, VECTOR, VECTOR + " {fill=0.0}", "no 'fill'"),
    ("E0553", GOOD, VECTOR, VECTOR + " {form=i}", "no 'form'"),
    ("E0553", GOOD, VECTOR, VECTOR + " {scale=relu}", "no 'scale'"),
    ("E0553", GOOD, VECTOR, "vector.iota t[j] = for j<64", "needs a 'form'"),
    ("E0554", GOOD, "= t[j], 2.0", "= u[j], 2.0", "no buffer 'u'"),
    ("E0554", GOOD, "= t[j], 2.0", "= t[0, j], 2.0", "indexed with 2"),
    ("E0554", GOOD, "= t[j], 2.0", "= t[z], 2.0", "'z' is not in scope"),
    ("E0554", GOOD, "= t[j], 2.0", "= t{j}[j], 2.0", "'j' in a slot"),
    ("E0554", GOOD, "init=i", "init=q", "'q' in init"),
    ("E0554", GOOD, "copy_out.copy y[", "copy_out.copy x[", "cannot be written"),
    ("E0555", GOOD, "= t[j], 2.0", "= t[j + 1], 2.0", "reaches 1 to 64"),
    ("E0555", GOOD, "x[core*2 + i, j]", "x[core*2 + i, j - 1]", "reaches -1 to 62"),
    ("E0556", GOOD, VECTOR, "vector.mul t[p + q] = t[q], 2.0 for p<4, q<4", "same element"),
    ("E0557", GOOD, "init=i, ", "", "before it was written"),
    ("E0557", GOOD, "init=i, ", "init=i + 1, ", "before it was written"),
    ("E0557", GOOD, "for q<4, j<16", "for q<4, j<16, z<2", "occurs in no operand"),
    ("E0558", GOOD, "chain=32", "chain=16", "32 terms"),
    ("E0559", GOOD, "y[core*2 + i, j]", "y[core + i, j]", "parallel 'core'"),
    ("E0559", GOOD, "y[core*2 + i, j]", "y[i, j]", "parallel 'core'"),
    ("E0560", GOOD, "t: f16[64]@ub", "t: f16[64]@l2", "does not have"),
    ("E0560", GOOD, "t: f16[64]@ub", "t: f16[64]@gm", "cannot live"),
    ("E0560", GOOD, "f16[8,64]@gm input", "f16[8,64]@ub input", "cannot live"),
    ("E0560", GOOD, "f16[8,64]@gm input", "bf16[8,64]@gm input", "no bf16 in memory"),
    ("E0561", GOOD, "t: f16[64]@ub local", "t: f16[64]@ub local at 0, 128", "1 slots and 2 offsets"),
    ("E0561", GOOD, "t: f16[64]@ub local", "t: f16[64]@ub local at 8", "multiple of 32"),
    ("E0561", GOOD, "t: f16[64]@ub local", "t: f16[64]@ub local at 262080", "ends at 262208"),
    ("E0561", GOOD, "t: f16[64]@ub local", "t: f16[64]@ub local slots 2 at 0, 64", "slots of 't' overlap"),
    ("E0561", GOOD, TS, "t: f16[64]@ub local at 0\n  buffer s: f32[4]@ub local at 96", "while both live"),
    ("E0561", LENT, "y at 512", "y at 256", "'u' and 'v' share bytes of 'y' while both live"),
    ("E0561", LENT, "y at 512", "y at 960", "'v' ends at 1216, 'y' has 1024"),
    ("E0561", LENT, "y at 512", "y at 520", "multiple of 64"),
    ("E0561", LENT, "in y at 512", "in y", "'v' in 'y' has no offset"),
    ("E0561", LENT, "in y at 512", "in q at 512", "'v' of kind workspace cannot lie in 'q'"),
    ("E0561", LENT, "in y at 512", "in x at 0", "'v' of kind workspace cannot lie in 'x'"),
    ("E0561", LENT, "@gm input", "@gm input in y at 0", "'x' of kind input cannot lie in 'y'"),
    ("E0561", LENT, "t[j] = w[i, j]", "t[j] = u[i, j]", "'u' lives in 'y' when that is written"),
    ("E0562", GOOD, "copy_out.copy y", "copy_in.copy y", "no route"),
    ("E0562", CUBE, "copy_in.copy a[m, k] = s[m, k]", "copy_in.copy a[m, k] = x[m, k]", "no route"),
    ("E0563", CUBE, "a[m, k], b[k, n]", "b[m, k], b[k, n]", "is the operand_a"),
    ("E0563", CUBE, "a[m, k], b[k, n]", "a[m, k], 1.0", "not literals"),
    ("E0563", CUBE, "c: f32[16,16]", "c: f16[16,16]", "sum in f32"),
    ("E0563", CUBE, "b: f16[16,16]@l0b", "b: i8[16,16]@l0b", "cube operands are f16 and i8"),
    ("E0564", CUBE, "{scale=relu}", "{scale=tanh}", "cannot 'tanh'"),
    ("E0564", CUBE, "t: f32[16,16]", "t: f16[16,16]", "without 'convert'"),
    ("E0564", CUBE, "c[m, n] for m<16, n<16 {scale=relu}", "c[m, n], 2.0 for m<16, n<16 {scale=scale}", "no f32"),
    ("E0564", SCALED, ", f[n]", ", f[m]", "one factor, or one per column"),
    ("E0564", SCALED, ", f[n]", ", g[n]", "takes the factors of a drain in 'ub', not in 'gm'"),
    ("E0564", SCALED, "f: f32", "f: f16", "keeps 24 bits of a factor, too few for f16"),
    ("E0565", GOOD, "vector.mul t[j] = t[j], 2.0", "vector.erf t[j] = t[j]", "no 'erf'"),
    ("E0565", GOOD, "t: f16[64]@ub", "t: f64[64]@ub", "no f64"),
    ("E0567", GOOD, VECTOR, "sync.set_flag V -> X id 0", "no pipe 'X'"),
    ("E0567", GOOD, VECTOR, "sync.set_flag V -> V id 0", "between two pipes"),
]  # fmt: skip


@pytest.mark.parametrize("path", SAMPLES, ids=[p.stem for p in SAMPLES])
def test_samples_are_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    program = parse_program(text)
    assert print_program(program) == text
    verify(program, machines.load(program.machine), "expanded")


def test_the_base_programs_are_valid() -> None:
    for text in (GOOD, CUBE, LENT, SCALED):
        assert problems(parse_program(text), machines.load("ascend910")) == []


@pytest.mark.parametrize(("code", "text", "old", "new", "message"), BROKEN)
def test_broken(code: str, text: str, old: str, new: str, message: str) -> None:
    assert old in text
    program = parse_program(text.replace(old, new, 1))
    found = problems(program, machines.load("ascend910"))
    assert code in {d.code for d in found}, found
    assert any(message in d.message for d in found if d.code == code), found
    # The same again by what is known of the sound program, whose instructions the broken one shares.
    memo, sound = Memo(), parse_program(text)
    assert problems(sound, machines.load("ascend910"), memo=memo) == []
    same = {i: i for i, _ in instructions(sound.body)}
    broken = program.with_body(map_instrs(program.body, lambda i: same.get(i, i)))
    assert problems(broken, machines.load("ascend910"), memo=memo) == found


def test_every_invariant_is_broken_here() -> None:
    import opc.program.legality
    import opc.program.verify

    stated = set()
    for module in (opc.program.legality, opc.program.verify):
        stated |= set(re.findall(r"E05\d\d", (module.__doc__ or "").replace("E0560 to E0567", "")))
    assert stated == {code for code, *_ in BROKEN} | {"E0566"}


def test_registers_need_constants_only_when_expanded() -> None:
    text = """program v1 rows machine avx2 {
  buffer x: f32[4,8]@gm input
  buffer y: f32[4,8]@gm output
  buffer t: f32[4,8]@reg local slots 2
  loop i < 4 {
    copy_in.copy t{i}[i, j] = x[i, j] for j<8
    copy_out.copy y[i, j] = t{i}[i, j] for j<8
  }
}
"""
    program, machine = parse_program(text), machines.load("avx2")
    assert problems(program, machine) == []
    assert {d.code for d in problems(program, machine, "expanded")} == {"E0566"}


def test_all_violations_are_collected() -> None:
    text = GOOD.replace("= t[j], 2.0", "= u[j], 2.0").replace("x[core*2 + i, j]", "x[core*2 + i, j + 9]")
    with pytest.raises(IRError) as caught:
        verify(parse_program(text))
    assert sorted(d.code for d in caught.value.diagnostics) == ["E0554", "E0555"]


def test_sync_is_refused_without_flags() -> None:
    text = "program v1 k machine avx2 {\n  sync.barrier core\n}\n"
    assert [d.code for d in problems(parse_program(text), machines.load("avx2"))] == ["E0567"]


@settings(max_examples=40, deadline=None)
@given(programs())
def test_random_programs_are_valid(program: Program) -> None:
    text = print_program(program)
    assert print_program(parse_program(text)) == text
    assert problems(program, machines.load(program.machine)) == []
