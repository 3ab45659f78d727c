"""The check that emitted objects make before they run: has this processor the features, and may they be
used?
"""

from __future__ import annotations

# feature -> (cpuid leaf, register of (a, b, c, d), bit)
_BITS = {
    "fma": (1, 2, 12),
    "f16c": (1, 2, 29),
    "avx": (1, 2, 28),
    "avx2": (7, 1, 5),
    "avx512f": (7, 1, 16),
    "avx512dq": (7, 1, 17),
    "avx512bw": (7, 1, 30),
    "avx512vl": (7, 1, 31),
    "amx-bf16": (7, 3, 22),
    "amx-tile": (7, 3, 24),
    "amx-int8": (7, 3, 25),
}
_YMM, _ZMM, _TILES = 0x6, 0xE0, 0x60000
_OSXSAVE = 1 << 27


def check(triple: str, features: frozenset[str]) -> str:
    """Text of ``i1 @opc.able()``; always true where nothing can be asked."""
    wanted = {name: _BITS[name] for name in sorted(features) if name in _BITS}
    if not triple.startswith("x86_64") or not wanted:
        return "define internal i1 @opc.able() {\n  ret i1 true\n}\n"
    lines = ["define internal i1 @opc.able() {", "entry:"]
    masks: dict[tuple[int, int], int] = {(1, 2): _OSXSAVE}
    for leaf, register, bit in wanted.values():
        masks[leaf, register] = masks.get((leaf, register), 0) | 1 << bit
    for leaf in sorted({leaf for leaf, _ in masks}):
        # The result of cpuid is in four registers; rbx may be reserved, so it is saved around the
        # instruction.
        lines.append(
            f"  %l{leaf} = call {{ i32, i64, i32, i32 }} asm sideeffect "
            f'"xchgq %rbx, $1\\0Acpuid\\0Axchgq %rbx, $1", '
            f'"={{ax}},=&r,={{cx}},={{dx}},0,2,~{{dirflag}},~{{fpsr}},~{{flags}}"(i32 {leaf}, i32 0)'
        )
    total = "true"
    for number, ((leaf, register), mask) in enumerate(sorted(masks.items())):
        lines.append(f"  %r{number} = extractvalue {{ i32, i64, i32, i32 }} %l{leaf}, {register}")
        value = f"%r{number}"
        if register == 1:
            lines.append(f"  %n{number} = trunc i64 {value} to i32")
            value = f"%n{number}"
        lines.append(f"  %m{number} = and i32 {value}, {_signed(mask)}")
        lines.append(f"  %e{number} = icmp eq i32 %m{number}, {_signed(mask)}")
        lines.append(f"  %t{number} = and i1 {total}, %e{number}")
        total = f"%t{number}"
    lines += [f"  br i1 {total}, label %saved, label %no", "no:", "  ret i1 false", "saved:"]
    lines += _saved_state(features)
    lines.append("}")
    return "\n".join(lines) + "\n"


def _signed(mask: int) -> int:
    return mask - (1 << 32) if mask >> 31 else mask


def _saved_state(features: frozenset[str]) -> list[str]:
    """Does the operating system save these registers? Asked only where xgetbv exists."""
    mask = _YMM
    if any(name.startswith("avx512") for name in features):
        mask |= _ZMM
    if any(name.startswith("amx") for name in features):
        mask |= _TILES
    return [
        '  %x = call { i32, i32 } asm sideeffect "xgetbv", '
        '"={ax},={dx},{cx},~{dirflag},~{fpsr},~{flags}"(i32 0)',
        "  %xcr = extractvalue { i32, i32 } %x, 0",
        f"  %xm = and i32 %xcr, {mask}",
        f"  %ok = icmp eq i32 %xm, {mask}",
        "  ret i1 %ok",
    ]
