"""A kernel on the NPU: its listing as text, and everything that is learnt from that text alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from opc import npu
from opc.build import Build

if TYPE_CHECKING:
    from opc.arrays import Array
    from opc.npu import Listing, Timeline
    from opc.signature import Signature


class NpuKernel:
    """The listings of prepare and run. Simulator and prover are given their text, nothing else."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.machine = build.machine
        programs = [p for p in build.module.programs if p.body]
        self.texts = tuple(npu.print_listing(npu.emit(p, build.machine)) for p in programs)

    @cached_property
    def signature(self) -> Signature:
        """What ``simulate`` takes and returns."""
        from opc.signature import Signature

        return Signature.of(self.build.source, self.build.half)

    @property
    def text(self) -> str:
        """Both listings, prepare first."""
        return "".join(self.texts)

    @cached_property
    def listings(self) -> tuple[Listing, ...]:
        """The listings as their text reads."""
        return tuple(npu.parse_listing(text) for text in self.texts)

    @cached_property
    def timelines(self) -> tuple[Timeline, ...]:
        """Simulated time of each listing."""
        return tuple(npu.time(listing, self.machine) for listing in self.listings)

    @property
    def timeline(self) -> Timeline:
        """Simulated time of run, the listing that every call executes."""
        return self.timelines[-1]

    @cached_property
    def proofs(self) -> tuple[npu.Proof, ...]:
        """What was proved about each listing. Raises ListingError (E08xx) for one that is not safe."""
        return tuple(npu.prove(listing, self.machine) for listing in self.listings)

    def simulate(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Execute the listings on logical arrays; results in logical order."""
        from opc.arrays import physical

        self.proofs  # noqa: B018 -- an unsafe listing has no meaning
        memory = {s.name: physical(arrays[s.name], s.tensor) for s in self.signature.args}
        for listing in self.listings:
            # A listing may view an argument over fewer axes; the bytes are the same.
            given = {t.name: memory[t.name].reshape(t.shape) for t in listing.tensors if t.name in memory}
            memory |= npu.simulate(listing, given, self.machine)
        results = {slot.name: slot.empty() for slot in self.signature.results}
        written = [(s, results[s.name]) for s in self.signature.results]
        written += [(s, arrays[s.name]) for s in self.signature.args if s.kind == "inout"]
        for slot, array in written:
            target = physical(array, slot.tensor)
            target[...] = memory[slot.name].reshape(target.shape)
        return results
