"""The race: everybody runs in turn, clear losers leave, the fastest is known whatever the clock does."""

from __future__ import annotations

from collections.abc import Callable

from opc.tuning.race import race, score


class Track:
    """Rivals that take the time they are said to, on a clock that only they move."""

    def __init__(self, **milliseconds: float) -> None:
        self.now, self.order = 0.0, list[str]()
        self.calls = {name: self.rival(name, ms / 1e3) for name, ms in milliseconds.items()}
        self.slow = 1.0

    def rival(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds * self.slow
            self.order.append(name)
            self.slow *= 1.001  # the computer gets slower and slower

        return call

    def clock(self) -> float:
        return self.now


def test_rivals_take_turns_and_losers_leave() -> None:
    track = Track(a=1.00, b=1.02, c=2.0)
    times = race(track.calls, 0.2, track.clock)
    turns = "".join(n for i, n in enumerate(track.order) if i == 0 or track.order[i - 1] != n)
    assert turns.startswith("abcabcabcabcabab")
    assert "c" not in turns[12:]
    assert len(times["a"]) > len(times["c"]) >= 3
    assert min(times, key=lambda n: score(times[n])) == "a"


def test_slow_kernels_still_get_some_rounds() -> None:
    track = Track(a=900.0, b=950.0)
    times = race(track.calls, 0.1, track.clock)
    assert {name: len(t) for name, t in times.items()} == {"a": 3, "b": 3}


def test_fast_kernels_run_in_bursts() -> None:
    track = Track(a=0.1, b=0.1)
    times = race(track.calls, 0.05, track.clock)
    assert track.order[4 : 4 + 1 + 19 + 1] == ["a"] * 20 + ["b"]
    assert abs(len(times["a"]) - len(times["b"])) <= 19


def test_the_last_one_need_not_run_on() -> None:
    track = Track(a=1.0, b=50.0)
    race(track.calls, 1000.0, track.clock)
    assert len(track.order) < 20


def test_a_clock_that_stands_still() -> None:
    assert race({"a": lambda: None}, 0.0, lambda: 0.0)["a"] == [0.0] * 150
