"""The image for emulators: its cases run on this computer, its output is read and judged."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import bare_metal
from opc import machine
from opc.cpu import features

NEEDED = ("gcc", "ld", "objcopy")
CASES = [
    bare_metal.Case("avx2", "conv_bn_relu", "bf16", (("C", 5), ("H", 4), ("W", 3), ("K", 9)), "nhwc"),
    bare_metal.Case("avx2", "sgd", "f32", (("N", 11),)),
]
HOST = """
#include "cases.h"
#include <stdio.h>
void begin(void) {}
void end(void) {}
int main(void) {
  for (int i = 0; i < CASES; i++) {
    int status = cases[i].function();
    printf("\\n@case %d %d 7 0 0 0 0 0 %zu \\n", i, status, cases[i].size);
    fwrite(cases[i].results, cases[i].size, 1, stdout);
  }
  return 0;
}
"""

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64"
    or not all(map(shutil.which, NEEDED))
    or bool(features.missing(machine.load("avx2"))),
    reason="needs x86-64 with AVX2, gcc and binutils",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("image")
    assert bare_metal.build(made, CASES) == 0
    return made


@pytest.fixture(scope="module")
def output(folder: Path) -> bytes:
    (folder / "host.c").write_text(HOST, encoding="utf-8")
    objects = [f"{case.name}/case.o" for case in CASES]
    command = ["gcc", "-no-pie", "host.c", *objects, "-o", "host"]
    subprocess.run(command, cwd=folder, check=True, timeout=60)
    return subprocess.run([str(folder / "host")], check=True, capture_output=True, timeout=60).stdout


def test_a_loader_finds_the_header(folder: Path) -> None:
    image = (folder / "image.bin").read_bytes()
    magic, flags, sum_, header, load = (int.from_bytes(image[i : i + 4], "little") for i in range(0, 20, 4))
    assert (magic, (magic + flags + sum_) & 0xFFFFFFFF, header, load) == (0x1BADB002, 0, 0x200000, 0x200000)


def test_results_are_held_to_the_bound(
    folder: Path, output: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = folder / "output"
    whole.write_bytes(b"an emulator's greeting\n" + output)
    assert bare_metal.verify(folder, whole, CASES, counts=False) == 0
    assert capsys.readouterr().out == "2 right, 0 wrong\n"


def test_faults_wrong_and_missing_results_are_named(
    folder: Path, output: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bare_metal.results(output)
    zeros = b"\n@case 0 0 7 0 0 0 0 0 %d \n" % len(found[0].data) + bytes(len(found[0].data))
    for text, named in (
        (b"\n@case 0 134 0 0 0 0 1193046 8 0 \n", "status 134, fault 0x123456 0x8"),
        (zeros, "y: "),
        (b"", "no result"),
    ):
        (folder / "bad").write_bytes(text)
        assert bare_metal.verify(folder, folder / "bad", CASES, counts=False) == 3
        shown = capsys.readouterr().out
        assert f"{CASES[0].name}: {named}" in shown
        assert f"{CASES[1].name}: no result" in shown
