"""What several tests share: oracle values and the interpretation of modules on logical arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from opc.affine import Affine
from opc.arrays import Array, empty, physical
from opc.program.interpret import run, trace
from opc.program.ir import Access, Instr, Module, Program
from opc.program.rewrite import map_accesses, substitute
from opc.program.text import print_stmt
from opc.tensor.ir import Function


def execute(module: Module | Program, arrays: Mapping[str, Array], check: bool = True) -> dict[str, Array]:
    """Interpret prepare and run on buffers in memory order; every buffer that is not local afterwards."""
    programs = module.programs if isinstance(module, Module) else (module,)
    memory: dict[str, Array] = {name: np.array(a) for name, a in arrays.items()}
    for program in programs:
        for b in program.buffers:
            if b.kind != "local" and b.name not in memory:
                memory[b.name] = np.zeros(b.shape, b.dtype.numpy)
        if program.body:
            names = {b.name for b in program.buffers if b.kind != "local"}
            run(program, {n: a for n, a in memory.items() if n in names}, check=check)
    return memory


def execute_function(module: Module, function: Function, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Interpret a module on logical arrays; its results in logical order."""
    table = function.tensors()
    shapes = {b.name: b.shape for p in module.programs for b in p.buffers if b.kind != "local"}
    memory = execute(module, {n: physical(a, table[n]).reshape(shapes.get(n, -1)) for n, a in arrays.items()})
    found = {}
    for name in function.results:
        logical = empty(table[name])
        memory_view = physical(logical, table[name])
        memory_view[...] = memory[name].reshape(memory_view.shape)
        found[name] = logical
    return found


def program_arguments(module: Module | Program, seed: int = 1) -> dict[str, Array]:
    """Random data for every argument of a module; packed buffers too where nothing prepares them."""
    random = np.random.default_rng(seed)
    programs = module.programs if isinstance(module, Module) else (module,)
    kinds = {"input", "param", "inout"} | (set() if programs[0].body and len(programs) == 2 else {"packed"})
    found: dict[str, Any] = {}
    for b in (b for p in programs for b in p.buffers if b.kind in kinds):
        values = random.uniform(0.5, 1.5, b.shape) if b.dtype.is_float else random.integers(-8, 9, b.shape)
        found.setdefault(b.name, values.astype(b.dtype.numpy))
    return found


def instances(module: Module | Program) -> Counter[str]:
    """Every dynamic instruction but the synchronisation, with its loop variables bound, per parallel iteration."""
    found: Counter[str] = Counter()
    for program in module.programs if isinstance(module, Module) else (module,):
        slots = {b.name: b.slots for b in program.buffers}

        def bound(a: Access, slots: Mapping[str, int] = slots) -> Access:
            return Access(a.buffer, a.index, Affine((), a.slot.evaluate({}) % slots[a.buffer]))

        for instance in trace(program):
            if instance.instr.opcode_class == "sync":
                continue
            fixed = substitute(instance.instr, instance.env)
            assert isinstance(fixed, Instr)
            # Only whether it starts a sum matters of init, not how the loop around it counts.
            init = None if fixed.init is None else Affine((), int(fixed.init.evaluate({}) != 0))
            plain = replace(map_accesses(fixed, bound), init=init, stage=None)
            found[f"{program.name} {instance.iteration} {print_stmt(plain)}"] += 1
    return found
