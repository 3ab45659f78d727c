"""What passes may do to rounding; ``docs/language.md`` states what each name promises."""

from __future__ import annotations

STRICT, FAST = NUMERICS = ("strict", "fast")
