"""Finding jemalloc, which PyTorch needs preloaded to be measured fairly."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

# Keep freed pages whatever their size: the defaults give large results back to the system, call by call.
SETTINGS = "oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1,metadata_thp:auto,thp:always"
_NAME = "libjemalloc.so.2"
_PLACES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")


def cache() -> Path:
    """Where a fetched copy is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "opc-benchmarks"


def find() -> str | None:
    """The library's path: ``OPC_BENCH_JEMALLOC``, the system's, or a copy fetched before."""
    named = os.environ.get("OPC_BENCH_JEMALLOC")
    places: Iterable[Path] = [Path(p) / _NAME for p in _PLACES]
    for path in [Path(named)] if named else [*places, *cache().rglob(_NAME)]:
        if path.is_file():
            return str(path)
    return None


def fetch() -> str | None:
    """Download Debian's package and unpack it into the cache, without installing it; None if that fails."""
    target = cache()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                ["apt-get", "download", "libjemalloc2"],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=60,
            )
            (package,) = Path(folder).glob("*.deb")
            subprocess.run(
                ["dpkg", "-x", str(package), str(target)], check=True, capture_output=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
    return find()
