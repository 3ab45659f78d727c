"""The exact text of every diagnostic about a listing: ``errors/CODE_what.npu`` beside its ``.txt``."""

from __future__ import annotations

from pathlib import Path

import pytest

from opc import npu
from opc.codes import explanations
from opc.errors import ListingError

FILES = sorted((Path(__file__).parent / "errors").glob("*.npu"))
# Raised by emitting and by simulating, which no listing text reaches.
ELSEWHERE = {"E0803", "E0804", "E0830", "E0831", "E0832"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_text_of_the_diagnostic(file: Path, bless: bool) -> None:
    with pytest.raises(ListingError) as caught:
        npu.prove(npu.parse_listing(file.read_text(), file.name))
    assert caught.value.code == file.stem[:5]
    text = str(caught.value) + "\n"
    golden = file.with_suffix(".txt")
    if bless:
        golden.write_text(text)
    assert golden.read_text() == text


def test_every_code_of_a_listing_is_held() -> None:
    held = {f.stem[:5] for f in FILES}
    assert held | ELSEWHERE == {code for code in explanations() if code.startswith("E08")}
