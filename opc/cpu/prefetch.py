"""Prefetches: one instruction per cache line of the region."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from opc.cpu import nest
from opc.cpu.function import Function
from opc.cpu.layout import View
from opc.program.ir import Instr

UNROLL_LIMIT = 16  # lines
_LOCALITY = {"l1": 3, "l2": 2, "l3": 1, "stream": 0}


def emit(f: Function, i: Instr, v: View, line: int) -> None:
    """Touch every line of ``v`` over the instruction's box, for the cache that its hint names."""
    dims, (form,) = nest.merge(nest.significant(f, i.dims), [v.form])
    steps: dict[str, int] = {}
    for d in dims:
        distance = abs(form.coefficient(d.name))
        steps[d.name] = max(1, line // distance) if distance else d.extent

    v = replace(v, form=form)

    lines = 1
    for d in dims:
        lines *= -(-d.extent // steps[d.name])
    if lines > UNROLL_LIMIT:
        nest.walk_steps(f, dims, steps, lambda: touch(f, v, 0, i.hint))
        return
    for point in product(*(range(0, d.extent, steps[d.name]) for d in dims)):
        f.bind({d.name: at for d, at in zip(dims, point, strict=True)})
        touch(f, v, 0, i.hint)


def touch(f: Function, v: View, distance: int, cache: str) -> None:
    """One prefetch, ``distance`` bytes from where ``v`` points; nothing happens where no memory lies."""
    arguments = [f.pointer(v.base, v.form + distance), "0", str(_LOCALITY[cache or "l2"]), "1"]
    f.call("llvm.prefetch.p0", "void", arguments, ["ptr", "i32 immarg", "i32 immarg", "i32 immarg"])
