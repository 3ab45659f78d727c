"""The check that emitted objects make before they run: has this processor the features, and may they be
used?
"""

from __future__ import annotations

# What the C functions return; the header declares them under these names.
OK, NO_FEATURE, NO_PERMISSION, BAD_POINTER, NO_MEMORY = range(5)

# feature -> (cpuid leaf, its subleaf, register of (a, b, c, d), bit)
_BITS = {
    "fma": (1, 0, 2, 12),
    "f16c": (1, 0, 2, 29),
    "avx": (1, 0, 2, 28),
    "avx2": (7, 0, 1, 5),
    "avx512f": (7, 0, 1, 16),
    "avx512dq": (7, 0, 1, 17),
    "avx512bw": (7, 0, 1, 30),
    "avx512vl": (7, 0, 1, 31),
    "avx512vnni": (7, 0, 2, 11),
    "amx-bf16": (7, 0, 3, 22),
    "avx512fp16": (7, 0, 3, 23),
    "amx-tile": (7, 0, 3, 24),
    "amx-int8": (7, 0, 3, 25),
    "avxvnni": (7, 1, 0, 4),
    "avx512bf16": (7, 1, 0, 5),
    "amx-fp16": (7, 1, 0, 21),
}
_YMM, _ZMM, _TILES = 0x6, 0xE0, 0x60000
_OSXSAVE = 1 << 27
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


def unchecked(triple: str, features: frozenset[str]) -> tuple[str, ...]:
    """Features that the emitted check cannot ask for."""
    known = _BITS if triple.startswith("x86_64") else ()
    return tuple(sorted(name for name in features if name not in known))


def check(triple: str, features: frozenset[str]) -> str:
    """Text of ``i32 @opc.able()``: OK, NO_FEATURE or NO_PERMISSION. It asks once; cpuid can take microseconds."""
    asked = triple.startswith("x86_64") and any(name in _BITS for name in features)
    lines = ["@opc.state = internal global i32 -1", "", "define internal i32 @opc.able() {", "entry:"]
    if not asked:
        return "\n".join([*lines[2:], f"  ret i32 {OK}", "}", ""])
    lines += [
        "  %seen = load atomic i32, ptr @opc.state monotonic, align 4",
        "  %known = icmp sge i32 %seen, 0",
        "  br i1 %known, label %again, label %ask",
        "again:",
        "  ret i32 %seen",
        "ask:",
    ]
    lines += _asks({name: _BITS[name] for name in sorted(features) if name in _BITS})
    lines += _saved_state(features)
    lines += _permission(triple, features)
    lines += [
        "done:",
        f"  %code = phi i32 [ {NO_FEATURE}, %ask ], [ {NO_FEATURE}, %saved ], [ %granted, %permit ]",
        "  store atomic i32 %code, ptr @opc.state monotonic, align 4",
        "  ret i32 %code",
        "}",
        "",
    ]
    return "\n".join(lines)


def _asks(wanted: dict[str, tuple[int, int, int, int]]) -> list[str]:
    """Has the processor every feature? To %saved if it has, else to %done."""
    masks: dict[tuple[int, int, int], int] = {(1, 0, 2): _OSXSAVE}
    for leaf, sub, register, bit in wanted.values():
        masks[leaf, sub, register] = masks.get((leaf, sub, register), 0) | 1 << bit
    lines = []
    for leaf, sub in sorted({(leaf, sub) for leaf, sub, _ in masks}):
        # The result of cpuid is in four registers; rbx may be reserved, so it is saved around the
        # instruction.
        lines.append(
            f"  %l{leaf}.{sub} = call {{ i32, i64, i32, i32 }} asm sideeffect "
            f'"xchgq %rbx, $1\\0Acpuid\\0Axchgq %rbx, $1", '
            f'"={{ax}},=&r,={{cx}},={{dx}},0,2,~{{dirflag}},~{{fpsr}},~{{flags}}"(i32 {leaf}, i32 {sub})'
        )
    total = "true"
    for number, ((leaf, sub, register), mask) in enumerate(sorted(masks.items())):
        lines.append(f"  %r{number} = extractvalue {{ i32, i64, i32, i32 }} %l{leaf}.{sub}, {register}")
        value = f"%r{number}"
        if register == 1:
            lines.append(f"  %n{number} = trunc i64 {value} to i32")
            value = f"%n{number}"
        lines.append(f"  %m{number} = and i32 {value}, {_signed(mask)}")
        lines.append(f"  %e{number} = icmp eq i32 %m{number}, {_signed(mask)}")
        lines.append(f"  %t{number} = and i1 {total}, %e{number}")
        total = f"%t{number}"
    return [*lines, f"  br i1 {total}, label %saved, label %done"]


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
        "saved:",
        '  %x = call { i32, i32 } asm sideeffect "xgetbv", '
        '"={ax},={dx},{cx},~{dirflag},~{fpsr},~{flags}"(i32 0)',
        "  %xcr = extractvalue { i32, i32 } %x, 0",
        f"  %xm = and i32 %xcr, {mask}",
        f"  %ok = icmp eq i32 %xm, {mask}",
        "  br i1 %ok, label %permit, label %done",
    ]


def _permission(triple: str, features: frozenset[str]) -> list[str]:
    """Linux lends the tile registers to processes that ask, once for all their threads."""
    lines = ["permit:"]
    if "linux" in triple and any(name.startswith("amx") for name in features):
        lines += [
            '  %asked = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},~{rcx},~{r11},~{memory},'
            f'~{{dirflag}},~{{fpsr}},~{{flags}}"(i64 {_ARCH_PRCTL}, i64 {_REQUEST_PERMISSION}, i64 {_TILE_DATA})',
            "  %refused = icmp ne i64 %asked, 0",
            f"  %granted = select i1 %refused, i32 {NO_PERMISSION}, i32 {OK}",
        ]
    else:
        lines.append(f"  %granted = select i1 true, i32 {OK}, i32 {OK}")
    return [*lines, "  br label %done"]
