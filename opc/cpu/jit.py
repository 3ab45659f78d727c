"""LLVM through llvmlite: target machines by features, optimisation, objects, and code in this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


class Code:
    """Compiled code in this process; addresses live as long as the object."""

    def __init__(self, text: str, target: Target) -> None:
        import llvmlite.binding as llvm

        with LOCK:
            machine = target.machine()
            module = optimise(text, machine)
            self.module = module
            self._machine = target.machine()
            self.engine = llvm.create_mcjit_compiler(module, machine)
            self.engine.finalize_object()

    def address(self, symbol: str) -> int:
        """Address of a function."""
        return int(self.engine.get_function_address(symbol))

    def assembly(self) -> str:
        """Assembly text of the optimised module."""
        with LOCK:
            return str(self._machine.emit_assembly(self.module))
