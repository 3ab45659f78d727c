"""A worker process seen from the harness: requests with a time limit, stopped while it is not asked."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.engine import Entry

ROOT = Path(__file__).resolve().parent.parent


class EngineError(Exception):
    """The engine failed, died or took too long."""


class Process:
    """One engine at work. Start it, ask it, close it; it runs only while it answers."""

    def __init__(self, entry: Entry, cpus: set[int], environment: dict[str, str], log: Path) -> None:
        self.entry, self.log = entry, log
        with log.open("wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", entry.name, str(len(cpus))],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )
        self._begin({"do": "about"})

    def about(self, limit: float = 120) -> dict[str, Any]:
        """The answer to the question asked at the start, which waits for imports."""
        found = self._finish(limit)
        self._stop()
        return found

    def ask(self, do: str, limit: float = 120, **request: Any) -> dict[str, Any]:
        """Wake the engine, ask, stop it again. Raises EngineError."""
        self._child.send_signal(signal.SIGCONT)
        self._begin({"do": do, **request})
        answer = self._finish(limit)
        self._stop()
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process, whatever it does."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()

    def _stop(self) -> None:
        self._child.send_signal(signal.SIGSTOP)

    def _begin(self, request: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):  # it ended, or was ended and its pipes closed
            raise EngineError(self._last_words()) from None

    def _finish(self, limit: float) -> dict[str, Any]:
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], limit)
        if not ready:
            self.close()
            raise EngineError(f"no answer in {limit:g} s")
        line = self._child.stdout.readline()
        if not line:
            raise EngineError(self._last_words())
        found: dict[str, Any] = json.loads(line)
        return found

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"ended: {lines[-1][:400] if lines else 'without a word'}"
