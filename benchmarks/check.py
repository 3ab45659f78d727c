"""Results against the oracle, before anything is timed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from benchmarks.case import Array, Arrays, Case, Problem, Sizes, problem
from opc.build import Build
from opc.tensor.bound import Bounded, check

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

        value, bound = self._reference(numerics, case)
        report = check(_floats(result, case), Bounded(value, bound, DType(case.dtype)))
        return Verdict(None if report.ok else str(report), report.max_ratio)

    def _reference(self, numerics: str, case: Case) -> tuple[Array, Array]:
        """Value and bound, in the memory order of results."""
        key = numerics, case.data
        if key not in self._expected:
            self._expected = {k: v for k, v in self._expected.items() if k[1] == case.data}
            self._expected[key] = self._expect(numerics, case)
        return self._expected[key]

    def _expect(self, numerics: str, case: Case) -> tuple[Array, Array]:
        what = problem(case)
        if numerics == "strict":
            return _joined(what, [_oracle(what, case.dtype, *part) for part in what.parts()])
        built, strict = (_built(what, case.dtype, n) for n in (numerics, "strict"))
        if built.function == strict.function:  # the licence was of no use here
            return self._reference("strict", case)
        # A licence's bound is that of what was built, so its problem stays whole.
        return _joined(what, [built.oracle(what.arrays())])


def _oracle(what: Problem, dtype: str, sizes: Sizes, arrays: Arrays) -> dict[str, Bounded]:
    """Value and bound of a strict part."""
    from opc import driver
    from opc.tensor.interpret import oracle

    machine = driver.target_machine("cpu")
    function = driver.specialise(what.source, "<benchmark>", machine, what.kernel, sizes, dtype, what.layout)
    return oracle(function, arrays)


def _built(what: Problem, dtype: str, numerics: str) -> Build:
    """What the compiler makes of a problem under a licence."""
    from opc import driver

    machine = driver.target_machine("cpu")
    function = driver.specialise(
        what.source, "<benchmark>", machine, what.kernel, what.sizes, dtype, what.layout
    )
    return driver.build(function, machine, numerics=numerics)


def _joined(what: Problem, parts: list[dict[str, Bounded]]) -> tuple[Array, Array]:
    """Value and bound of the only result, parts one after the other, in the memory order of results."""
    found = [next(iter(part.values())) for part in parts]
    value, bound = (np.concatenate([getattr(b, field) for b in found]) for field in ("value", "bound"))
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
