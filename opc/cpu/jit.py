"""LLVM through llvmlite: target machines by features, optimisation, objects, and code in this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opc.cpu.image import Loaded
from opc.cpu.link import link
from opc.errors import RuntimeCallError, fail

if TYPE_CHECKING:
    import llvmlite.binding as llvm

LOCK = threading.RLock()
_READY: set[str] = set()


@dataclass(frozen=True, slots=True)
class Target:
    """What code is generated for: never a CPU name, which can be wrong in a virtual machine."""

    triple: str
    features: frozenset[str]

    def machine(self, pic: bool = False) -> llvm.TargetMachine:
        """A fresh target machine."""
        import llvmlite.binding as llvm

        _initialise()
        try:
            target = llvm.Target.from_triple(self.triple)
        except RuntimeError as problem:
            raise fail(
                RuntimeCallError, "E0950", f"LLVM has no back end for '{self.triple}': {problem}"
            ) from None
        features = ",".join(f"+{name}" for name in sorted(self.features))
        return target.create_target_machine(
            cpu="",
            features=features,
            opt=2,
            reloc="pic" if pic else "default",
            codemodel="default" if pic else "jitdefault",
        )


def host_triple() -> str:
    """Triple of this process."""
    import llvmlite.binding as llvm

    return llvm.get_process_triple()


def _initialise() -> None:
    import llvmlite.binding as llvm

    with LOCK:
        if "all" in _READY:
            return
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        llvm.initialize_native_asmparser()  # objects ask cpuid in inline assembly
        _READY.add("all")


def optimise(text: str, target: llvm.TargetMachine) -> llvm.ModuleRef:
    """Parse, verify and optimise a module. The caller holds the lock."""
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    builder = llvm.create_pass_builder(target, options)
    manager = llvm.create_new_module_pass_manager()
    manager.add_sroa_pass()
    manager.add_simplify_cfg_pass()
    manager.add_instruction_combine_pass()
    manager.run(module, builder)
    return module


def object_code(text: str, target: Target) -> bytes:
    """A relocatable object; the same input gives the same bytes."""
    with LOCK:
        machine = target.machine(pic=True)
        return bytes(machine.emit_object(optimise(text, machine)))


def loaded(text: str, target: Target) -> Loaded:
    """A module's code in this process. Raises UnlinkableError for what opc's own linker does not know."""
    return Loaded(link(object_code(text, target)))


def assembly(text: str, target: Target) -> str:
    """The same code as text."""
    with LOCK:
        machine = target.machine(pic=True)
        return str(machine.emit_assembly(optimise(text, machine)))


def optimised_text(text: str, target: Target) -> str:
    """LLVM text after optimisation."""
    with LOCK:
        return str(optimise(text, target.machine(pic=True)))


class Engine:
    """An object that LLVM links in this process; addresses live as long as the object."""

    def __init__(self, data: bytes) -> None:
        import llvmlite.binding as llvm

        with LOCK:
            machine = Target(host_triple(), frozenset()).machine()
            self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
            self.engine.add_object_file(llvm.ObjectFileRef.from_data(data))
            self.engine.finalize_object()

    def address(self, symbol: str) -> int:
        """Address of a function."""
        return int(self.engine.get_function_address(symbol))
