"""Choices kept in the cache, so that a second process times nothing."""

from __future__ import annotations

from opc.cache import store
from opc.cache.key import Request, key_of
from opc.cpu.features import host_model
from opc.tuning.choose import Choice, Timed


def key_for(request: Request, threads: int) -> str | None:
    """The key of a choice: what decides the code, the very processor, and the number of threads."""
    return key_of(request, "tuning", host_model(), str(threads))


def find(key: str | None) -> Choice | None:
    """The choice of that key, if one was kept."""
    entry = store.read(key) if key else None
    try:
        return _choice(entry.manifest["plans"], entry.manifest["timed"]) if entry else None
    except (KeyError, TypeError, ValueError):
        return None


def _choice(plans: object, timed: list[list[object]]) -> Choice:
    rows = tuple(Timed(*row) for row in timed)  # type: ignore[arg-type]
    if not isinstance(plans, str):
        raise TypeError("plans are a text")
    return Choice(plans, rows)


def keep(key: str | None, choice: Choice, kernel: str) -> bool:
    """Keep a choice, unless it was made in spite of a bug."""
    if key is None or choice.problems:
        return False
    return store.write(key, {"kernel": kernel, "plans": choice.plans, "timed": choice.timed}, {})
