"""ONNX models as bytes. The format needs two kinds of field, so no package is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.case import Array

FLOAT = 1  # TensorProto.DataType
_INTS, _INT = 7, 2  # AttributeProto.AttributeType


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def tensor(name: str, array: Array) -> bytes:
    """A TensorProto of f32 values."""
    dims = b"".join(_number(1, n) for n in array.shape)
    return dims + _number(2, FLOAT) + _bytes(8, name) + _bytes(9, array.astype("<f4").tobytes())


def value(name: str, shape: Iterable[int]) -> bytes:
    """A ValueInfoProto of f32."""
    dims = b"".join(_bytes(1, _number(1, n)) for n in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, FLOAT) + _bytes(2, dims)))


def node(op: str, inputs: Sequence[str], output: str, **attributes: Sequence[int] | int) -> bytes:
    """A NodeProto with integer attributes."""
    parts = [_bytes(1, i) for i in inputs] + [_bytes(2, output), _bytes(4, op)]
    return b"".join(parts) + b"".join(_bytes(5, _attribute(k, v)) for k, v in attributes.items())


def _attribute(name: str, value: Sequence[int] | int) -> bytes:
    if isinstance(value, int):
        return _bytes(1, name) + _number(3, value) + _number(20, _INT)
    return _bytes(1, name) + b"".join(_number(8, v) for v in value) + _number(20, _INTS)


def model(
    nodes: Sequence[bytes], weights: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    """A ModelProto of one graph."""
    parts = [_bytes(1, n) for n in nodes] + [_bytes(2, "graph")] + [_bytes(5, w) for w in weights]
    graph = b"".join(parts + [_bytes(11, i) for i in inputs] + [_bytes(12, o) for o in outputs])
    opset = _bytes(8, _bytes(1, "") + _number(2, 17))
    return _number(1, 8) + opset + _bytes(7, graph)
