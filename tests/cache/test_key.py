"""A key changes with everything that decides the code, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opc.cache import key
from opc.cache.key import Request, ingredients, key_of, used_files
from opc.cpu import features

BASE = Request("kernel k", "k.k", "k", {"N": 8}, "f32", "nhwc", "avx2", plans="rows=6")


@pytest.mark.parametrize(
    "change",
    [
        {"text": "kernel j"},
        {"kernel": None},
        {"kernel": "j"},
        {"sizes": {"N": 9}},
        {"sizes": {"N": 8.0}},
        {"sizes": {"N": True}},
        {"sizes": {"M": 8}},
        {"sizes": {}},
        {"dtype": "bf16"},
        {"dtype": None},
        {"layout": "nchw"},
        {"layout": None},
        {"layout": ""},
        {"machine": "avx512"},
        {"machine": None},
        {"numerics": "fast"},
        {"mixed": "bf16"},
        {"plans": ""},
    ],
    ids=str,
)
def test_every_part_of_a_request_decides(change: dict[str, Any]) -> None:
    assert key_of(BASE._replace(**change)) not in (None, key_of(BASE))


def test_what_does_not_decide() -> None:
    assert key_of(BASE._replace(file="other.k")) == key_of(BASE)
    assert key_of(BASE._replace(text=b"kernel k")) == key_of(BASE)
    two = BASE._replace(sizes={"N": 8, "M": 2})
    assert key_of(two) == key_of(BASE._replace(sizes={"M": 2, "N": 8}))


def test_parts_do_not_run_into_each_other() -> None:
    assert key_of(BASE, "a", "bc") != key_of(BASE, "ab", "c")
    assert key_of(BASE._replace(kernel="=k", dtype=None)) != key_of(BASE._replace(kernel=None, dtype="=k"))


@pytest.mark.parametrize("what", ["compiler_stamp", "llvm_stamp", "host"])
def test_compiler_and_computer_decide(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(BASE)
    monkeypatch.setattr(key, what, lambda: b"another")
    assert key_of(BASE) != before


def test_host_features_and_permission_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key.host()
    monkeypatch.setattr(features, "host_features", lambda: frozenset({"sse2"}))
    other = key.host()
    permitted = features.amx_permitted()
    monkeypatch.setattr(features, "amx_permitted", lambda: not permitted)
    assert len({before, other, key.host()}) == 3


def test_environment_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    automatic = BASE._replace(machine=None)
    before = key_of(automatic)
    monkeypatch.setenv("OPC_MACHINE", "portable")
    assert key_of(automatic) != before
    assert key_of(BASE) == key_of(BASE)


def test_machine_file_decides_by_content(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text("clock_mhz = 1", encoding="utf-8")
    own = BASE._replace(machine=str(file))
    before = key_of(own)
    file.write_text("clock_mhz = 2", encoding="utf-8")
    assert key_of(own) != before
    file.unlink()
    assert key_of(own) is None


def test_stamps_follow_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("1", encoding="utf-8")
    before = list(key._stamps(str(tmp_path)))
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("1", encoding="utf-8")
    assert list(key._stamps(str(tmp_path))) == before
    (tmp_path / "sub" / "a.py").write_text("12", encoding="utf-8")
    assert list(key._stamps(str(tmp_path))) != before


def test_used_files_decide_by_content(tmp_path: Path) -> None:
    text = b'# use "no.k"\nuse # why\n "a.k"\nkernel k() -> () { "doc # \n use" use "b.k" }'
    (tmp_path / "a.k").write_text('use "sub/c.k"', encoding="utf-8")
    (tmp_path / "b.k").write_text("b", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.k").write_text('use "../a.k"', encoding="utf-8")
    file = str(tmp_path / "root.k")
    found = dict(used_files(text, file))
    assert sorted(found) == ["a.k", "b.k", "c.k"]
    before = key_of(Request(text, file))
    (tmp_path / "sub" / "c.k").write_text("changed", encoding="utf-8")
    assert key_of(Request(text, file)) != before
    (tmp_path / "sub" / "c.k").unlink()
    assert key_of(Request(text, file)) is None


def test_what_cannot_be_described_has_no_key() -> None:
    assert key_of(BASE._replace(sizes={"N": "8"})) is None  # type: ignore[dict-item]
    assert key_of(BASE._replace(text="\udc80")) is None


def test_ingredients_have_names() -> None:
    names = [name for name, _ in ingredients(BASE)]
    assert len(names) == len(set(names))
