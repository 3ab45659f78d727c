"""The instruction table: one declaration per opcode, from which text, verifier, docs and
interpreter derive.
"""

from __future__ import annotations

from dataclasses import dataclass

from opc.scalar import FUNCTIONS

CLASSES = ("copy_in", "cube", "scale", "vector", "copy_out", "sync")


@dataclass(frozen=True, slots=True)
class Opcode:
    """``destinations``/``sources``: operand counts. ``reduces``: local dims missing from the
    destination are reduced; otherwise the destination index must be injective in the dims.
    """

    name: str
    destinations: int
    sources: int
    reduces: bool
    doc: str


_MOVES = (
    Opcode("copy_in.copy", 1, 1, False, "dst = src, or `fill` where the index leaves its buffer"),
    Opcode("copy_in.prefetch", 0, 1, False, "brings memory nearer ahead of its use and means nothing"),
    Opcode("copy_out.copy", 1, 1, False, "dst = src towards memory, converted to the type of dst"),
)
# "stream": data that is used once and should not push other data out of the near caches.
# A prefetch says which cache it fills, "stream" the nearest past the others. "ahead": the second factor comes from
# afar, and is asked for early.
HINTS: dict[str, tuple[str, ...]] = {
    "copy_in.copy": ("stream",),
    "copy_out.copy": ("stream",),
    "copy_in.prefetch": ("l1", "l2", "l3", "stream"),
    "cube.mma": ("ahead",),
}
_CUBE = (Opcode("cube.mma", 1, 2, True, "dst[m,n] (+)= sum over the other dims of a·b, in the type of dst"),)
_SCALE = (
    Opcode(
        "scale.drain", 1, 1, False, "dst = forms(src): accumulator to another space; forms are in `scale`"
    ),
)
_VECTOR = (
    Opcode("vector.copy", 1, 1, False, "dst = src, possibly a literal, converted to the type of dst"),
    Opcode("vector.fma", 1, 3, False, "dst = src0 * src1 + src2 with one rounding"),
    Opcode("vector.iota", 1, 0, False, "dst = form, an i32 value of loop variables and dims"),
    Opcode("vector.reduce_sum", 1, 1, True, "dst (+)= sum of src over the dims absent from dst"),
    Opcode("vector.reduce_max", 1, 1, True, "dst = max(dst, src over the absent dims); NaN wins"),
    Opcode("vector.reduce_min", 1, 1, True, "dst = min(dst, src over the absent dims); NaN wins"),
    Opcode("vector.reduce_argmax", 2, 2, True, "largest (value, index); lowest index wins, NaN wins"),
    Opcode("vector.reduce_argmin", 2, 2, True, "smallest (value, index); lowest index wins, NaN wins"),
    Opcode("vector.reduce_moments", 2, 1, True, "(mean, m2) by Chan's rule; dst holds `form` terms"),
    *(Opcode(f"vector.{f.name}", 1, f.arity, False, f.doc) for f in FUNCTIONS.values() if f.kind != "cast"),
)
# A flag's id is a form of loop variables, taken modulo the machine's event ids: `2*i + 1` of 4 ids
# alternates between 1 and 3. A barrier on pipe "ALL" orders every pipe with every other.
_SYNC = (
    Opcode("sync.set_flag", 0, 0, False, "after all earlier work of the source pipe: set the binary flag"),
    Opcode("sync.wait_flag", 0, 0, False, "block the destination pipe until the flag is set, then clear it"),
    Opcode("sync.barrier", 0, 0, False, "order everything earlier on the pipe before everything later"),
)
OPCODES: dict[str, Opcode] = {o.name: o for o in (*_MOVES, *_CUBE, *_SCALE, *_VECTOR, *_SYNC)}
