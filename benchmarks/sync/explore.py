"""A checker that shares nothing with the one that ships: it tries every interleaving.

One core's instructions are started and finished in every order that queues, flags and barriers admit; operands are sets
of bytes. Exponential, so for a few dozen instructions only.
"""

from __future__ import annotations

from dataclasses import dataclass

from opc.machine import Machine
from opc.npu.bytesets import conflicts, touched
from opc.npu.engine import BARRIER, BARRIER_ALL, SET, WAIT, WORK, Plan
from opc.npu.listing import Listing

LIMIT = 200_000  # states


class TooManyStatesError(Exception):
    """The trace has too many interleavings."""


@dataclass(frozen=True, slots=True)
class State:
    """``taken``: by pipe, how many instructions have left the queue. Sets of positions and of flags are bits."""

    dispatched: int
    taken: tuple[int, ...]
    finished: int
    running: int
    armed: int  # sets that have left the queue and not fired yet
    flags: int


class Explorer:
    """All states that one trace can reach."""

    def __init__(self, plan: Plan, machine: Machine, listing: Listing) -> None:
        self.order = plan.trace.order
        self.kind = [plan.kinds[j] for j in self.order]
        self.pipe = [plan.pipe[j] for j in self.order]
        self.depth = machine.queue_depth or len(self.order) + 1
        self.ordered = [p not in machine.unordered_pipes for p in plan.pipes]
        count = [0] * len(plan.kinds)
        self.flag = []
        for j in self.order:
            events = plan.flags[j]
            self.flag.append(1 << events[count[j] if len(events) > 1 else 0] if events else 0)
            count[j] += 1
        self.queue: list[list[int]] = [[] for _ in plan.pipes]
        for n, kind in enumerate(self.kind):
            if kind != BARRIER_ALL:
                self.queue[self.pipe[n]].append(n)
        work = [n for n, kind in enumerate(self.kind) if kind == WORK]
        self.before = [0] * len(self.order)  # what must have finished when a position starts
        for a, b in conflicts(touched(plan, listing)):
            self.before[work[b]] |= 1 << work[a]
        # On its own pipe: everything earlier, and the work among it.
        self.earlier = [self._earlier(n) for n in range(len(self.order))]

    def problem(self) -> str:
        """What the first interleaving with a problem meets: "race", "doubled", "stuck" or "left"; "" if none does."""
        first = State(0, (0,) * len(self.queue), 0, 0, 0, 0)
        seen, stack = {first}, [first]
        while stack:
            state = stack.pop()
            following = self._moves(state)
            if isinstance(following, str):
                return following
            for s in following:
                if s not in seen:
                    seen.add(s)
                    stack.append(s)
            if len(seen) > LIMIT:
                raise TooManyStatesError
        return ""

    def _earlier(self, n: int) -> int:
        bits = 0
        for m in self.queue[self.pipe[n]]:
            if m < n and self.kind[m] == WORK:
                bits |= 1 << m
        return bits

    def _moves(self, s: State) -> list[State] | str:
        s = self._dispatch(s)
        armed = s.armed
        while armed:
            n = armed.bit_length() - 1
            armed &= ~(1 << n)
            if not self.earlier[n] & ~s.finished:
                if s.flags & self.flag[n]:
                    return "doubled"
                # Firing late is no different from waiting late, so it need not be tried.
                return [self._with(s, armed=s.armed & ~(1 << n), flags=s.flags | self.flag[n])]
        found: list[State] = []
        running = s.running
        while running:
            n = running.bit_length() - 1
            running &= ~(1 << n)
            found.append(self._with(s, finished=s.finished | 1 << n, running=s.running & ~(1 << n)))
        for pipe, queue in enumerate(self.queue):
            if s.taken[pipe] < len(queue) and queue[s.taken[pipe]] < s.dispatched:
                following = self._start(s, pipe, queue[s.taken[pipe]])
                if isinstance(following, str):
                    return following
                found += [] if following is None else [following]
        if found:
            return found
        if s.dispatched < len(self.order) or any(
            t < len(q) for t, q in zip(s.taken, self.queue, strict=True)
        ):
            return "stuck"
        return "left" if s.flags else []

    def _dispatch(self, s: State) -> State:
        """As far as queues and barriers let it: what is dispatched later could as well start later."""
        at = s.dispatched
        while at < len(self.order):
            if self.kind[at] == BARRIER_ALL:
                idle = all(t == len(q) or q[t] > at for t, q in zip(s.taken, self.queue, strict=True))
                if not idle or s.running or s.armed:
                    break
            else:
                queue = self.queue[self.pipe[at]]
                waiting = sum(1 for n in queue[s.taken[self.pipe[at]] :] if n < at)
                if waiting >= self.depth:
                    break
            at += 1
        return s if at == s.dispatched else self._with(s, dispatched=at)

    def _start(self, s: State, pipe: int, n: int) -> State | str | None:
        kind, bit = self.kind[n], 1 << n
        taken = (*s.taken[:pipe], s.taken[pipe] + 1, *s.taken[pipe + 1 :])
        unfinished = self.earlier[n] & ~s.finished
        if kind == WORK:
            if self.ordered[pipe] and unfinished:
                return None
            if self.before[n] & ~s.finished:
                return "race"
            return self._with(s, taken=taken, running=s.running | bit)
        if kind == SET:
            return self._with(s, taken=taken, armed=s.armed | bit)
        if kind == WAIT:
            return (
                self._with(s, taken=taken, flags=s.flags & ~self.flag[n]) if s.flags & self.flag[n] else None
            )
        assert kind == BARRIER
        return None if unfinished else self._with(s, taken=taken)

    def _with(
        self,
        s: State,
        dispatched: int | None = None,
        taken: tuple[int, ...] | None = None,
        finished: int | None = None,
        running: int | None = None,
        armed: int | None = None,
        flags: int | None = None,
    ) -> State:
        return State(
            s.dispatched if dispatched is None else dispatched,
            s.taken if taken is None else taken,
            s.finished if finished is None else finished,
            s.running if running is None else running,
            s.armed if armed is None else armed,
            s.flags if flags is None else flags,
        )
