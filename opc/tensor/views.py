"""One memory under several shapes: a pass may see a tensor over fewer axes, its bytes stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from opc.tensor.bound import Array, Bounded
from opc.tensor.ir import Function, Tensor


def view(array: Any, tensor: Tensor, shown: Tensor) -> Array:
    """The elements of ``array``, laid out as ``tensor`` says, under the axes of ``shown``."""
    if tensor.shape == shown.shape and tensor.memory_order == shown.memory_order:
        return np.asarray(array)
    order = shown.memory_order
    flat = np.transpose(array, tensor.memory_order).reshape([shown.shape[a] for a in order])
    return flat.transpose([order.index(a) for a in range(len(order))])


def viewed(arrays: Mapping[str, Any], old: Function, new: Function) -> dict[str, Array]:
    """Arrays for ``old``, by tensor, as another form of the function has those tensors."""
    table, shown = old.tensors(), new.tensors()
    return {name: view(array, table[name], shown[name]) for name, array in arrays.items()}


def viewed_bounds(found: Mapping[str, Bounded], old: Function, new: Function) -> dict[str, Bounded]:
    """Results of ``old`` with their bounds as ``new`` has them."""
    table, shown = old.tensors(), new.tensors()
    return {name: _viewed(b, table[name], shown[name]) for name, b in found.items()}


def _viewed(b: Bounded, tensor: Tensor, shown: Tensor) -> Bounded:
    undecided = b.undecided
    if undecided is not None:
        numbers = view(np.arange(tensor.size).reshape(tensor.shape), tensor, shown)
        undecided = replace(undecided, positions=np.argsort(numbers, axis=None)[undecided.positions])
    return replace(
        b, value=view(b.value, tensor, shown), bound=view(b.bound, tensor, shown), undecided=undecided
    )
