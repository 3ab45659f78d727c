"""The proof: one test per kind of fault, and agreement with a brute-force checker on random listings."""

from __future__ import annotations

import itertools
import time
from random import Random

import pytest

from opc import npu
from opc.errors import ListingError
from opc.npu.access import footprints, reads_destination
from opc.npu.expand import Static, expand
from opc.npu.listing import Instruction
from opc.program.intervals import Coverage, box_runs, merged, overlap
from tests.npu.samples import PIPELINED, barriers, machine, place, sample

DECLARED = "listing v1 t machine ascend910\ntensor x: f16[64] input\ntensor y: f16[64] output\n"
LOAD = "MTE2 copy_gm_to_ub f16@ub[0 | j:2] = f16@gm:x[0 | j:2] for j<64 {line=3}\n"
SCALE = "V vmuls f16@ub[0 | j:2] = f16@ub[0 | j:2], 2.0 for j<64 {line=4}\n"
STORE = "MTE3 copy_ub_to_gm f16@gm:y[0 | j:2] = f16@ub[0 | j:2] for j<64 {line=5}\n"
ALL = "pipe_barrier ALL\n"


def flag(first: str, then: str, event: object = 0) -> str:
    return f"set_flag {first}, {then}, {event}\nwait_flag {first}, {then}, {event}\n"


def prove(body: str, cores: int = 1, declared: str = DECLARED) -> npu.Proof:
    return npu.prove(npu.parse_listing(f"{declared}core c < {cores} {{\n{body}}}\n"))


def fault(body: str, cores: int = 1, declared: str = DECLARED) -> str:
    with pytest.raises(ListingError) as caught:
        prove(body, cores, declared)
    return str(caught.value)


GOOD = LOAD + flag("MTE2", "V") + SCALE + flag("V", "MTE3") + STORE


def test_a_safe_listing_is_proved() -> None:
    proof = prove(GOOD)
    assert (proof.races, proof.flags, proof.instructions) == (0, 2, 7)
    assert str(proof) == "0 races in 4 conflicting pairs, 2 flags, 7 instructions, 1 core programs"


def test_race_between_pipes() -> None:
    text = fault(LOAD + SCALE + flag("V", "MTE3") + STORE)
    assert "E0811" in text
    assert "'V vmuls' (line 4) on core 0 reads ub bytes 0..127; nothing orders it after the write by" in text
    assert "'MTE2 copy_gm_to_ub' (line 3)" in text
    assert "set_flag MTE2, V, 0 after the first" in text


def test_race_names_the_buffer() -> None:
    text = fault(LOAD + SCALE, declared=DECLARED + "buffer tile: ub 128 at 0\n")
    assert "ub bytes 0..127 of tile" in text


def test_race_within_an_unordered_pipe() -> None:
    text = fault(LOAD + flag("MTE2", "V") + SCALE + SCALE + flag("V", "MTE3") + STORE)
    assert "put pipe_barrier V between them" in text
    prove(LOAD + flag("MTE2", "V") + SCALE + "pipe_barrier V\n" + SCALE + flag("V", "MTE3") + STORE)


def test_bytes_that_interleave_do_not_conflict() -> None:
    even = "MTE2 copy_gm_to_ub f16@ub[0 | j:64, k:2] = f16@gm:x[0 | j:32, k:2] for j<4, k<16\n"
    odd = "V vdup f16@ub[32 | j:64, k:2] = 1.0 for j<4, k<16\n"
    assert prove(even + odd).pairs == 0
    assert "E0811" in fault(even + odd.replace("ub[32", "ub[30"))


def test_order_against_program_order_is_a_race() -> None:
    body = "wait_flag V, MTE3, 0\n" + STORE + "V vdup f16@ub[0 | j:2] = 1.0 for j<64\nset_flag V, MTE3, 0\n"
    text = fault(body)
    assert "E0811" in text
    assert "comes first in the listing" in text


def test_flag_set_twice() -> None:
    loop = "loop i < 2 {\n" + LOAD.replace("ub[0", "ub[i*128") + flag("MTE2", "V")
    loop += SCALE.replace("ub[0", "ub[i*128") + "}\n"
    text = fault(loop)
    assert "E0812" in text
    assert "may set a flag that is still set" in text
    back = loop.replace("loop i < 2 {\n", "set_flag V, MTE2, 0\nloop i < 2 {\nwait_flag V, MTE2, 0\n")
    back = back.removesuffix("}\n") + ("set_flag V, MTE2, 0\n}\nwait_flag V, MTE2, 0\n")
    # Only now is each set ordered after the wait before it.
    prove(back)


def test_flag_left_set() -> None:
    text = fault(GOOD + "set_flag V, MTE2, 3\n")
    assert "E0813" in text
    assert "sets a flag that nothing waits for" in text


def test_deadlock() -> None:
    text = fault(LOAD + "wait_flag V, MTE2, 0\n" + flag("MTE2", "V") + SCALE + "set_flag V, MTE2, 0\n")
    assert "E0814" in text
    assert "pipe MTE2 stands at c=0: wait_flag V, MTE2, 0" in text


def test_wait_in_vain() -> None:
    assert "E0814" in fault(GOOD + "wait_flag MTE2, V, 2\n")


def test_uninitialised_read() -> None:
    half = LOAD.replace("j<64", "j<40")
    text = fault(half + flag("MTE2", "V") + SCALE + flag("V", "MTE3") + STORE)
    assert "E0815" in text
    assert "reads ub bytes 80..127, which nothing has written" in text


def test_an_earlier_iteration_does_not_initialise() -> None:
    write = "V vdup f16@ub[c*0 | j:2] = 1.0 for j<64\n"
    body = "loop i < 1 {\n" + write + flag("V", "MTE3") + "}\n" + STORE + ALL
    prove(body)
    reader = "V vmuls f32@ub[256 | j:4] = f32@ub[256 | j:4], 1.0 for j<8 {line=9}\n"
    assert "(line 9) reads ub bytes 256..287" in fault(reader + ALL, cores=40)


def test_accumulating_into_nothing() -> None:
    body = "M mmad f32@l0c[0 | m:64, n:4] = f16@l0a[0 | m:32, k:2], f16@l0b[0 | k:32, n:2]"
    body += " for m<16, n<16, k<16\n"
    text = fault(body)
    assert "reads l0c bytes 0..1023" in text
    assert "reads l0c" not in fault(body.replace("k<16\n", "k<16 {init=0}\n"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (LOAD.replace("j<64", "j<65"), "accesses x bytes 0..129"),
        (LOAD.replace("ub[0", "ub[262080"), "accesses ub bytes 262080..262207, but ub has 262144 bytes"),
        (LOAD.replace("x[0", "x[-2"), "accesses x bytes -2..125"),
    ],
)
def test_outside(body: str, message: str) -> None:
    text = fault(body)
    assert "E0816" in text
    assert message in text


def test_an_instruction_may_not_overwrite_its_operand() -> None:
    start = LOAD + flag("MTE2", "V")
    shifted = SCALE.replace("f16@ub[0 | j:2] =", "f16@ub[2 | j:2] =")
    text = fault(start + shifted)
    assert "E0820" in text
    assert "writes ub bytes 2..127 while it still reads them as other elements" in text
    prove(start + SCALE)
    prove(start + shifted.replace("ub[2 ", "ub[128 "))


def test_bounds_keep_a_read_inside() -> None:
    padded = LOAD.replace("x[0", "x[-2").replace("{line=3}", "{inside=j - 1 < 64, fill=0.0}")
    prove(padded + flag("MTE2", "V") + SCALE)


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ("buffer t: ub 128 at 16\n", "E0817"),
        ("buffer t: ub 262144 at 32\n", "E0816"),
        ("buffer t: gm 128 at 0\n", "E0819"),
        ("buffer t: xx 128 at 0\n", "E0819"),
    ],
)
def test_placements(declared: str, code: str) -> None:
    assert code in fault(GOOD, declared=DECLARED + declared)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("set_flag MTE2, V, 4\n", "uses event ids 4..4; ascend910 has 0..3"),
        ("set_flag MTE2, X, 0\n", "has no pipe 'X'"),
        ("set_flag V, V, 0\n", "joins a pipe to itself"),
        ("set_flag V, MTE2, q\n", "is no loop variable here"),
        ("pipe_barrier Q\n", "has no pipe 'Q'"),
        (LOAD.replace("MTE2 ", "V "), "it runs on MTE2"),
        (LOAD.replace("gm:x", "gm:z"), "names no declared tensor"),
        (LOAD.replace("f16@ub", "f16@uc"), "has no space 'uc'"),
        (LOAD.replace("f16@ub[0", "f16@ub[1"), "are not aligned to 2"),
        ("V drain f16@ub[0] = f32@l0c[0], f32@ub[0] {scale=shift}\n", "cannot apply 'shift' while draining"),
        ("V drain i8@ub[0] = f32@l0c[0], 2.0 {scale=scale+convert}\n", "drains no f32 times a factor as i8"),
        (
            "V drain i8@ub[0] = i32@l0c[0], f32@l1[0] {scale=scale+convert}\n",
            "of a drain in 'ub', not in 'l1'",
        ),
        (
            "V drain i8@ub[0 | m:16, n:1] = i32@l0c[0 | m:64, n:4], f32@ub[0 | m:4] for m<16, n<16 "
            "{scale=scale+convert}\n",
            "one per column",
        ),
    ],
)
def test_rules(body: str, message: str) -> None:
    assert message in fault(body)


def test_cores_with_programs_of_their_own_are_each_proved() -> None:
    store = "MTE3 copy_ub_to_gm f16@gm:y[c*64 | j:2] = f16@ub[{0} | j:2] for j<32\n"
    body = "V vdup f16@ub[0 | j:2] = 1.0 for j<64\n" + flag("V", "MTE3")
    assert prove(body + store.format("c*64"), cores=2).programs == 2
    assert prove(body + store.format("0"), cores=2).programs == 1
    # Core 1 alone reads what nobody wrote.
    assert "reads ub bytes 128..191, which nothing has written" in fault(
        body + store.format("c*128"), cores=2
    )


def test_hostile_sizes_end_at_once() -> None:
    assert "E0821" in fault("loop i < 4611686018427387904 {\n" + SCALE + "}\n")
    assert "has 4611686018427387904 elements" in fault(SCALE.replace("j<64", "j<4611686018427387904"))
    assert "E0816" in fault(SCALE.replace("ub[0", "ub[4611686018427387904"))


def test_cores_share_written_bytes() -> None:
    write = "V vdup f16@ub[0 | j:2] = 1.0 for j<32\n" + flag("V", "MTE3")
    store = "MTE3 copy_ub_to_gm f16@gm:y[c*{0} | j:2] = f16@ub[0 | j:2] for j<32 {{line=5}}\n" + ALL
    prove(write + store.format(64), cores=2)
    text = fault(write + store.format(32), cores=2)
    assert "E0818" in text
    assert "core 1 writes y bytes 32..63 in 'MTE3 copy_ub_to_gm' (line 5) while core 0 writes them" in text


def test_interleaved_cores_do_not_conflict() -> None:
    body = "V vdup f16@ub[0 | j:2] = 1.0 for j<32\n" + flag("V", "MTE3")
    body += "MTE3 copy_ub_to_gm f16@gm:y[c*32 | i:64, j:2] = f16@ub[0 | i:32, j:2] for i<2, j<16\n"
    prove(body, cores=2)


def test_output_read_before_it_is_written() -> None:
    back = LOAD.replace("gm:x", "gm:y")
    assert "reads y bytes 0..127, which nothing has written" in fault(back + flag("MTE2", "V") + SCALE)
    text = f"{DECLARED}core c < 1 {{\n{GOOD}}}\ncore c < 1 {{\n{back}}}\n"
    npu.prove(npu.parse_listing(text))


def test_speed() -> None:
    """A proof of a kernel's size takes a fraction of a compilation."""
    listing = npu.parse_listing(
        PIPELINED.replace("i < 8", "i < 400").replace("[2,8,64]", "[2,400,64]").replace("1024", "51200")
    )
    start = time.process_time()
    proof = npu.prove(listing)
    assert proof.instructions > 4000
    assert time.process_time() - start < 1.0


def test_sample_is_proved() -> None:
    assert npu.prove(npu.emit(barriers(place(sample(), machine())), machine())).races == 0


# Agreement with a checker that shares no idea with the real one: reachability in the full event graph.

PIPES = ("MTE2", "V", "MTE3")  # all unordered


def random_listing(random: Random) -> str:
    lines = []
    for _ in range(random.randint(2, 9)):
        a, b = random.sample(PIPES, 2)
        at, to = random.randrange(4) * 32, random.randrange(4) * 32 + 512
        wide = random.choice((16, 32))
        lines.append(
            random.choice(
                [
                    f"MTE2 copy_gm_to_ub f16@ub[{at} | j:2] = f16@gm:x[0 | j:2] for j<{wide}",
                    f"V vdup f16@ub[{at} | i:64, j:2] = 1.0 for i<2, j<16",
                    f"MTE3 copy_ub_to_gm f16@gm:y[{to} | j:2] = f16@ub[{at} | j:2] for j<16",
                    f"set_flag {a}, {b}, 0",
                    f"wait_flag {a}, {b}, 0",
                    f"pipe_barrier {random.choice((*PIPES, 'ALL'))}",
                ]
            )
        )
    text = "listing v1 t machine ascend910\ntensor x: f16[512] input\ntensor y: f16[512] output\n"
    # Everything is initialised first, so that only order is in question.
    start = "V vdup f16@ub[0 | j:2] = 0.0 for j<512\npipe_barrier ALL\n"
    return text + "core c < 1 {\n" + start + "\n".join(lines) + "\n}\n"


Node = tuple[str, int]  # start ("s") or end ("e") of an instruction


def event_edges(body: list[Instruction]) -> set[tuple[Node, Node]]:
    """What the pipes promise, one edge per pair that is ordered."""
    edges: set[tuple[Node, Node]] = {(("s", k), ("e", k)) for k in range(len(body))}
    for pipe in PIPES:
        mine = [k for k, i in enumerate(body) if i.pipe in (pipe, "ALL")]
        edges |= {(("s", a), ("s", b)) for a, b in itertools.pairwise(mine)}
        for a, b in itertools.combinations(mine, 2):
            if body[b].mnemonic in ("set_flag", "pipe_barrier"):
                edges.add((("e", a), ("e", b)))
            if body[a].mnemonic in ("wait_flag", "pipe_barrier"):
                edges.add((("e", a), ("s", b)))
    for k, i in enumerate(body):
        if i.pipe == "ALL":
            edges |= {(("e", other), ("e", k)) for other in range(k)}
            edges |= {(("e", k), ("s", other)) for other in range(k + 1, len(body))}
    return edges


def closure(edges: set[tuple[Node, Node]], n: int) -> dict[Node, set[Node]]:
    nodes = [(side, k) for k in range(n) for side in "se"]
    reach = {node: {b for a, b in edges if a == node} for node in nodes}
    for mid in nodes:
        for node in nodes:
            if mid in reach[node]:
                reach[node] |= reach[mid]
    return reach


def touched(s: Static) -> tuple[set[int], set[int]]:
    """Bytes read and written; the input tensor does not matter."""
    sides = []
    for source in (True, False):
        found = set()
        for r in s.instruction.sources if source else s.instruction.dst:
            for f in footprints(s, r, source) if r.tensor != "x" else ():
                base = 10**6 if r.tensor == "y" else 0
                found |= {base + f.address + b for low, high in f.runs for b in range(low, high)}
        sides.append(found)
    return sides[0], sides[1]


def naive(listing: npu.Listing) -> bool:
    """Whether the listing is safe, by transitive closure over start and end of every instruction."""
    body = list(listing.phases[0].body)
    n = len(body)
    sets: dict[object, list[int]] = {}
    waits: dict[object, list[int]] = {}
    for k, i in enumerate(body):
        if i.mnemonic in ("set_flag", "wait_flag"):
            (sets if i.mnemonic == "set_flag" else waits).setdefault(i.flag[:2], []).append(k)
    if any(len(sets.get(f, [])) != len(waits.get(f, [])) for f in {*sets, *waits}):
        return False
    edges = event_edges(body)
    for f in sets:
        edges |= {(("e", a), ("e", b)) for a, b in zip(sets[f], waits[f], strict=True)}
    reach = closure(edges, n)
    if any(node in after for node, after in reach.items()):
        return False
    for f in sets:
        if any(("e", b) not in reach[("e", a)] for a, b in zip(waits[f], sets[f][1:], strict=False)):
            return False
    bytes_of = [touched(s) for s in expand(listing.phases[0], range(1)).statics]
    for a, b in itertools.combinations(range(n), 2):
        (ra, wa), (rb, wb) = bytes_of[a], bytes_of[b]
        if (wa & (rb | wb) or ra & wb) and ("s", b) not in reach[("e", a)]:
            return False
    return True


def test_agrees_with_reachability_on_random_listings() -> None:
    random = Random(5)
    verdicts = {True: 0, False: 0}
    for _ in range(400):
        listing = npu.parse_listing(random_listing(random))
        try:
            safe = npu.prove(listing).races == 0
        except ListingError:
            safe = False
        assert safe == naive(listing), npu.print_listing(listing)
        verdicts[safe] += 1
    assert min(verdicts.values()) > 20


def test_byte_sets_against_enumeration() -> None:
    random = Random(1)

    def enumerate_box(extents: tuple[int, ...], strides: tuple[int, ...], size: int) -> set[int]:
        starts = (
            sum(x * s for x, s in zip(p, strides, strict=True))
            for p in itertools.product(*map(range, extents))
        )
        return {b for at in starts for b in range(at, at + size)}

    def box(n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(random.randint(1, 4) for _ in range(n)), tuple(random.randint(-12, 12) for _ in range(n))

    for _ in range(1000):
        size = random.choice((1, 2, 4))
        first, second = box(random.randint(0, 3)), box(2)
        a, b = box_runs(*first, size), box_runs(*second, size)
        shift = random.randint(-20, 20)
        left = enumerate_box(*first, size)
        right = {x + shift for x in enumerate_box(*second, size)}
        assert {x for low, high in a for x in range(low, high)} == left
        assert merged(a) == a
        shared = overlap(a, b, shift)
        assert bool(shared) == bool(left & right)
        assert shared is None or set(range(*shared)) <= left & right
        covered = Coverage()
        covered.add(a)
        missing = covered.missing(b, shift)
        assert (missing is None) == (right <= left)
        assert missing is None or set(range(*missing)) <= right - left


def test_merging_instructions_read_their_destination() -> None:
    body = "V vcadd f32@ub[0] = f32@ub[64 | j:4] for j<8 {init=c}\n"
    phase = npu.parse_listing(f"{DECLARED}core c < 2 {{\n{body}}}\n").phases[0]
    assert reads_destination(expand(phase, range(2)).statics[0]) == [False, True]
