"""The moves of the compiler: one pass, one file, one name, one table.

``PASSES`` maps a pass name to the class that implements it, imported when it is asked for;
``PIPELINES`` names the orders in which they run.
"""

from __future__ import annotations

from importlib import import_module

from opc.errors import PassError, fail
from opc.pipeline import Pass

PASSES: dict[str, str] = {
    "mixed-precision": "passes.tensor.mixed_precision:MixedPrecision",
    "differentiate": "passes.tensor.differentiate:Differentiate",
    "simplify": "passes.tensor.simplify:Simplify",
    "pad-terms": "passes.tensor.pad_terms:PadTerms",
    "cse": "passes.tensor.cse:Cse",
    "reuse": "passes.tensor.reuse:Reuse",
    "fold-affine": "passes.tensor.fold_affine:FoldAffine",
    "fold-batch-norm": "passes.tensor.fold_batch_norm:FoldBatchNorm",
    "winograd": "passes.tensor.winograd:Winograd",
    "collapse": "passes.tensor.collapse:Collapse",
    "split-sums": "passes.tensor.split_sums:SplitSums",
    "choose-layouts": "passes.tensor.choose_layouts:ChooseLayouts",
    "split-reductions": "passes.tensor.split_reductions:SplitReductions",
    "distribute-sums": "passes.tensor.distribute_sums:DistributeSums",
    "fuse": "passes.tensor.fuse:Fuse",
    "cube-affine": "passes.tensor.cube_affine:CubeAffine",
    "sum-moments": "passes.tensor.sum_moments:SumMoments",
    "dce": "passes.tensor.dce:Dce",
    "donate": "passes.tensor.donate:Donate",
    "tile": "passes.lowering.tile:Tile",
    "legalise": "passes.lowering.legalise:Legalise",
    "fold-drain": "passes.lowering.fold_drain:FoldDrain",
    "assign-spaces": "passes.lowering.assign_spaces:AssignSpaces",
    "hoist-init": "passes.program.hoist_init:HoistInit",
    "multi-buffer": "passes.program.multi_buffer:MultiBuffer",
    "order-phases": "passes.program.order_phases:OrderPhases",
    "plan-memory": "passes.program.plan_memory:PlanMemory",
    "pipeline": "passes.program.pipeline:Pipeline",
    "stagger": "passes.program.stagger:Stagger",
    "expand-slots": "passes.program.expand_slots:ExpandSlots",
    "interleave": "passes.program.interleave:Interleave",
    "unroll": "passes.program.unroll:Unroll",
    "list-schedule": "passes.program.list_schedule:ListSchedule",
    "insert-sync": "passes.program.insert_sync:InsertSync",
}

PIPELINES: dict[str, tuple[str, ...]] = {
    # Function -> function of fused groups.
    "tensor": (
        "simplify",  # first: extents of 1, copies and dead guards hide what the rest looks for
        "pad-terms",  # after dead guards are gone; before everything that looks for contractions, which skip no terms
        "cse",  # before folding, so that a subexpression shared by two ops is hoisted once
        "reuse",  # after cse, which leaves one of equal ops; before all that counts who reads what
        "fold-affine",  # licensed only; before what it leaves to prepare is hoisted there
        "fold-batch-norm",  # before layouts: what it hoists are parameters, which may then be packed too
        "winograd",  # licensed only; before layouts, which pack the filters it makes
        "dce",  # before layouts and fusion: a dead reader would cost a pack or a store
        "collapse",  # after dce, whose dead readers could hold axes apart; before layouts, which split dims into blocks
        "split-sums",  # after collapse, which would merge what it splits; before layouts and fusion: it makes ops
        "choose-layouts",  # before fusion: its packs are ops that fusion must see to keep groups legal
        "split-reductions",  # after collapse, which says what a row is; before fusion: parts join their terms
        "distribute-sums",  # licensed only; after reductions are split for cores, which its price counts on
        "fuse",  # every pass above may add, drop or reorder ops, and groups must stay adjacent
        "sum-moments",  # licensed only; after fusion: whether the cube can make them depends on the group they are in
        "cube-affine",  # licensed only; after fusion, which says where it is done, and once moments are sums
        "donate",  # last: groups say which tensors are stored at all, and when an argument was read
    ),
    # Fused groups of one machine -> program.
    "lowering": (
        "tile",  # sizes, slots and capacity together: nothing later may change how much is live
        "legalise",  # on tiles, because what an accumulator drain cannot do becomes work on a tile
        "fold-drain",  # on roles: the way of a tile out of the cube still is one drain and what reads it
        "assign-spaces",  # last: legalise still adds operations, and each one needs a space
    ),
    # Program -> scheduled program; every step after pipeline is order-only.
    "program": (
        "hoist-init",  # before memory is planned: an accumulator lives from its zero on
        "multi-buffer",  # slots exist before memory is planned, so each gets its own range
        "order-phases",  # before memory is planned, which depends on what lives together
        "plan-memory",  # before any reordering: a reuse edge is a dependence that the schedulers must see
        "pipeline",  # on symbolic slots, while the tile loop still is one loop
        "stagger",  # likewise: the work on a tile's sums and the next tile's sums become neighbours
        "expand-slots",  # spaces without addresses need constant slots; the unrolled body feeds the scheduler
        "interleave",  # on the neighbours that stagger made, as whole loops: unrolled they would not be found
        "unroll",  # on loops that overlap as far as loops can; what it makes is scheduled like any other body
        "list-schedule",  # on final addresses and slots: the dependence graph is exact now
        "insert-sync",  # last: flags follow the final order and add nothing but waiting
    ),
}


def load(name: str) -> type[Pass]:
    """The class of pass ``name``. Raises PassError on an unknown name."""
    if name not in PASSES:
        known = ", ".join(sorted(PASSES))
        raise fail(PassError, "E0701", f"unknown pass '{name}'", help=f"known passes: {known}")
    module, _, cls = PASSES[name].partition(":")
    found: type[Pass] = getattr(import_module(module), cls)
    return found
