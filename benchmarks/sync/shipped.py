"""The listings of the shipped kernels, arrays for them, and the arguments of a command that goes through them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

import kernels_dsl
from opc import driver, npu
from opc.errors import MachineError
from opc.machine import Machine
from opc.npu.listing import Listing

Array = np.ndarray[Any, Any]

# Longer than the examples in the kernels' sources: loops that repeat, ids in turn.
LARGER: dict[str, dict[str, int]] = {
    "conv_bn_relu": {"N": 1, "C": 64, "H": 28, "W": 28, "K": 32},
    "matmul": {"M": 128, "N": 96, "K": 600},
    "softmax": {"M": 200, "N": 40},
    "layer_norm": {"M": 200, "N": 40},
    "max_pool2d": {"N": 1, "C": 16, "H": 28, "W": 28},
}


def listings(machine: Machine, only: str = "", larger: bool = True) -> Iterator[tuple[str, Listing]]:
    """Name and listing of what the shipped kernels (``only`` is in their names) run on a machine."""
    for name in (n for n in kernels_dsl.names() if only in n):
        for sizes in ({}, LARGER[name]) if larger and name in LARGER else ({},):
            try:
                function = driver.specialise(kernels_dsl.source(name), name, machine, name, sizes)
                built = driver.build(function, machine)
            except MachineError:
                continue
            label = f"{name} {' '.join(f'{k}={v}' for k, v in sizes.items())}".strip()
            for program, part in zip(built.module.programs, (" prepare", ""), strict=True):
                if program.body:
                    yield label + part, npu.emit(program, machine)


def arrays(listing: Listing, seed: int = 7) -> dict[str, Array]:
    """Random values for every tensor that the listing does not only write."""
    random = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for t in listing.tensors:
        if t.kind == "output":
            continue
        values = random.standard_normal(t.shape) if t.dtype.is_float else random.integers(-9, 10, t.shape)
        found[t.name] = values.astype(t.dtype.numpy)
    return found


def parser(about: str | None) -> argparse.ArgumentParser:
    """The command line of what runs listings under random timings."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--machine", default="ascend910")
    found.add_argument("--only", default="", metavar="TEXT", help="kernels whose name has this in it")
    found.add_argument("--timings", type=int, default=200, metavar="N", help="timings of each (default: 200)")
    found.add_argument("--seed", type=int, default=1)
    return found
