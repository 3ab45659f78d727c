"""The language front end: text of ``.k`` files to syntax trees and specialised tensor functions.

file = parse(text, "conv.k")
function = lower(text, "conv.k", sizes={"N": 8}, dtype=DType.BF16, layout="nhwc")
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from opc.dtypes import DType
from opc.errors import LanguageError, fail
from opc.lang.checker import check_file
from opc.lang.derived import Derivation, check_wrt, half, halves, no_list, pair_where_kernel
from opc.lang.derived import derivation as of_declaration
from opc.lang.dump import dump_ast
from opc.lang.info import AttributeInfo, KernelInfo, TensorInfo
from opc.lang.info import kernel_info as _kernel_info
from opc.lang.loader import Found, Program
from opc.lang.messages import suggest
from opc.lang.parser import parse
from opc.lang.specialise import specialise
from opc.lang.syntax import File, Kernel
from opc.tensor.ir import Function

__all__ = [
    "AttributeInfo",
    "Derivation",
    "File",
    "KernelInfo",
    "TensorInfo",
    "check",
    "check_wrt",
    "derivation",
    "dump_ast",
    "half",
    "kernel_info",
    "kernel_names",
    "lower",
    "no_list",
    "parse",
]

Source = str | bytes | File
Path = str | os.PathLike[str]
_PAIR = "opc.grad(...) makes both kernels; commands take one of them as NAME.fwd or NAME.bwd"


def check(text: Source, file: str = "<string>", use_path: Path | None = None) -> File:
    """Parse and check everything that needs no sizes. Raises LanguageError with all errors found."""
    tree = _parsed(text, file)
    check_file(Program(tree, use_path), tree)
    return tree


def kernel_names(text: Source, file: str = "<string>", only: str | None = None) -> list[str]:
    """Kernels of the file that a command compiles, in order; with ``only``, what that name means.

    These are the kernels with an example; in a file without examples, all of them. The others
    are helpers, which ``lower`` still takes by name. A derived kernel is its pair, ``g.fwd`` and ``g.bwd``.
    """
    tree = _parsed(text, file)
    if only is not None:
        return list(halves(only)) if only in {d.name for d in tree.derived} else [only]
    written = [k.name for k in _compiled(tree)]
    return [*written, *(name for d in tree.derived for name in halves(d.name))]


def kernel_info(text: Source, file: str = "<string>", kernel: str | None = None) -> KernelInfo:
    """Arguments, attributes, results, symbols and example of a kernel; of a derived one, those of its origin."""
    tree = check(text, file)
    derived = derivation(tree, file, kernel) if kernel is not None else None
    if derived is not None:
        return _kernel_info(derived.found.file, derived.found.kernel)
    return _kernel_info(tree, _chosen(tree, kernel))


def derivation(text: Source, file: str = "<string>", kernel: str | None = None) -> Derivation | None:
    """What the derived kernel of that name is made of; None if the name means a kernel that is written out.

    Without a name: the file's only derived kernel, if it has one. Raises LanguageError as ``check`` does.
    """
    tree = _parsed(text, file)
    wanted = half(kernel)[0] if kernel is not None else None
    found = [d for d in tree.derived if wanted in (None, d.name)]
    if len(found) != 1:
        return None
    program = Program(tree)
    check_file(program, tree)
    return of_declaration(program, found[0])


def lower(
    text: Source,
    file: str = "<string>",
    kernel: str | Found | None = None,
    sizes: Mapping[str, int | float] | None = None,
    dtype: DType = DType.F32,
    layout: str | None = None,
    use_path: Path | None = None,
) -> Function:
    """The tensor function of a kernel with sizes, dtype and memory order fixed.

    Args:
        text: the source, or a parsed file.
        file: its name, for messages and for `use`.
        kernel: which one; may be left out where the file has one kernel with an example. A found one may
            be another file's.
        sizes: values of sizes and attributes; they win over `example` and over defaults.
        dtype: what T stands for.
        layout: memory order of arguments, intermediates and results of rank 4, such as "nhwc" (the last letter
            is contiguous; n, c, h, w are axes 0 to 3). Parameters and other ranks keep C order;
            "ncl" and "ncdhw" do the same for ranks 3 and 5.
        use_path: folder that `use` starts from; the file's own by default.

    Raises:
        LanguageError: with code, place and help; several diagnostics where they are independent.
    """
    tree = _parsed(text, file)
    program = Program(tree, use_path)
    check_file(program, tree)
    found = kernel if isinstance(kernel, Found) else Found(_chosen(tree, kernel), tree)
    check_file(program, found.file)
    return specialise(program, found, sizes or {}, dtype, layout)


def _parsed(text: Source, file: str) -> File:
    return text if isinstance(text, File) else parse(text, file)


def _compiled(tree: File) -> list[Kernel]:
    shown = [k for k in tree.kernels if k.example]
    return shown or list(tree.kernels)


def _chosen(tree: File, name: str | None) -> Kernel:
    if name is not None:
        for kernel in tree.kernels:
            if kernel.name == name:
                return kernel
        pair = next((d for d in tree.derived if d.name == half(name)[0]), None)
        if pair is not None:
            raise LanguageError(pair_where_kernel(name, pair.span, _PAIR), tree.text)
        help = suggest(name, [k.name for k in tree.kernels])
        raise fail(LanguageError, "E0233", f"{tree.name} has no kernel `{name[:60]}`", help=help)
    compiled = _compiled(tree)
    if not compiled:
        raise LanguageError(pair_where_kernel(tree.derived[0].name, tree.derived[0].span, _PAIR), tree.text)
    if len(compiled) == 1:
        return compiled[0]
    names = ", ".join(k.name for k in compiled)
    raise fail(
        LanguageError, "E0234", f"{tree.name} has several kernels; choose one", help=f"kernels: {names}"
    )
