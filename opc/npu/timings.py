"""Many random timings of one core at once, each a column of the arrays.

The same rules as ``engine``, whose queues and flags leave no choice of what waits for what; only times differ. Delays
and durations are drawn per instruction and column, with a pace per pipe: slow here and fast there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opc.machine.model import Machine
from opc.npu.engine import BARRIER_ALL, SET, WAIT, WORK, Plan, deadlock, resume

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any

PACES = (0.1, 5.0, 200.0)


@dataclass(frozen=True, slots=True)
class Times:
    """Completion by position and column; columns in which a flag was set again before its wait; sets never cleared."""

    complete: Array
    lost: Array
    left: int


def times(plan: Plan, machine: Machine, columns: int, seed: int) -> Times:
    """Play the trace under ``columns`` random timings. Raises ListingError E0814 on deadlock, which all share."""
    return _Columns(plan, machine, columns, seed).run()


class _Columns:
    def __init__(self, plan: Plan, machine: Machine, columns: int, seed: int) -> None:
        import numpy as np

        n = len(plan.pipes)
        self.plan, self.maximum = plan, np.maximum
        self.random = np.random.default_rng(seed)
        self.depth = machine.queue_depth or len(plan.trace.order) + 1
        self.dispatch, self.sync = machine.dispatch_cycles, machine.sync_cycles
        self.ordered = [p not in machine.unordered_pipes for p in plan.pipes]
        self.columns = columns
        self.paces = self.random.choice(PACES, (n + 1, columns))
        self.free = [np.zeros(columns) for _ in range(n)]
        self.done = [np.zeros(columns) for _ in range(n)]
        self.started: list[list[Array]] = [[] for _ in range(n)]
        self.issued = [0] * n
        self.queued: list[deque[tuple[int, int, int, Array]]] = [deque() for _ in range(n)]
        self.sets: list[list[Array]] = [[] for _ in plan.names]
        self.clears: list[list[Array]] = [[] for _ in plan.names]
        self.waiting: dict[int, int] = {}
        self.complete = np.zeros((len(plan.trace.order), columns))

    def run(self) -> Times:
        p = self.plan
        count = [0] * len(p.kinds)
        now = 0.0 * self.paces[-1]
        for position, j in enumerate(p.trace.order):
            draw = self.random.random((2, self.columns))
            now = now + self.dispatch + draw[0] * self.paces[-1] * (1 + 19 * (draw[1] < 0.1))
            kind, k = p.kinds[j], count[j]
            count[j] = k + 1
            if kind == BARRIER_ALL:
                now = self._barrier_all(position, now)
                continue
            pipe = p.pipe[j]
            n = self.issued[pipe]
            self.issued[pipe] = n + 1
            if n >= self.depth:
                if n - self.depth >= len(self.started[pipe]):
                    raise self._stuck(position)
                now = self.maximum(now, self.started[pipe][n - self.depth])
            events = p.flags[j]
            flag = -1 if not events else events[k if len(events) > 1 else 0]
            if self.queued[pipe] or not self._execute(position, j, flag, now):
                self.queued[pipe].append((position, j, flag, now))
            elif kind == SET and self.waiting:
                resume(flag, self.queued, self.waiting, p.kinds, self._execute)
        if any(self.queued):
            raise self._stuck(len(p.trace.order))
        return self._times()

    def _execute(self, position: int, j: int, flag: int, now: Array) -> bool:
        pipe, kind = self.plan.pipe[j], self.plan.kinds[j]
        if kind == WAIT and len(self.clears[flag]) >= len(self.sets[flag]):
            self.waiting[flag] = pipe
            return False
        draw = self.random.random((4, self.columns))
        begin = self.maximum(self.free[pipe], now) + draw[0] * self.paces[pipe]
        if kind == WORK:
            # Mostly short and sometimes very long, so that every unordered pair meets both ways round.
            length = (self.plan.latency[j] + self.paces[pipe]) * draw[1] * (1 + 19 * (draw[2] < 0.2))
            end = begin + length
            self.free[pipe] = end if self.ordered[pipe] else begin + length * draw[3]
            self.done[pipe] = self.maximum(self.done[pipe], end)
        elif kind == WAIT:
            self.waiting.pop(flag, None)
            end = self.maximum(begin, self.sets[flag][len(self.clears[flag])]) + self.sync
            self.clears[flag].append(end)
            self.free[pipe] = end
        else:
            end = self.maximum(begin, self.done[pipe]) + self.sync
            self.free[pipe] = begin + self.sync if kind == SET else end
            if kind == SET:
                self.sets[flag].append(end)
        self.complete[position] = end
        self.started[pipe].append(begin)
        return True

    def _barrier_all(self, position: int, now: Array) -> Array:
        if any(self.queued):
            raise self._stuck(position)
        end = now
        for other in (*self.free, *self.done):
            end = self.maximum(end, other)
        end = end + self.sync
        self.complete[position] = end
        self.free = [end] * len(self.free)
        self.done = [end] * len(self.done)
        return end

    def _times(self) -> Times:
        lost = self.paces[-1] < 0
        left = 0
        for sets, clears in zip(self.sets, self.clears, strict=True):
            left += len(sets) - len(clears)
            for n in range(1, len(sets)):
                # The flag is binary: a set before the previous one is cleared is lost.
                lost = lost | (n > len(clears)) | (sets[n] < clears[n - 1] if n <= len(clears) else True)
        return Times(self.complete, lost, left)

    def _stuck(self, position: int) -> Exception:
        return deadlock(self.plan, [q[0][1] for q in self.queued if q], position)
