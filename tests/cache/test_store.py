"""Entries of the cache: written whole, read only if sound, whatever happens to the folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc.cache import digest, folder, manage, store
from opc.cache.entry import pack, unpack

ROOT = Path(__file__).resolve().parents[2]
KEY = "1" * 64
OTHER = "2" * 64
MANIFEST = {"kernel": "twice", "args": (("input", "x", "f32", (8,), None),)}
PARTS = {"source": b"text\nwith lines\n", "empty": b"", "code": bytes(range(256)), "a": b"a"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv(folder.VARIABLE, str(path))
    return path


def stored(cache: Path, key: str = KEY) -> Path:
    assert store.write(key, MANIFEST, PARTS)
    return cache / f"{key}.opc"


def test_round_trip(cache: Path) -> None:
    assert store.read(KEY) is None
    path = stored(cache)
    entry = store.read(KEY)
    assert entry is not None
    assert entry.parts == PARTS
    assert entry.manifest == {"key": KEY, **MANIFEST}
    assert path.read_bytes().startswith(b"opc-cache v2 sha256 ")
    assert [p.name for p in cache.iterdir()] == [path.name]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_every_truncation_is_a_miss(cache: Path) -> None:
    path = stored(cache)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert store.read(KEY) is None
    path.write_bytes(whole + b"\0")
    assert store.read(KEY) is None


def test_every_flipped_bit_is_a_miss(cache: Path) -> None:
    path = stored(cache)
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        assert store.read(KEY) is None, at


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_noise_is_no_entry(data: bytes) -> None:
    assert unpack(data) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"{}\n",
        b"{'parts': f()}\n",
        b"[]\n",
        b'{"parts": 3}\n',
        b'{"parts": [["code", "x"]]}\n',
        b"\xff\n",
        b"[" * 9999 + b"\n",
    ],
)
def test_right_hash_wrong_content_is_a_miss(cache: Path, body: bytes) -> None:
    from hashlib import sha256

    path = stored(cache)
    path.write_bytes(b"opc-cache v2 sha256 " + sha256(body).hexdigest().encode() + b"\n" + body)
    assert store.read(KEY) is None


def test_digest_is_sha256() -> None:
    import hashlib

    assert digest.sha256(b"opc").hexdigest() == hashlib.sha256(b"opc").hexdigest()


def test_foreign_entries_are_misses(cache: Path) -> None:
    path = stored(cache)
    path.rename(cache / f"{OTHER}.opc")
    assert store.read(OTHER) is None
    data = pack({"key": KEY, **MANIFEST}, PARTS)
    path.write_bytes(data.replace(b"v2", b"v3", 1))
    assert store.read(KEY) is None


def test_what_is_no_file_is_a_miss(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    (cache / f"{KEY}.opc").mkdir()
    assert store.read(KEY) is None
    assert not store.write(KEY, MANIFEST, PARTS)
    assert not list(cache.glob("*.tmp")), "nothing half-written stays behind"


def test_folder_that_another_process_makes_first(tmp_path: Path) -> None:
    folder.make(str(tmp_path / "mine"))
    folder.make(str(tmp_path / "mine"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o777)
    with pytest.raises(FileExistsError):  # entries there would be code that others can change
        folder.make(str(tmp_path / "theirs"))


def test_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folder.VARIABLE, "/proc/no/such/place")
    assert not store.write(KEY, MANIFEST, PARTS)
    assert store.read(KEY) is None
    assert manage.entries() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(cache: Path) -> None:
    stored(cache)
    cache.chmod(0o500)
    assert store.read(KEY) is not None
    assert not store.write(OTHER, MANIFEST, PARTS)
    cache.chmod(0o700)


def test_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not store.write(KEY, MANIFEST, PARTS)
    assert list(cache.iterdir()) == []


def test_folder_that_others_may_write_is_ignored(cache: Path) -> None:
    stored(cache)
    for mode in (0o770, 0o702):
        cache.chmod(mode)
        assert "others may write" in folder.find().problem
        assert store.read(KEY) is None
        assert not store.write(OTHER, MANIFEST, PARTS)
    cache.chmod(0o755)
    assert store.read(KEY) is not None


def test_folder_of_another_user_is_ignored(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(cache)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(cache).st_uid + 1)
    assert "another user" in folder.find().problem
    assert store.read(KEY) is None


@pytest.mark.parametrize("value", ["", "off"])
def test_switched_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folder.VARIABLE, value)
    assert folder.find().path == ""
    assert not store.write(KEY, MANIFEST, PARTS)
    assert store.read(KEY) is None


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(folder.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder.find().path == str(tmp_path / "opc")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder.find().path == str(tmp_path / ".cache" / "opc")


def test_gc_keeps_what_was_used_last(cache: Path) -> None:
    now = time.time()
    for age, digit in enumerate("3456"):
        path = stored(cache, digit * 64)
        os.utime(path, (now - age * 1000, now - age * 1000))
    size = path.stat().st_size
    abandoned = cache / "x.opc.1.aa.tmp"
    abandoned.write_bytes(b"")
    os.utime(abandoned, (now - 99999, now - 99999))
    fresh = cache / "y.opc.1.aa.tmp"
    fresh.write_bytes(b"")
    assert [e.key[0] for e in manage.gc(2 * size)] == ["5", "6"]
    assert not abandoned.exists()
    assert fresh.exists(), "its writer may still be at work"
    assert manage.clear() == 3
    assert list(cache.iterdir()) == []


def test_use_is_noted_once_a_day(cache: Path) -> None:
    path = stored(cache)
    os.utime(path, (1e9, 1e9))
    assert store.read(KEY) is not None
    assert time.time() - path.stat().st_mtime < 1000


WRITER = """
import sys
from opc.cache import store
number = int(sys.argv[1])
for i in range(60):
    body = bytes([number]) * (1000 + 50 * number)
    assert store.write("ab" * 32, {"who": number}, {"code": body})
    entry = store.read("ab" * 32)
    if entry is None:
        sys.exit("an entry was torn")
    writer = entry.manifest["who"]
    assert entry.parts["code"] == bytes([writer]) * (1000 + 50 * writer)
"""


def test_many_processes_write_one_entry(cache: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(i)], env=env, stderr=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    failures = [p.communicate(timeout=120)[1] for p in running]
    assert failures == [""] * 4
    assert [p.name for p in cache.iterdir()] == ["ab" * 32 + ".opc"]
