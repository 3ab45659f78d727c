"""Progress on stderr: a bar where rich is installed and there is a terminal, else one line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from benchmarks.engine import optional

_QUIET = 10.0  # seconds between plain lines


class Progress:
    """How far a run is. It draws only when told: a refreshing thread would take time from what is measured."""

    def __init__(self, total: int) -> None:
        self.total, self.count, self._last = total, 0, 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        try:
            if sys.stderr.isatty():
                self._open(optional("rich.progress"), optional("rich.console"))
        except ImportError:
            pass
        return self

    def _open(self, progress: Any, console: Any) -> None:
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
        )
        self._bar = progress.Progress(*columns, console=console.Console(stderr=True), auto_refresh=False)
        self._task = self._bar.add_task("starting", total=self.total)
        self._bar.start()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, what: str) -> None:
        """Name what comes next."""
        if self._bar is not None:
            self._bar.update(self._task, description=what, refresh=True)
        elif time.monotonic() - self._last > _QUIET:
            self._last = time.monotonic()
            self.say(f"[{self.count}/{self.total}] {what}")

    def done(self) -> None:
        """One more is finished."""
        self.count += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self.count, refresh=True)

    def say(self, line: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)
