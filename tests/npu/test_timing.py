"""Timing: dispatch, queues, occupancy and latency, flags, barriers, deadlock, speed."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from opc import npu
from opc.errors import ListingError
from opc.machine.model import Route, VectorCost
from opc.npu.engine import Engine, plan
from opc.npu.expand import expand
from opc.report.trace import chrome_trace
from tests.npu.samples import PIPELINED, barriers, machine, place, sample


def simple(**changes: object) -> object:
    """A machine with round figures: copies of 128 bytes occupy 10 cycles and are visible after 30."""
    base = machine()
    routes = tuple(
        Route("copy_in", "gm", "ub", "MTE2", 12.8, 20)
        if (r.source, r.target) == ("gm", "ub")
        else Route("copy_out", "ub", "gm", "MTE3", 12.8, 20)
        if r.pipe == "MTE3"
        else r
        for r in base.routes
    )
    costs = {"default": VectorCost(3, 4, 5)}
    values = {"routes": routes, "vector_costs": costs, "dispatch_cycles": 1.0, "sync_cycles": 1.0, **changes}
    return replace(base, **values)


def events(body: str, **changes: object) -> tuple[list[tuple[str, float, float, float]], float]:
    declared = "tensor x: f16[640] input\ntensor y: f16[640] output\n"
    text = f"listing v1 t machine ascend910\n{declared}core c < 1 {{\n{body}}}\n"
    timeline = npu.time(npu.parse_listing(text), simple(**changes))
    return [(e.name, e.start, e.end, e.complete) for e in timeline.events()], timeline.cycles


LOAD = "MTE2 copy_gm_to_ub f16@ub[{0} | j:2] = f16@gm:x[0 | j:2] for j<64\n"
SCALE = "V vmuls f16@ub[{0} | j:2] = f16@ub[{0} | j:2], 2.0 for j<64\n"
STORE = "MTE3 copy_ub_to_gm f16@gm:y[{0} | j:2] = f16@ub[{0} | j:2] for j<64\n"


def test_pipes_run_side_by_side_and_in_order() -> None:
    found, cycles = events(LOAD.format(0) + LOAD.format(128) + SCALE.format(256))
    assert found == [
        ("copy_gm_to_ub", 1, 11, 31),
        ("copy_gm_to_ub", 11, 21, 41),
        ("vmuls", 3, 7, 15),
    ]
    assert cycles == 41


def test_a_flag_waits_for_completion_not_for_the_pipe() -> None:
    body = (
        LOAD.format(0)
        + "set_flag MTE2, V, 0\n"
        + LOAD.format(128)
        + "wait_flag MTE2, V, 0\n"
        + SCALE.format(0)
    )
    found, _ = events(body)
    # Complete at 31, set at 32, cleared at 33; the second load starts once the set has been issued.
    assert found[0] == ("copy_gm_to_ub", 1, 11, 31)
    assert found[1][1] == 12
    assert found[2][1] == 33


def test_barrier_waits_for_its_own_pipe() -> None:
    body = SCALE.format(0) + "pipe_barrier V\n" + SCALE.format(0) + LOAD.format(128)
    found, _ = events(body)
    assert found[0] == ("vmuls", 1, 5, 13)
    assert found[1][1] == 14
    assert found[2][1] == 4


def test_barrier_across_all_pipes_stops_dispatch() -> None:
    found, _ = events(SCALE.format(0) + "pipe_barrier ALL\n" + LOAD.format(128))
    assert found[1][1] == 15


def test_dispatch_stalls_on_a_full_queue() -> None:
    body = "".join(LOAD.format(128 * n) for n in range(4)) + SCALE.format(1024)
    free, _ = events(body)
    full, _ = events(body, queue_depth=1)
    assert free[4][1] == 5
    # The fourth load enters the queue when the third starts, at 21.
    assert full[4][1] == 22


def test_phases_and_iterations_add_up() -> None:
    one = events(LOAD.format(0))[1]
    text = "listing v1 t machine ascend910\ntensor x: f16[640] input\n" + "".join(
        f"core {var} < {n} {{\n  {LOAD.format(0)}  pipe_barrier ALL\n}}\n"
        for var, n in (("c", 32), ("d", 33))
    )
    # 33 iterations on 32 cores: one core runs two.
    timeline = npu.time(npu.parse_listing(text), simple())
    assert timeline.cycles == 3 * (one + 1)
    assert timeline.instructions == 6


def test_deadlock_names_the_pipes() -> None:
    body = "wait_flag V, MTE2, 0\nset_flag MTE2, V, 0\nwait_flag MTE2, V, 0\nset_flag V, MTE2, 0\n"
    with pytest.raises(ListingError, match="E0814") as caught:
        events(body)
    assert "pipe MTE2 stands at 'wait_flag V, MTE2, 0'" in str(caught.value)
    assert "pipe V stands at 'wait_flag MTE2, V, 0'" in str(caught.value)


def test_a_queue_can_deadlock() -> None:
    body = "wait_flag V, MTE2, 0\n" + LOAD.format(0) * 3 + "set_flag V, MTE2, 0\n"
    assert events(body)[1] > 0
    with pytest.raises(ListingError, match="E0814"):
        events(body, queue_depth=2)


def test_busy_share_counts_occupancy() -> None:
    timeline = npu.time(npu.parse_listing(PIPELINED))
    events = list(timeline.events())
    for pipe, cycles in timeline.busy.items():
        assert cycles == pytest.approx(sum(e.end - e.start for e in events if e.pipe == pipe))
    assert all(0 <= share <= 1 for share in timeline.busy_share.values())
    # 36 flags, of which 4 are primed before any instruction and 4 drained after the last.
    assert len(list(timeline.signals())) == 28


def test_simulation_speed() -> None:
    listing = npu.emit(barriers(place(sample(), machine())), machine())
    phase = replace(npu.parse_listing(PIPELINED).phases[0], extent=32 * 300)
    for p in (phase, replace(listing.phases[0], extent=32 * 300)):
        prepared = plan(expand(p, p.iterations(0, 32)), machine())
        count = len(prepared.trace.order)
        start = time.process_time()
        Engine(prepared, machine()).run()
        assert count / (time.process_time() - start) > 200_000


def test_chrome_trace() -> None:
    timeline = npu.time(npu.parse_listing(PIPELINED))
    text = chrome_trace(timeline)
    assert text == chrome_trace(npu.time(npu.parse_listing(PIPELINED)))
    items = json.loads(text)["traceEvents"]
    names = [i["args"]["name"] for i in items if i["name"] == "thread_name"]
    assert names == ["SCALAR", "VECTOR", "CUBE", "MTE1", "MTE2", "MTE3"]
    slices = [i for i in items if i["ph"] == "X" and i["cat"] != "stall"]
    stalls = [i for i in items if i["ph"] == "X" and i["cat"] == "stall"]
    assert {s["name"] for s in stalls} == {"wait_flag"}
    assert len(slices) == 32
    assert {s["args"]["line"] for s in slices} == {1, 2, 3, 4}
    starts, ends = ({i["id"]: i for i in items if i["ph"] == p} for p in "sf")
    assert len(starts) == 28
    assert starts.keys() == ends.keys()
    assert all(starts[n]["ts"] <= ends[n]["ts"] for n in starts)
    by_row: dict[int, float] = {}
    for s in sorted(slices + stalls, key=lambda s: s["ts"]):
        assert s["ts"] >= by_row.get(s["tid"], 0) - 2e-6
        by_row[s["tid"]] = s["ts"] + s["dur"]


def test_every_instruction_runs_in_its_own_loops() -> None:
    work, fill = (f"V vdup f16@ub[{v}*128 | x:2] = 1.0 for x<16\n" for v in "ik")
    body, counts = "", []
    for n in range(2, 30):
        body += f"loop k < {n} {{\n {fill}loop i < {n + 1} {{\n {work} }}\n }}\nloop i < {n} {{\n {work} }}\n"
        counts += [n, n * (n + 1), n]
    listing = npu.parse_listing(f"listing v1 t machine ascend910\ncore c < 1 {{\n{body}}}\n")
    trace = expand(listing.phases[0], range(1))
    assert [s.count for s in trace.statics] == counts
    assert all(trace.order.count(s.number) == s.count for s in trace.statics)
