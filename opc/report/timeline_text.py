"""The figures of a compilation as text: passes, instructions, pipes, proofs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from opc.pipeline import Step
from opc.program.ir import Module, instructions
from opc.report.tables import duration, table


def passes_table(steps: Sequence[Step]) -> str:
    """Every pass with its time."""
    rows = [(s.name, duration(s.seconds), "" if s.changed else "no change") for s in steps]
    rows.append(("total", duration(sum(s.seconds for s in steps)), ""))
    return table(("pass", "time", ""), rows)


def instruction_counts(module: Module) -> dict[str, tuple[int, int]]:
    """Per instruction class: instructions in the text, and executions in all loops."""
    written: Counter[str] = Counter()
    executed: Counter[str] = Counter()
    for program in module.programs:
        for instr, loops in instructions(program.body):
            times = 1
            for loop in loops:
                times *= loop.extent
            written[instr.opcode_class] += 1
            executed[instr.opcode_class] += times
    return {c: (written[c], executed[c]) for c in sorted(written)}


def instructions_table(module: Module) -> str:
    """Instructions by class."""
    rows = [(name, *counts) for name, counts in instruction_counts(module).items()]
    return table(("class", "in the text", "executed"), rows)


def pipes_table(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Busy share of every pipe, in source order and reordered."""
    rows = [(pipe, f"{before.get(pipe, 0.0):.1%}", f"{share:.1%}") for pipe, share in after.items()]
    return table(("pipe", "busy, source order", "busy, reordered"), rows)


def cycles_line(before: float, after: float) -> str:
    """Simulated cycles in both orders, and what the order gained."""
    gain = before / after if after else 1.0
    return f"  {before:,.0f} cycles in source order, {after:,.0f} reordered: {gain:.2f}x"
