"""What a forward kernel hands to its backward kernel: one buffer, which callers need not look into.

Tensors that forward makes for backward lie in the buffer. Of arguments and results of forward that backward reads
again the buffer holds the addresses only: those arrays must live, and keep their values, until backward has run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from opc.tensor.tensor import Tensor

if TYPE_CHECKING:
    from opc.tensor.ir import Function

ALIGNMENT = 64
_ADDRESS = 8


class SavedLayout(NamedTuple):
    """The buffer: addresses of ``kept`` arrays, then the tensors ``made``, each at a cache line."""

    kept: tuple[Tensor, ...]
    made: tuple[Tensor, ...]

    @property
    def offsets(self) -> dict[str, int]:
        """Where the address of each kept array and each tensor made stands, in bytes."""
        found = {t.name: _ADDRESS * i for i, t in enumerate(self.kept)}
        end = _rounded(_ADDRESS * len(self.kept))
        for t in self.made:
            found[t.name] = end
            end += _rounded(_size(t))
        return found

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return max(
            ALIGNMENT, _rounded(_ADDRESS * len(self.kept)) + sum(_rounded(_size(t)) for t in self.made)
        )

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """The ranges of bytes that hold no tensor."""
        offsets = self.offsets
        ends = [0, *(offsets[t.name] + _size(t) for t in self.made)]
        starts = [*(offsets[t.name] for t in self.made), self.size]
        return [(end, start) for end, start in zip(ends, starts, strict=True) if end < start]

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor that backward gets this way."""
        return tuple(t.name for t in (*self.kept, *self.made))

    @property
    def made_names(self) -> tuple[str, ...]:
        """Names of the tensors that forward makes for backward."""
        return tuple(t.name for t in self.made)


class Choice(Protocol):
    """What became of a tensor that backward needs, such as "saved" or "recomputed", and why."""

    @property
    def tensor(self) -> Tensor: ...
    @property
    def how(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def bytes(self) -> int: ...


class Half(NamedTuple):
    """One kernel of a pair: the ``forward`` one, or the one that reads what ``forward`` saved."""

    pair: str
    is_forward: bool
    saved: SavedLayout
    forward: Function
    choices: tuple[Choice, ...] = ()


def _size(tensor: Tensor) -> int:
    return tensor.size * tensor.dtype.bytes


def _rounded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
