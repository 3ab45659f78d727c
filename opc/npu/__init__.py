"""The NPU back end: a listing, and a simulator and prover that read nothing but that text.

``build`` turns a planned and synchronised program into a listing; ``prove`` shows it safe whatever the
timing; ``simulate`` computes its results; ``time`` plays it on the machine's pipes.
"""

from __future__ import annotations

from opc.npu.check import Proof, prove
from opc.npu.emit import emit
from opc.npu.functional import simulate
from opc.npu.listing import Listing
from opc.npu.parse import parse_listing
from opc.npu.text import print_listing
from opc.npu.timing import Timeline, time

build = emit

__all__ = [
    "Listing",
    "Proof",
    "Timeline",
    "build",
    "emit",
    "parse_listing",
    "print_listing",
    "prove",
    "simulate",
    "time",
]
