"""Results against the oracle, before anything is timed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from benchmarks.case import Array, Case, Problem, problem

# Peers round elsewhere (folded weights) and sum in their own order: an error this large is a mistake, not rounding.
_LOOSE = {"f32": 1e-4, "bf16": 4e-2}


@dataclass(frozen=True)
class Verdict:
    """``problem`` is None when the result is right."""

    problem: str | None
    ratio: float = 0.0  # error over bound, worst element


class Checker:
    """Remembers what it has verified: equal bits need no second look, and differing ones are an error."""

    def __init__(self) -> None:
        self._digests: dict[tuple[str, Case], tuple[str, Verdict]] = {}
        self._expected: tuple[Case, Array, Array] | None = None

    def own(self, engine: str, case: Case, result: Array) -> Verdict:
        """Ours: inside the oracle's bound, and the same bits whenever and on however many threads."""
        digest = hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()
        known = self._digests.get((engine, case.data))
        if known is not None:
            return known[1] if known[0] == digest else Verdict("other bits than before on the same data")
        verdict = self._bounded(case, result)
        self._digests[engine, case.data] = digest, verdict
        return verdict

    def peer(self, case: Case, result: Array) -> Verdict:
        """A library's: close to the oracle's value, relative to the largest one."""
        value, _ = self._reference(case)
        error = float(np.abs(_floats(result, case) - value).max() / np.abs(value).max())
        if error <= _LOOSE[case.dtype]:
            return Verdict(None, error)
        return Verdict(f"off by {error:.2g} of the largest value", error)

    def _bounded(self, case: Case, result: Array) -> Verdict:
        from opc.dtypes import DType
        from opc.tensor.bound import Bounded, check

        value, bound = self._reference(case)
        report = check(_floats(result, case), Bounded(value, bound, DType(case.dtype)))
        return Verdict(None if report.ok else str(report), report.max_ratio)

    def _reference(self, case: Case) -> tuple[Array, Array]:
        """Value and bound, in the memory order of results."""
        if self._expected is None or self._expected[0] != case.data:
            self._expected = (case.data, *_oracle(problem(case)))
        return self._expected[1:]


def _oracle(what: Problem) -> tuple[Array, Array]:
    """The oracle image by image, so that its arrays stay small; images do not depend on each other."""
    from opc import driver
    from opc.tensor.interpret import oracle

    arrays, sizes = what.arrays(), dict(what.sizes)
    images = sizes.pop("N", 1) if what.layout else 1
    if what.layout:
        sizes["N"] = 1
    machine = driver.target_machine("cpu", "portable")
    dtype = what.case.dtype
    function = driver.specialise(_text(what.kernel), what.kernel, machine, None, sizes, dtype, what.layout)
    found = []
    for image in range(images):
        given = {**arrays, "x": arrays["x"][image : image + 1]} if what.layout else arrays
        found.append(oracle(function, given)[function.results[0]])
    value, bound = (np.concatenate([getattr(b, part) for b in found]) for part in ("value", "bound"))
    return (value.transpose(0, 2, 3, 1), bound.transpose(0, 2, 3, 1)) if what.layout else (value, bound)


def _text(kernel: str) -> str:
    import kernels_dsl

    return kernels_dsl.source(kernel)


def _floats(result: Array, case: Case) -> Array:
    """A result as it came from the worker: bfloat16 travels as its bits."""
    if case.dtype == "bf16" and result.dtype == np.uint16:
        return (result.astype(np.uint32) << 16).view(np.float32)
    return result
