"""Event ids for flags: which flags of a pipe pair may share one, and what to give up when ids run out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from opc.program.order import Node, Reached
from passes.program._flags import Body, Flag, Pair, Path, Tweak, joinable

Key = tuple[Path, Flag]


@dataclass(slots=True)
class Events:
    """``base``: the first id of each flag, which takes every ``stride``-th from there."""

    count: int
    base: dict[Key, int] = field(default_factory=dict)
    failed: Key | None = None

    def stride(self, flag: Flag) -> int:
        """Ids between two that a flag uses, so that ``stride * iteration`` cycles through them."""
        size = next(n for n in range(flag.ids, self.count + 1) if self.count % n == 0)
        return self.count // size


def allocate(root: Body, count: int, early: bool) -> Events:
    """Ids for all flags under ``root``; ``failed`` names the first flag that found none.

    Two flags share an id where all waits of one happen before all sets of the other. ``early``: primed
    flags are drained right after their loop rather than at the end.
    """
    events = Events(count)
    users: dict[Pair, dict[int, list[Node | None]]] = {}
    reached: dict[Node, Reached] = {}
    for key, start, end in _lives(root, early):
        _, flag = key
        taken = users.setdefault(flag.pair, {n: [] for n in range(count)})
        stride = events.stride(flag)
        for base in range(stride):
            ids = range(base, count, stride)
            if all(_free(root, last, start, reached) for n in ids for last in taken[n]):
                break
        else:
            events.failed = key
            return events
        events.base[key] = base
        for n in ids:
            taken[n].append(end)
    return events


def _free(root: Body, last: Node | None, start: Node, reached: dict[Node, Reached]) -> bool:
    if last is None:
        return False
    if last not in reached:
        reached[last] = root.order.reach(last)
    return start in reached[last]


def _lives(root: Body, early: bool) -> list[tuple[Key, Node, Node | None]]:
    """(flag, where its first set stands, where its last wait stands if anything can follow), in order."""
    found: list[tuple[int, Key, Node, Node | None]] = []
    for f in root.flags:
        found.append((2 * f.source + 1, ((), f), f.set_point, f.wait_point))
    for j, child in root.children.items():
        for body in child.nest():
            for f in body.flags:
                # Primed before the loop, in front of the waits that stand there.
                at = 2 * j - 1 if f.distance else 2 * j
                start: Node = ("earlier", f.first, at)
                after = 2 * j + 2 if f.distance else 2 * j + 1
                open_end = after >= root.order.points or (f.distance and not early)
                found.append((at, (body.path, f), start, None if open_end else ("later", f.then, after)))
    found.sort(key=lambda item: item[0])
    return [item[1:] for item in found]


def relax(root: Body, failed: Key, tweaks: Mapping[Path, Tweak]) -> dict[Path, Tweak]:
    """Tweaks that lower the demand for ids of the failed flag's pair, mildest first."""
    path, flag = failed
    top = tweaks.get((), Tweak())
    if not top.plain:
        # An early wait ends the use of an id, which a later flag may then take.
        return {**tweaks, (): replace(top, plain=True)}
    bodies = list(root.children[path[0]].nest()) if path else [root]
    bodies = [b for b in bodies if any(f.pair == flag.pair for f in b.flags)]
    for body in bodies:
        known = tweaks.get(body.path, Tweak())
        done = known.joins.get(flag.pair, 0)
        if done <= len(body.flags) and joinable(body.flags, flag.pair) is not None:
            # Doubling keeps the number of attempts small where there are far too many flags.
            joins = {**known.joins, flag.pair: max(1, 2 * done)}
            return {**tweaks, body.path: replace(known, joins=joins)}
    if not path:
        return _closed(tweaks, (), {flag.target})
    for body in bodies:
        known = tweaks.get(body.path, Tweak())
        if flag.pair not in known.single:
            return {**tweaks, body.path: replace(known, single=known.single | {flag.pair})}
    if path[0] not in root.full and path[0] > 0:
        return _closed(tweaks, (), {path[0]})
    body = bodies[-1]
    targets = {f.target for f in body.flags if f.pair == flag.pair}
    return _closed(tweaks, body.path, targets if targets - body.full else set(range(len(body.stmts))))


def _closed(tweaks: Mapping[Path, Tweak], path: Path, targets: set[int]) -> dict[Path, Tweak]:
    known = tweaks.get(path, Tweak())
    return {**tweaks, path: replace(known, full=known.full | targets)}
