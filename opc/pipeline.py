"""Passes and pipelines: verify after every pass, time it, keep its IR, name the culprit.

A pass is a frozen dataclass whose fields are its options (and its CLI arguments).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from opc.errors import PassError, fail
from opc.machine.model import Machine
from opc.numerics import FAST as FAST
from opc.numerics import NUMERICS as NUMERICS
from opc.numerics import STRICT as STRICT


@dataclass(frozen=True)
class Context:
    """What a pass may know beside the IR."""

    machine: Machine
    numerics: str = STRICT  # which of NUMERICS: what passes may do to rounding


@runtime_checkable
class Pass(Protocol):
    """``name`` is kebab-case; ``level`` says which IR: "tensor", "lowering" or "program"."""

    name: ClassVar[str]
    level: ClassVar[str]

    def run(self, ir: Any, context: Context) -> Any:
        """The rewritten IR; the same object if nothing changed."""
        ...


@dataclass(frozen=True)
class Step:
    """What one pass did."""

    name: str
    seconds: float
    changed: bool
    ir: Any


@dataclass(frozen=True)
class Pipeline:
    """An ordered list of passes; ``verify`` raises on IR that breaks an invariant."""

    passes: tuple[Pass, ...]
    verify: Callable[[Any], None]

    def run(
        self, ir: Any, context: Context, after: Callable[[Step], None] | None = None
    ) -> tuple[Any, list[Step]]:
        """Run all passes; ``after`` sees every step. A pass that breaks the IR is named."""
        steps: list[Step] = []
        for p in self.passes:
            start = time.perf_counter()
            result = p.run(ir, context)
            seconds = time.perf_counter() - start
            if result is not ir:
                self.verify(result)
            step = Step(p.name, seconds, result is not ir, result)
            steps.append(step)
            if after is not None:
                after(step)
            ir = result
        return ir, steps


def parse_passes(text: str, table: dict[str, type]) -> tuple[Pass, ...]:
    """Read ``a,b{size=4,flag=true},c``. Raises PassError on unknown names or options."""
    found: list[Pass] = []
    for item in _split(text):
        name, brace, options = item.partition("{")
        name = name.strip()
        if name not in table:
            raise fail(
                PassError, "E0701", f"unknown pass '{name}'", help="known passes: " + ", ".join(sorted(table))
            )
        if brace and not options.endswith("}"):
            raise fail(
                PassError, "E0702", f"options of '{name}' lack a closing brace", help="write name{key=value}"
            )
        found.append(_build(table[name], name, options[:-1]))
    return tuple(found)


def _split(text: str) -> Sequence[str]:
    items, depth, start = [], 0, 0
    for i, ch in enumerate(text):
        depth += (ch == "{") - (ch == "}")
        if ch == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
    items.append(text[start:])
    return [i.strip() for i in items if i.strip()]


def _build(cls: type, name: str, options: str) -> Pass:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for item in filter(None, (o.strip() for o in options.split(","))):
        key, eq, raw = item.partition("=")
        key = key.strip().replace("-", "_")
        if key not in fields or not eq:
            known = ", ".join(fields) or "none"
            raise fail(
                PassError, "E0703", f"pass '{name}' has no option '{item}'", help=f"its options: {known}"
            )
        values[key] = _convert(name, key, raw.strip(), fields[key].type)
    result: Pass = cls(**values)
    return result


def _convert(name: str, key: str, raw: str, kind: Any) -> Any:
    label = kind if isinstance(kind, str) else kind.__name__
    try:
        if label == "bool":
            return {"true": True, "false": False}[raw.lower()]
        if label == "int":
            return int(raw)
        if label == "float":
            return float(raw)
    except (KeyError, ValueError):
        raise fail(
            PassError,
            "E0704",
            f"option {key}={raw} of pass '{name}' is not a {label}",
            help=f"give a {label}",
        ) from None
    return raw.removeprefix('"').removesuffix('"')
