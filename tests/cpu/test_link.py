"""The linker and the loader of machine code: against LLVM's own, and on objects they must refuse."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest

from opc.cpu import jit
from opc.cpu.image import Loaded
from opc.cpu.link import UnlinkableError, link

TARGET = jit.Target(jit.host_triple(), frozenset())
POWERS = ", ".join(f"i32 {3**i}" for i in range(16))
CODE = f"""
@powers = private constant [16 x i32] [{POWERS}]
declare ptr @memcpy(ptr, ptr, i64)
declare i32 @getpid()
define internal i32 @helper(i32 %i) noinline {{
  %p = getelementptr i32, ptr @powers, i32 %i
  %v = load i32, ptr %p
  ret i32 %v
}}
define i32 @power(i32 %i) {{
  %v = call i32 @helper(i32 %i)
  %n = call i32 @getpid()
  %a = add i32 %v, %n
  ret i32 %a
}}
define ptr @address() {{
  ret ptr @memcpy
}}
define i32 @jump(i32 %i) {{
entry:
  switch i32 %i, label %z [ i32 0, label %a i32 1, label %b i32 2, label %c i32 3, label %d i32 4, label %e ]
a: ret i32 7
b: ret i32 -9
c: ret i32 123
d: ret i32 4
e: ret i32 999
z: ret i32 0
}}
"""


def call(loaded: Any, name: str, *arguments: int) -> int:
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int32] * len(arguments))
    return int(kind(loaded.address(name))(*arguments))


@pytest.mark.parametrize("load", [lambda d: Loaded(link(d)), jit.Engine], ids=["own", "LLVM"])
def test_calls_constants_and_jump_tables(load: Any) -> None:
    loaded = load(jit.object_code(CODE, TARGET))
    assert [call(loaded, "power", i) for i in (0, 1, 15)] == [os.getpid() + n for n in (1, 3, 3**15)]
    assert [call(loaded, "jump", i) for i in range(6)] == [7, -9, 123, 4, 999, 0]
    address = ctypes.CFUNCTYPE(ctypes.c_void_p)(loaded.address("address"))()
    assert address == ctypes.cast(ctypes.CDLL(None).memcpy, ctypes.c_void_p).value


def test_linking_is_deterministic() -> None:
    data = jit.object_code(CODE, TARGET)
    assert data == jit.object_code(CODE, TARGET)
    assert link(data) == link(data)
    assert {"memcpy", "getpid"} == set(link(data).slots)


def test_memory_is_not_writable_once_loaded() -> None:
    loaded = Loaded(link(jit.object_code(CODE, TARGET)))
    with open("/proc/self/maps", encoding="ascii") as maps:
        for line in maps:
            begin, end = (int(x, 16) for x in line.split()[0].split("-"))
            if begin <= loaded.address("power") < end:
                assert line.split()[1] == "r-xp"


@pytest.mark.parametrize(
    ("text", "triple"),
    [
        ("@x = global i32 3\ndefine ptr @f() { ret ptr @x }", ""),
        ("define i32 @f() { ret i32 3 }", "aarch64-unknown-linux-gnu"),
    ],
)
def test_objects_for_llvms_linker(text: str, triple: str) -> None:
    data = jit.object_code(text, jit.Target(triple or jit.host_triple(), frozenset()))
    with pytest.raises(UnlinkableError):
        link(data)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(60)])
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(UnlinkableError):
        link(data)


def test_missing_function() -> None:
    text = "declare void @opc_no_such_function()\ndefine void @f() {\n call void @opc_no_such_function()\n ret void\n}"
    with pytest.raises(AttributeError):
        Loaded(link(jit.object_code(text, TARGET)))
