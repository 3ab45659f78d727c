"""Dynamic scaling of a loss, so that gradients in f16 neither vanish nor overflow for long."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from opc.arrays import Array, view
from opc.errors import RuntimeCallError, fail
from opc.family import Family
from opc.infer import Seen

if TYPE_CHECKING:
    from opc.kernel import Kernel


class LossScale:
    """The factor of a loss, how it moves, and whether a step may be taken.

        scaler = opc.LossScale()
        gradients = pair.bwd(saved, scaler.scale)       # of the loss times the scale
        scaler.update(*gradients)
        sgd(w, m, gradients[0], rate, scaler.inverse, scaler.finite)

    ``scale``, ``inverse`` and ``finite`` are arrays of one element for kernels to read. After an overflow the scale
    is multiplied by ``backoff``, after ``interval`` steps without one by ``growth``, within ``least`` and ``most``.
    ``steps`` counts the good steps since the scale moved: with ``scale`` it is all that a checkpoint needs.
    """

    def __init__(
        self,
        initial: float = 65536.0,
        *,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
        least: float = 1.0,
        most: float = 2.0**24,
    ) -> None:
        if not (0 < least <= initial <= most and growth >= 1 and 0 < backoff < 1 and interval >= 1):
            message = f"a loss scale of {initial:g} cannot move by {growth:g} and {backoff:g}"
            help = "0 < least <= initial <= most, growth >= 1, 0 < backoff < 1, interval >= 1"
            raise fail(RuntimeCallError, "E0944", message, help=help)
        self.scale, self.steps = np.array([initial], np.float32), np.zeros(1, np.float32)
        self.finite, self.inverse = np.ones(1, np.float32), 1 / self.scale
        self._options = {
            "growth": growth, "backoff": backoff, "interval": float(interval), "least": least, "most": most,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<opc.LossScale {self.scale[0]:g} after {self.steps[0]:g} good steps>"

    def update(self, *gradients: object) -> bool:
        """Whether all gradients are finite; ``finite`` and ``inverse`` for this step, and the scale of the next one.

        Raises RuntimeCallError E0901–E0904 for what is no array.
        """
        flags = np.empty(len(gradients), np.float32)
        for n, gradient in enumerate(gradients):
            flat = view(gradient, "update").ravel(order="K")
            self._kernel("all_finite", flat)(flat, out=flags[n : n + 1])
        kernel = self._kernel("loss_scale", self.scale, self.steps, flags)
        kernel(self.scale, self.steps, flags, out=(self.finite, self.inverse))
        return bool(self.finite[0])

    def _kernel(self, name: str, *arrays: Array) -> Kernel:
        seen = [Seen(a.shape, a.dtype, a.strides) for a in arrays]
        return self._families[name].kernel(seen, self._options if name == "loss_scale" else {})

    @cached_property
    def _families(self) -> dict[str, Family]:
        import kernels_dsl

        return {name: Family(kernels_dsl.path(name), name) for name in ("all_finite", "loss_scale")}
