"""What problems on a layer of ResNet-50 have in common."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import Case, Sizes, numpy_dtype
from benchmarks.problems.resnet50 import Conv, layer


@dataclass(frozen=True)
class LayerProblem:
    """A kernel on one convolution of ResNet-50, whose images differ: nothing of it repeats."""

    case: Case

    @property
    def conv(self) -> Conv:
        """The convolution."""
        return layer(self.case.name)

    @property
    def layout(self) -> str | None:
        """Channels last, dense: nothing is padded ahead."""
        return "nhwc"

    @property
    def sizes(self) -> Sizes:
        """Sizes and attributes of the kernel."""
        return self.conv.sizes(self.case.batch)

    @property
    def flops(self) -> int:
        """Operations of the convolution."""
        return self.conv.flops(self.case.batch)

    @property
    def moved(self) -> int:
        """Bytes of both images and the weights."""
        c = self.conv
        images = self.case.batch * (c.channels * c.image**2 + c.filters * c.out**2)
        return (images + c.filters * c.channels * c.size**2) * numpy_dtype(self.case.dtype).itemsize

    @property
    def repeats(self) -> int:
        """No two pieces are alike."""
        return 1
