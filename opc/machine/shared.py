"""Rates of routes to memory when all cores run at once: what L2 and the memory behind it leave to one core."""

from __future__ import annotations

from dataclasses import dataclass, replace

from opc.machine.model import Route


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory that all cores share. Rates in bytes per cycle, of all cores together; 0: no limit.

    ``hit`` of all bytes are found in L2; the others come at ``bandwidth``, ``miss_latency`` cycles later.
    """

    hit: float = 1.0
    l2_bandwidth: float = 0.0
    bandwidth: float = 0.0
    miss_latency: float = 0.0

    def route(self, route: Route, cores: int) -> Route:
        """The route as one of ``cores`` busy cores sees it."""
        rate = route.bandwidth * cores
        near, far = (max(1.0, rate / b) if b else 1.0 for b in (self.l2_bandwidth, self.bandwidth))
        slower = self.hit * near + (1 - self.hit) * max(near, far)
        later = (1 - self.hit) * self.miss_latency
        longer = (slower - 1) / route.bandwidth
        return replace(
            route,
            bandwidth=route.bandwidth / slower,
            latency=route.latency + later,
            curve=tuple((x, y + later + x * longer) for x, y in route.curve),
        )
