"""Which plans a kernel gets: build the candidates, see that they agree to the bit, time them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from opc.errors import Diagnostic, MachineError
from opc.tuning.race import race, score

if TYPE_CHECKING:
    from opc.arrays import Array
    from opc.kernel import Kernel

MODEL = ""  # the plans of the cost model's first choice
_WORTH = 1.01  # a rival must be this much faster than the model's choice
Make = Callable[[str], "Kernel"]
Race = Callable[[Mapping[str, Callable[[], object]]], Mapping[str, Sequence[float]]]
Tell = Callable[[str], None]


class Timed(NamedTuple):
    """One candidate: seconds of its calls, or why it was not timed."""

    plans: str
    median: float = 0.0
    best: float = 0.0
    calls: int = 0
    note: str = ""


class Choice(NamedTuple):
    """The plans chosen, and what the choice rests on; ``problems`` are bugs of opc that were met."""

    plans: str
    timed: tuple[Timed, ...] = ()
    problems: tuple[Diagnostic, ...] = ()


def choose(
    candidates: Sequence[str],
    make: Make,
    arrays: Mapping[str, Array],
    tell: Tell,
    timing: Race | None = None,
) -> Choice:
    """The fastest of ``candidates``, of which the first is the model's choice.

    Each differs from it in the plan of one contraction; the best plans of several contractions are then
    tried together. A candidate whose results differ by a bit leaves the model's choice in place.
    """
    if len(candidates) < 2:
        return Choice(MODEL)
    field, timing = _Field(make, arrays, tell), timing or race
    for plans in candidates:
        field.enter(plans)
    tell("timing")
    times = dict(timing(field.calls))
    together = _together(times)
    if together not in times and not field.problems:
        field.enter(together)
        few = {p: c for p, c in field.calls.items() if p in (MODEL, together, _winner(times))}
        times |= timing(few)
    timed = tuple(_row(p, times.get(p, ()), field.notes.get(p, "")) for p in (*field.calls, *field.notes))
    winner = MODEL if field.problems else _winner(times)
    return Choice(winner, timed, tuple(field.problems))


class _Field:
    """The candidates that can be timed, each a call on bound parameters; and why others cannot."""

    def __init__(self, make: Make, arrays: Mapping[str, Array], tell: Tell) -> None:
        self.make, self.arrays, self.tell = make, arrays, tell
        self.calls: dict[str, Callable[[], object]] = {}
        self.notes: dict[str, str] = {}
        self.problems: list[Diagnostic] = []
        self._codes: dict[bytes, str] = {}
        self._expected: dict[str, bytes] = {}

    def enter(self, plans: str) -> None:
        """Build a candidate; it is timed if it fits, differs in code, and agrees in results."""
        self.tell(f"building {plans or 'the choice of the model'}")
        try:
            kernel = self.make(plans)
        except MachineError as refusal:
            if plans == MODEL:
                raise
            self.notes[plans] = refusal.diagnostics[0].message
            return
        same = self._codes.setdefault(bytes(kernel.native.code.executable), plans)
        if same != plans:
            self.notes[plans] = f"the same code as {same or 'the choice of the model'}"
            return
        found = _results(kernel, self.arrays)
        self._expected = self._expected or found
        wrong = [name for name, data in found.items() if data != self._expected[name]]
        if wrong:
            self.notes[plans] = "results differ"
            self.problems.append(_differs(kernel.name, plans, wrong))
            return
        self.calls[plans] = _call(kernel, self.arrays)


def _results(kernel: Kernel, arrays: Mapping[str, Array]) -> dict[str, bytes]:
    """Bytes of everything that a call writes."""
    copies = {name: array.copy(order="K") for name, array in arrays.items()}
    results = kernel.results(copies)
    written = {s.name: copies[s.name] for s in kernel.signature.args if s.kind == "inout"}
    return {name: array.tobytes() for name, array in {**written, **results}.items()}


def _call(kernel: Kernel, arrays: Mapping[str, Array]) -> Callable[[], object]:
    params = {s.name for s in kernel.signature.params}
    bound = kernel.bind(**{n: a for n, a in arrays.items() if n in params})
    inputs = {n: a.copy(order="K") for n, a in arrays.items() if n not in params}
    out = tuple(kernel.empty(s.name) for s in kernel.signature.results)
    return lambda: bound(**inputs, out=out)


def _winner(times: Mapping[str, Sequence[float]]) -> str:
    best = min(times, key=lambda plans: score(times[plans]))
    return best if score(times[best]) * _WORTH < score(times[MODEL]) else MODEL


def _together(times: Mapping[str, Sequence[float]]) -> str:
    """For every contraction the plan of the fastest candidate that changes it."""
    parts = {plans: plans.split(";") for plans in times if plans}
    found = []
    for group in range(max(map(len, parts.values()), default=0)):
        rivals = [plans for plans, part in parts.items() if len(part) > group and part[group]]
        best = _winner({plans: times[plans] for plans in (MODEL, *rivals)})
        found.append(parts[best][group] if best else "")
    return ";".join(found) if any(found) else MODEL


def _row(plans: str, times: Sequence[float], note: str) -> Timed:
    if not times:
        return Timed(plans, note=note)
    return Timed(plans, statistics.median(times), min(times), len(times), note)


def _differs(kernel: str, plans: str, names: Sequence[str]) -> Diagnostic:
    listed = ", ".join(names)
    message = f"plans '{plans}' of '{kernel}' give other bits than the choice of the model in {listed}"
    return Diagnostic(
        "E1003", message, help="this is a bug of opc, please report it; the choice of the model is kept"
    )
