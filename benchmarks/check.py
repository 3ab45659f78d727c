"""Results against the oracle, before anything is timed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from benchmarks.case import Array, Case, Problem, problem

# Peers round elsewhere (folded weights) and sum in their own order: an error this large is a mistake, not rounding.
_LOOSE = {"f32": 1e-4, "bf16": 4e-2}


_Key = tuple[str, Case]


@dataclass(frozen=True)
class Verdict:
    """``problem`` is None when the result is right."""

    problem: str | None
    ratio: float = 0.0  # error over bound, worst element


class Checker:
    """Remembers what it has verified: equal bits need no second look, and differing ones are an error."""

    def __init__(self) -> None:
        self._digests: dict[_Key, tuple[str, Verdict]] = {}
        self._expected: dict[_Key, tuple[Array, Array]] = {}  # of one case

    def own(self, numerics: str, case: Case, result: Array) -> Verdict:
        """Ours: inside the oracle's bound, and the same bits whenever, tuned or not, on however many threads."""
        digest = hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()
        known = self._digests.get((numerics, case.data))
        if known is not None:
            return known[1] if known[0] == digest else Verdict("other bits than before on the same data")
        verdict = self._bounded(numerics, case, result)
        self._digests[numerics, case.data] = digest, verdict
        return verdict

    def peer(self, case: Case, result: Array) -> Verdict:
        """A library's: first and last image or row close to the oracle's value, relative to the largest one."""
        value = self._reference("strict", case)[0][[0, -1]]
        error = float(np.abs(_floats(result[[0, -1]], case) - value).max() / np.abs(value).max())
        if error <= _LOOSE[case.dtype]:
            return Verdict(None, error)
        return Verdict(f"off by {error:.2g} of the largest value", error)

    def _bounded(self, numerics: str, case: Case, result: Array) -> Verdict:
        from opc.dtypes import DType
        from opc.tensor.bound import Bounded, check

        value, bound = self._reference(numerics, case)
        report = check(_floats(result, case), Bounded(value, bound, DType(case.dtype)))
        return Verdict(None if report.ok else str(report), report.max_ratio)

    def _reference(self, numerics: str, case: Case) -> tuple[Array, Array]:
        """Value and bound, in the memory order of results."""
        key = numerics, case.data
        if key not in self._expected:
            self._expected = {k: v for k, v in self._expected.items() if k[1] == case.data}
            self._expected[key] = _oracle(problem(case), case.dtype, numerics)
        return self._expected[key]


def _oracle(what: Problem, dtype: str, numerics: str) -> tuple[Array, Array]:
    """The oracle's value and bound. A licence's bound is that of what was built, so its problem stays whole."""
    from opc import driver
    from opc.tensor.interpret import oracle

    machine = driver.target_machine("cpu")
    found = []
    for sizes, arrays in what.parts() if numerics == "strict" else [(what.sizes, what.arrays())]:
        function = driver.specialise(what.source, "<benchmark>", machine, None, sizes, dtype, what.layout)
        if numerics == "strict":
            results = oracle(function, arrays)
        else:
            results = driver.build(function, machine, numerics=numerics).oracle(arrays)
        found.append(results[function.results[0]])
    value, bound = (np.concatenate([getattr(b, part) for b in found]) for part in ("value", "bound"))
    return (
        (value.transpose(0, 2, 3, 1), bound.transpose(0, 2, 3, 1))
        if what.layout == "nhwc"
        else (value, bound)
    )


def _floats(result: Array, case: Case) -> Array:
    """A result as it came from the worker: bfloat16 travels as its bits."""
    if case.dtype == "bf16" and result.dtype == np.uint16:
        return (result.astype(np.uint32) << 16).view(np.float32)
    return result
