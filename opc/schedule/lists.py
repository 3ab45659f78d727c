"""List scheduling: tasks in the order of a priority, improved by going through the schedule from both ends."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from opc.schedule.exchange import Found, Search, improve
from opc.schedule.problem import Problem, Run, heights, replay

LOOK = 16  # ready tasks of a pipe that are considered at a time
EFFORT = 40_000  # tasks placed while improving, over all passes: large problems get few passes
PASSES = 40
QUICK = 4  # passes where the search is not thorough
STALE = 6  # passes without progress after which a start is given up


def list_order(problem: Problem, priority: Sequence[float], look: int = LOOK) -> list[int]:
    """Tasks pipe by pipe, highest priority first; ``look`` ready tasks of a pipe may fill the gap before it."""
    queues = _Queues(problem, priority, look)
    waiting = [len(b) for b in problem.before]
    early = [t.release for t in problem.tasks]
    for j, count in enumerate(waiting):
        if not count:
            queues.offer(j, early[j])
    order: list[int] = []
    after = problem.after
    while len(order) < len(waiting):
        j, at = queues.take()
        order.append(j)
        for t, wait in after[j]:
            if at + wait > early[t]:
                early[t] = at + wait
            waiting[t] -= 1
            if not waiting[t]:
                queues.offer(t, early[t])
    return order


class _Queues:
    """Tasks whose dependences are placed, by the pipe that they hold longest."""

    def __init__(self, problem: Problem, priority: Sequence[float], look: int) -> None:
        self.tasks, self.look = problem.tasks, look
        self.keys = [(-p, j) for j, p in enumerate(priority)]
        self.lead = [max(t.pipes, key=lambda s: s[2] - s[1])[0] for t in problem.tasks]
        self.single = all(len(t.pipes) == 1 for t in problem.tasks)
        self.ready: dict[str, list[tuple[float, int]]] = {p: [] for p in sorted(set(self.lead))}
        self.picks: dict[str, tuple[float, float, int]] = {}  # what each pipe would run next
        self.early = [0.0] * len(problem)
        self.free: dict[str, float] = {}

    def offer(self, j: int, early: float) -> None:
        """Task ``j`` may start at ``early`` if its pipes are free."""
        self.early[j] = early
        lead = self.lead[j]
        queue, key = self.ready[lead], self.keys[j]
        # The pick of a pipe looks at the first few only.
        if lead in self.picks and (len(queue) < self.look or key < queue[self.look - 1]):
            del self.picks[lead]
        insort(queue, key)

    def take(self) -> tuple[int, float]:
        """The task to place next and its start: of each pipe the one of highest priority, or another
        one that fits into the gap before it; of these the first to start.
        """
        for p, queue in self.ready.items():
            if queue and p not in self.picks:
                j = self._pick(queue)
                self.picks[p] = (self.start(j), self.keys[j][0], j)
        at, _, best = min(self.picks.values())
        lead = self.lead[best]
        queue = self.ready[lead]
        del queue[bisect_left(queue, self.keys[best])]
        for p, _, end in self.tasks[best].pipes:
            self.free[p] = at + end
        if self.single:
            del self.picks[lead]
        else:
            self.picks.clear()
        return best, at

    def start(self, j: int) -> float:
        """When ``j`` could start now."""
        start = self.early[j]
        for p, begin, _ in self.tasks[j].pipes:
            at = self.free.get(p, 0.0) - begin
            if at > start:
                start = at
        return start

    def _pick(self, queue: list[tuple[float, int]]) -> int:
        top = queue[0][1]
        limit = self.start(top)
        if self.single and limit <= self.free.get(self.lead[top], 0.0):
            return top  # no gap
        for _, j in queue[1 : self.look]:
            begin = self.start(j)
            # A filler may overrun the gap by half of what it fills.
            if begin + max([end for _, _, end in self.tasks[j].pipes]) <= limit + (limit - begin) / 2:
                return j
        return top


def schedule(problem: Problem, iterations: int = 1, thorough: bool = True) -> Found:
    """The best order found, never worse than the given one; the same for the same problem.

    Starts from several priorities (longest path; longest path plus what the pipes still hold), and
    from each goes backward and forward: a backward schedule says how late each task may be, which
    makes a priority for the forward one, and so on. At last tasks on the critical path change places.
    Unless it is to be ``thorough`` a few passes are all.
    """
    search = Search(problem, iterations)
    passes = max(1, min(PASSES, EFFORT // max(1, len(problem)))) if thorough else QUICK
    back = problem.reversed() if passes > 1 else problem
    for rule in (carried_heights, heights, pressure):
        if search.done or passes <= 0:
            break
        if rule is heights and not any(problem.carried):
            continue  # the same as the first
        priority = rule(problem)
        for look in (LOOK, 1):
            passes -= _iterate(search, back, priority, look, passes)
    if thorough and not search.done:
        improve(search)
    return search.best


def _iterate(search: Search, back: Problem, priority: Sequence[float], look: int, passes: int) -> int:
    """Forward, backward, forward …; the number of passes made."""
    problem = search.problem
    stale, made = 0, 0
    while made < passes and stale < STALE and not search.done:
        order = list_order(problem, priority, look)
        made += 1
        stale = 0 if search.offer(order) else stale + 1
        if made >= passes:
            break
        run = replay(problem, order)
        # Backward, what ends last goes first; forward again, what starts first backward-wise goes first.
        other = replay(back, list_order(back, _finish(problem, run), look))
        priority = _finish(back, other)
        made += 1
    return made


def _finish(problem: Problem, run: Run) -> list[float]:
    return [s + max([e for _, _, e in t.pipes]) for s, t in zip(run.starts[0], problem.tasks, strict=True)]


def pressure(problem: Problem) -> list[float]:
    """Priorities by longest path where each step also waits for the share of its pipe that is still to come."""
    work: dict[str, float] = {}
    for t in problem.tasks:
        for p, begin, end in t.pipes:
            work[p] = work.get(p, 0.0) + end - begin
    most = max(work.values(), default=0.0) or 1.0
    extra = [max([(e - b) * work[p] / most for p, b, e in t.pipes]) for t in problem.tasks]
    found = list(extra)
    for j in reversed(problem.topological):
        for later, wait in problem.after[j]:
            found[j] = max(found[j], found[later] + wait + extra[j])
    return [a + b for a, b in zip(found, heights(problem), strict=True)]


def carried_heights(problem: Problem) -> list[float]:
    """Longest paths where a task that the next iteration waits for is charged the path it holds up there."""
    beyond, tall = [0.0] * len(problem), heights(problem)
    for target, edges in enumerate(problem.carried):
        for source, distance, wait in edges:
            if distance == 1:
                beyond[source] = max(beyond[source], wait + tall[target])
    found = [max(a, b) for a, b in zip(problem.ends, beyond, strict=True)]
    for j in reversed(problem.topological):
        for t, wait in problem.after[j]:
            found[j] = max(found[j], found[t] + wait)
    return found
