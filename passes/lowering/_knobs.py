"""Choices of a plan that may be fixed from outside: what the cost model would otherwise decide.

Every choice adds the terms of an element in the same order, so results do not depend on it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from opc.errors import OpcError, PassError, fail

# Fields that are names, with the names they take; the others are positive whole numbers.
_WORDS = {
    "order": ("rows", "columns"), "stage": ("direct", "slab", "whole"), "inner": ("rows", "columns"),
    "stream": ("none", "a", "b"), "prefetch": ("on", "off"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Knobs:
    """None: the cost model decides. A value that does not fit a shape is brought to the nearest that does.

    ``rows``: of an accumulator block, at most. ``slab``, ``images``: size along the innermost but one and the
    innermost but two of the row dims of what is worked on while columns go round.
    ``order``: what stays near while the other goes round, and is spread over cores. Of a cube that is fed tile
    by tile: ``columns`` of an accumulator block; ``stage``: operand A in place, or copied per slab or once;
    ``inner``: what goes round inside a slab; ``stream``: the operand kept out of the nearest cache; ``prefetch``:
    whether the next columns are brought nearer ahead of use. ``block``: rows that a chain works on at a time.
    """

    rows: int | None = None
    slab: int | None = None
    images: int | None = None
    order: str | None = None
    columns: int | None = None
    stage: str | None = None
    inner: str | None = None
    stream: str | None = None
    block: int | None = None
    prefetch: str | None = None

    @staticmethod
    def parse(text: str) -> Knobs:
        """Read ``rows=6 order=columns``. Raises PassError E0707."""
        known = [f.name for f in dataclasses.fields(Knobs)]
        values: dict[str, int | str] = {}
        for item in text.split():
            name, _, raw = item.partition("=")
            if name not in known:
                raise _bad(f"a plan has no choice '{item}'", "its choices: " + ", ".join(known))
            values[name] = _value(name, raw)
        return Knobs(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        given = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return " ".join(f"{name}={value}" for name, value in given if value is not None)


def parse_plans(text: str) -> tuple[Knobs, ...]:
    """Knobs of one contraction after another, separated by ``;``. Raises PassError E0707."""
    return tuple(map(Knobs.parse, text.split(";"))) if text else ()


def _value(name: str, raw: str) -> int | str:
    words = _WORDS.get(name)
    if words:
        if raw in words:
            return raw
        raise _bad(f"a plan's {name} cannot be '{raw}'", "it is one of " + ", ".join(words))
    if raw.isascii() and raw.isdigit() and int(raw) > 0:
        return int(raw)
    raise _bad(f"a plan's {name} cannot be '{raw}'", "it is a positive whole number")


def _bad(message: str, help_: str) -> OpcError:
    return fail(PassError, "E0707", message, help=help_)
