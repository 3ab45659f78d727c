"""The 23 distinct convolutions of ResNet-50 v1.5, whose 3x3 layers carry the strides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conv:
    """A square convolution with "same" padding; ``count`` is how often the network has it."""

    name: str
    channels: int
    image: int
    filters: int
    size: int
    stride: int
    count: int

    @property
    def pad(self) -> int:
        """Zeros on every side."""
        return self.size // 2

    @property
    def out(self) -> int:
        """Height and width of the result."""
        return (self.image + 2 * self.pad - self.size) // self.stride + 1

    def flops(self, batch: int) -> int:
        """Operations of the convolution alone, a multiply-add counting as two."""
        return 2 * batch * self.out**2 * self.filters * self.channels * self.size**2

    def sizes(self, batch: int) -> dict[str, int]:
        """Sizes and attributes of a kernel that has the names of ``conv2d``."""
        image = {"N": batch, "C": self.channels, "H": self.image, "W": self.image}
        weights = {"K": self.filters, "R": self.size, "S": self.size}
        return {**image, **weights, "stride": self.stride, "pad": self.pad}

    def __str__(self) -> str:
        return (
            f"{self.channels}x{self.image}x{self.image}->{self.filters} {self.size}x{self.size}/{self.stride}"
        )


_TABLE = """
c01    3 224   64 7 2 1
c02   64  56   64 1 1 1
c03   64  56   64 3 1 3
c04   64  56  256 1 1 4
c05  256  56   64 1 1 2
c06  256  56  128 1 1 1
c07  128  56  128 3 2 1
c08  128  28  512 1 1 4
c09  256  56  512 1 2 1
c10  512  28  128 1 1 3
c11  128  28  128 3 1 3
c12  512  28  256 1 1 1
c13  256  28  256 3 2 1
c14  256  14 1024 1 1 6
c15  512  28 1024 1 2 1
c16 1024  14  256 1 1 5
c17  256  14  256 3 1 5
c18 1024  14  512 1 1 1
c19  512  14  512 3 2 1
c20  512   7 2048 1 1 3
c21 1024  14 2048 1 2 1
c22 2048   7  512 1 1 2
c23  512   7  512 3 1 2
"""


def _row(line: str) -> Conv:
    name, *numbers = line.split()
    return Conv(name, *map(int, numbers))


RESNET50 = {c.name: c for c in map(_row, _TABLE.strip().splitlines())}


def layer(name: str) -> Conv:
    """The convolution that a case's name begins with, as in ``c03-data``."""
    return RESNET50[name.split("-")[0]]


# What --quick measures: 3x3 and 1x1 of the first, middle and last stages, a strided one included.
QUICK = ("c03", "c05", "c14", "c19", "c22")
