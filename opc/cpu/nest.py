"""Iteration boxes: dropping, merging and ordering dimensions before loops are emitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opc.affine import Affine
from opc.cpu.function import Function, Index
from opc.cpu.layout import View


@dataclass(frozen=True, slots=True)
class Dim:
    """A local dimension of an instruction."""

    name: str
    extent: int


def significant(f: Function, dims: Sequence[tuple[str, int]]) -> list[Dim]:
    """Dimensions longer than 1; the others are bound to 0."""
    f.bind({name: 0 for name, extent in dims if extent == 1})
    return [Dim(name, extent) for name, extent in dims if extent > 1]


def merge(
    dims: list[Dim], forms: list[Affine], fixed: frozenset[str] = frozenset()
) -> tuple[list[Dim], list[Affine]]:
    """Fuse pairs of dimensions that every form walks as one; ``fixed`` ones stay as they are.

    The fused dimension keeps the inner one's name, so forms only lose the outer term.
    """
    merged = True
    while merged:
        merged = False
        for outer in dims:
            for inner in dims:
                if outer is inner or {outer.name, inner.name} & fixed:
                    continue
                if all(x.coefficient(outer.name) == inner.extent * x.coefficient(inner.name) for x in forms):
                    forms = [x.substitute({outer.name: 0}) for x in forms]
                    joined = Dim(inner.name, inner.extent * outer.extent)
                    dims = [joined if d is inner else d for d in dims if d is not outer]
                    merged = True
                    break
            if merged:
                break
    return dims, forms


def by_stride(dims: Sequence[Dim], v: View) -> list[Dim]:
    """Largest steps of ``v`` first."""
    return sorted(dims, key=lambda d: -abs(v.form.coefficient(d.name)))


def walk(f: Function, dims: Sequence[Dim], body: Callable[[], None], unroll: bool) -> None:
    """Run ``body`` for every point of the box, unrolled or in loops."""
    if not dims:
        body()
        return
    first, rest = dims[0], dims[1:]
    if unroll:
        for i in range(first.extent):
            f.bind({first.name: i})
            walk(f, rest, body, unroll)
        return

    def step(i: Index, _: list[str]) -> list[str]:
        f.bind({first.name: i})
        walk(f, rest, body, unroll)
        return []

    f.loop(first.extent, step)


def walk_steps(f: Function, dims: Sequence[Dim], steps: dict[str, int], body: Callable[[], None]) -> None:
    """Loops over the box, in steps longer than 1 where ``steps`` says so."""
    if not dims:
        body()
        return

    def at(i: Index, _: list[str]) -> list[str]:
        f.bind({dims[0].name: i})
        walk_steps(f, dims[1:], steps, body)
        return []

    f.loop(dims[0].extent, at, step=steps.get(dims[0].name, 1))


def chunks(f: Function, dim: Dim, lanes: int, body: Callable[[int], None], unroll: bool) -> None:
    """Run ``body(live)`` at every ``lanes``-th value of ``dim``."""
    full = dim.extent // lanes * lanes
    if unroll:
        for i in range(0, dim.extent, lanes):
            f.bind({dim.name: i})
            body(min(lanes, dim.extent - i))
        return

    def step(i: Index, _: list[str]) -> list[str]:
        f.bind({dim.name: i})
        body(lanes)
        return []

    f.loop(full, step, step=lanes)
    if full < dim.extent:
        f.bind({dim.name: full})
        body(dim.extent - full)
