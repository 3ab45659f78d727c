"""What a program asked of a machine's memories and event ids, and what it got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Space:
    """Bytes that buffers take of one local memory, its capacity, and what the slots that were not given would need
    beyond it.
    """

    name: str
    used: int
    capacity: int
    missing: int


@dataclass(frozen=True)
class Slots:
    """A buffer that passes data from one pipe to another: slots wanted and given, bytes of each."""

    buffer: str
    space: str
    wanted: int
    given: int
    size: int


@dataclass(frozen=True)
class Ids:
    """Event ids of a pair of pipes: wanted if every dependence had its own flag, there on the machine, and used by
    the flags of the text. Wanted is None where that was not asked.
    """

    source: str
    target: str
    wanted: int | None
    there: int
    used: int

    @property
    def short(self) -> bool:
        """Whether flags had to be joined, or to stop running ahead."""
        return self.wanted is not None and self.wanted > self.there


@dataclass(frozen=True)
class Demand:
    """The pressure of one program; ``barriers``: how many stand across all pipes."""

    spaces: Sequence[Space]
    slots: Sequence[Slots]
    ids: Sequence[Ids]
    barriers: int

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)
