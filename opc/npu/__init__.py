"""The NPU back end: a listing, and a simulator and prover that read nothing but that text."""

from __future__ import annotations

from opc.npu.emit import emit
from opc.npu.functional import simulate
from opc.npu.listing import Listing
from opc.npu.parse import parse_listing
from opc.npu.text import print_listing

build = emit

__all__ = ["Listing", "build", "emit", "parse_listing", "print_listing", "simulate"]
