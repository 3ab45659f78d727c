"""A compiled kernel as a cache entry and back: code, signature, and the tensor IR that it came from.

The other IRs are not kept: who asks a cached kernel for them gets them made anew from that tensor IR.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from opc.cache import store
from opc.cpu.executable import EntryPoint, Executable, Lender, Need
from opc.cpu.features import host_features
from opc.cpu.image import Image
from opc.dtypes import DType
from opc.signature import Signature, Slot
from opc.tensor.tensor import Tensor

if TYPE_CHECKING:
    from opc.machine.model import Machine
    from opc.tensor.ir import Function


class Saved(NamedTuple):
    """What one process keeps for the next."""

    signature: Signature
    executable: Executable
    machine: str
    features: tuple[str, ...]  # that the code needs
    source: str  # tensor IR before any pass
    machine_file: str = ""  # text of a machine that opc does not ship

    def origin(self) -> tuple[Function, Machine]:
        """What the kernel was made of, to build it again."""
        from opc import machine as machines
        from opc.tensor.text import parse_function

        own = self.machine_file
        target = machines.parse(own, self.machine) if own else machines.load(self.machine)
        return parse_function(self.source, "source.tensor"), target


def keep(key: str, saved: Saved) -> bool:
    """Write a kernel to the cache; False where it does not take it."""
    code = saved.executable.code
    manifest = {
        "kernel": saved.signature.kernel,
        "doc": saved.signature.doc,
        "machine": saved.machine,
        "features": saved.features,
        "args": [_plain(s) for s in saved.signature.args],
        "results": [_plain(s) for s in saved.signature.results],
        "name": saved.executable.name,
        "packed_size": saved.executable.packed_size,
        "lender": saved.executable.packed_lender,
        "run": saved.executable.run,
        "prepare": saved.executable.prepare,
    }
    if isinstance(code, Image):
        manifest |= {"functions": code.functions, "slots": code.slots}
    parts = {
        "code": bytes(saved.executable),
        "source": saved.source.encode(),
        "machine": saved.machine_file.encode(),
    }
    return store.write(key, manifest, parts)


def find(key: str) -> Saved | None:
    """The kernel of that key; None where there is none, or none that this computer can run."""
    entry = store.read(key)
    try:
        saved = _saved(entry.manifest, entry.parts) if entry else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return saved if saved and host_features().issuperset(saved.features) else None


def _saved(about: dict[str, Any], parts: dict[str, bytes]) -> Saved:
    signature = Signature(
        about["kernel"],
        [(_tensor(item), item[0]) for item in about["args"]],
        [(_tensor(item), item[0]) for item in about["results"]],
        about["doc"],
    )
    code: Image | bytes = parts["code"]
    if "functions" in about:
        code = Image(parts["code"], dict(about["functions"]), dict(about["slots"]))
    prepare = _entry(about["prepare"]) if about["prepare"] else None
    size, run = int(about["packed_size"]), _entry(about["run"])
    executable = Executable(about["name"], code, size, run, prepare, str(about["lender"]))
    texts = parts["source"].decode(), parts["machine"].decode()
    return Saved(signature, executable, about["machine"], tuple(about["features"]), *texts)


def _plain(slot: Slot) -> tuple[object, ...]:
    return slot.kind, slot.name, str(slot.tensor.dtype), slot.shape, slot.tensor.order


def _tensor(item: Iterable[Any]) -> Tensor:
    _, name, dtype, shape, order = item
    return Tensor(name, DType(dtype), tuple(shape), tuple(order) if order is not None else None)


def _entry(item: Iterable[Any]) -> EntryPoint:
    symbol, arguments, workspace, width, lenders, phases = item
    found = tuple(Lender(str(name), int(held), int(size)) for name, held, size in lenders)
    needs = tuple(Need(*map(int, need)) for need in phases)
    return EntryPoint(symbol, tuple(arguments), int(workspace), int(width), found, needs)
