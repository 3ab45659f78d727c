"""Vector work that rounds nothing stays in the type of its operands where a vector unit has it."""

from __future__ import annotations

import numpy as np

from opc import driver, machine
from opc.program.ir import instructions
from opc.tensor.bound import check
from opc.tensor.interpret import oracle
from opc.tensor.text import parse_function
from tests.e2e.oracle import results

MASK = """func v1 f {
  arg y: f16[40,24] input
  arg d: f16[40,24] input
  arg s: f32[24] input
  op m: f16[40,24] {
    piece i<40, j<24 at i, j = select(le(y[i, j], 0), 0.0, d[i, j])
  }
  op z: f16[40,24] {
    piece i<40, j<24 at i, j = mul(max(d[i, j], y[i, j]), add(s[j], sub(d[i, j], y[i, j])))
  }
  return m, z
}
"""


def test_masks_are_not_converted() -> None:
    target = machine.load("ascend910")
    f = parse_function(MASK)
    random = np.random.default_rng(1)
    arrays = {n: random.standard_normal((40, 24)).astype(np.float16) for n in ("y", "d")}
    arrays["y"][3, :5] = 0
    arrays["s"] = random.standard_normal(24).astype(np.float32)
    built = driver.build(f, target)
    table = built.tiled.run.table()
    typed = [(i.opcode, table[i.dst[0].buffer].dtype) for i, _ in instructions(built.tiled.run.body)]
    converted = [t for t in typed if t[0] == "vector.copy"]
    assert ("vector.select", "f16") in typed
    assert ("vector.max", "f16") in typed
    assert len(converted) == 4  # d, y and their maximum to f32, the product to f16
    found, expected = results(f, target, arrays), oracle(f, arrays)
    assert all(check(found[name], expected[name]).ok for name in f.results)
