"""Random programs of one instruction, by family."""

from __future__ import annotations

import random

from opc.affine import Affine

DTYPES = ("f32", "f64", "f16", "bf16", "i32", "i8")
ACCUMULATOR = {"f32": "f32", "f64": "f64", "f16": "f32", "bf16": "f32", "i8": "i32", "i32": "i32"}


def _join(shape: list[int]) -> str:
    return ",".join(map(str, shape))


def contraction(r: random.Random) -> str:
    """cube.mma with batch, shifted and strided rows, transposed operands and results."""
    dtype = r.choice(["f32", "f32", *DTYPES])
    acc = ACCUMULATOR[dtype]
    m, n, k = (
        r.choice([1, 2, 3, 5, 9, 19]),
        r.choice([1, 3, 4, 8, 13, 16, 20, 300]),
        r.choice([1, 2, 3, 7, 16]),
    )
    taps, batch = r.choice([1, 1, 2, 3, 9]), r.choice([1, 1, 2])
    a_index, a_shape = r.choice(
        [
            ("z, m + r, k", [batch, m + taps - 1, k]),
            ("z, k, m + r", [batch, k, m + taps - 1]),
            ("z, m*2 + r, k", [batch, 2 * m + taps - 2, k]),
        ]
    )
    b_index, b_shape = r.choice(
        [
            ("z, r, k, n", [batch, taps, k, n]),
            ("z, n, r, k", [batch, n, taps, k]),
            ("r, k, n, z", [taps, k, n, batch]),
        ]
    )
    c_index, c_shape = r.choice(
        [("z, m, n", [batch, m, n]), ("n, z, m", [n, batch, m]), ("z, n, m", [batch, n, m])]
    )
    space = "l2" if n > 20 else r.choice(["reg", "l2"])
    loop = r.random() < 0.4
    dims = f"z<{batch}, m<{m}, n<{n}, r<{taps}, k<{k}"
    init = "t" if loop else "0"
    lines = [
        "program v1 contraction machine avx2 {",
        f"buffer a: {dtype}[{_join(a_shape)}]@gm input",
        f"buffer b: {dtype}[{_join(b_shape)}]@gm input",
        f"buffer y: {r.choice([acc, 'f32'])}[{_join(c_shape)}]@gm output",
        f"buffer c: {acc}[{_join(c_shape)}]@{space} local",
        *(["loop t < 2 {"] if loop else []),
        f"cube.mma c[{c_index}] = a[{a_index}], b[{b_index}] for {dims} {{init={init}, chain=9999}}",
        *(["}"] if loop else []),
        f"copy_out.copy y[{c_index}] = c[{c_index}] for z<{batch}, m<{m}, n<{n}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def square(r: random.Random) -> str:
    """cube.mma of a buffer with itself: products of its rows, of its columns, or of both."""
    dtype = r.choice(["f32", *DTYPES])
    acc, space = ACCUMULATOR[dtype], r.choice(["reg", "l2"])
    m, batch = r.choice([1, 2, 3, 5, 8, 13]), r.choice([1, 2])
    left, right = r.choice([("m, k", "n, k"), ("k, m", "k, n"), ("m, k", "k, n"), ("k, m", "n, k")])
    dims, c_index = f"z<{batch}, m<{m}, n<{m}", r.choice(["z, m, n", "z, n, m"])
    lines = [
        "program v1 square machine avx2 {",
        f"buffer a: {dtype}[{batch},{m},{m}]@gm input",
        f"buffer y: {acc}[{batch},{m},{m}]@gm output",
        f"buffer c: {acc}[{batch},{m},{m}]@{space} local",
        f"cube.mma c[{c_index}] = a[z, {left}], a[z, {right}] for {dims}, k<{m} {{init=0, chain=9999}}",
        f"copy_out.copy y[{c_index}] = c[{c_index}] for {dims}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def gather(r: random.Random) -> str:
    """A copy whose source index leaves its buffer: offsets, strides, dilation, mirrored axes."""
    dtype = r.choice(DTYPES)
    other = r.choice([dtype, dtype, r.choice(DTYPES)])
    source = [r.choice([1, 3, 6]), r.choice([1, 4, 9]), r.choice([1, 3, 8, 40])]
    extents = {"h": r.randint(1, 5), "v": r.randint(1, 7), "c": source[2], "r": r.choice([1, 1, 2])}
    order = r.choice(["h, r, v, c", "v, h, c, r", "c, r, h, v"])
    shape = [extents[name] for name in order.split(", ")]
    target, rounds = r.choice(["reg", "l2", "gm"]), r.choice([1, 3])
    fill = r.choice(["0.0", "0", "1.5", "-inf"]) if "f" in dtype else r.choice(["0", "7"])
    first = {"h": r.choice([1, 1, 2, -1]), "r": r.choice([1, 2]), "p": int(rounds > 1)}
    forms = [
        Affine.of(first, r.randint(-3, 3)),
        Affine.of({"v": r.choice([1, 1, 2, 3, -2])}, r.randint(-3, 8)),
        Affine.of({"c": 1}, r.choice([0, 0, -2, 3])),
    ]
    read = f"x[{', '.join(map(str, forms))}]"
    dims = ", ".join(f"{name}<{extent}" for name, extent in extents.items())
    lines = ["program v1 gather machine avx2 {", f"buffer x: {dtype}[{_join(source)}]@gm input"]
    lines.append(f"buffer y: {other}[{rounds},{_join(shape)}]@gm output")
    if target != "gm":
        lines.append(f"buffer t: {r.choice([dtype, other])}[{_join(shape)}]@{target} local")
    lines.append(f"{r.choice(['parallel', 'loop'])} p < {rounds} {{")
    if target == "gm":
        lines.append(f"copy_in.copy y[p, {order}] = {read} for {dims} {{fill={fill}}}")
    else:
        lines.append(f"copy_in.copy t[{order}] = {read} for {dims} {{fill={fill}}}")
        lines.append(f"copy_out.copy y[p, {order}] = t[{order}] for {dims}")
    return "\n".join([*lines, "}", "}"]) + "\n"


ARITY = {"neg": 1, "abs": 1, "exp": 1, "tanh": 1, "copy": 1, "select": 3, "fma": 3}
ELEMENTWISE = (
    "add sub mul max min neg abs select lt le gt ge eq ne copy fma div exp tanh".split()  # noqa: SIM905
)


def elementwise(r: random.Random) -> str:
    """A vector instruction on operands that are whole, rows, columns, transposed or literals, in any space."""
    dtypes = [r.choice(DTYPES) for _ in range(3)]
    if r.random() < 0.6:
        dtypes = [dtypes[0]] * 3
    extents = {"m": r.choice([1, 2, 3, 7]), "n": r.choice([1, 2, 3, 5, 8, 12, 17, 33])}
    op = r.choice(ELEMENTWISE)
    buffers: list[str] = []
    body: list[str] = []
    operands = [
        _operand(r, i, dtypes[i], extents, buffers, body)
        if i == 0 or r.random() < 0.8
        else r.choice(["0.0", "2.5", "3"])
        for i in range(ARITY.get(op, 2))
    ]
    result = r.choice(DTYPES) if r.random() < 0.4 else dtypes[0]
    if op in ("lt", "le", "gt", "ge", "eq", "ne"):
        result = r.choice(["i8", "i32", "f32"])
    if op in ("exp", "tanh") and result.startswith("i"):
        result = "f32"
    shape, dims = f"{extents['m']},{extents['n']}", f"m<{extents['m']}, n<{extents['n']}"
    buffers.append(f"buffer y: {result}[{shape}]@gm output")
    space = r.choice(["reg", "l2", "gm"])
    if space == "gm":
        body.append(f"vector.{op} y[m, n] = {', '.join(operands)} for {dims}")
    else:
        buffers.append(f"buffer t: {result}[{shape}]@{space} local")
        body.append(f"vector.{op} t[m, n] = {', '.join(operands)} for {dims}")
        if r.random() < 0.5 and extents["n"] > 2:
            body.append(f"vector.copy t[m, n] = t[m, n + 1] for m<{extents['m']}, n<{extents['n'] - 1}")
        body.append(f"copy_out.copy y[m, n] = t[m, n] for {dims}")
    return "\n".join(["program v1 elementwise machine avx2 {", *buffers, *body, "}"]) + "\n"


def _operand(
    r: random.Random, i: int, dtype: str, extents: dict[str, int], buffers: list[str], body: list[str]
) -> str:
    axes = r.choice([("m", "n"), ("m", "n"), ("n",), ("m",), ("n", "m")])
    name, shape, index = "abc"[i], _join([extents[a] for a in axes]), ", ".join(axes)
    buffers.append(f"buffer {name}: {dtype}[{shape}]@gm input")
    space = r.choice(["reg", "l2", "gm"])
    if space != "gm":
        buffers.append(f"buffer {name}1: {dtype}[{shape}]@{space} local")
        dims = ", ".join(f"{a}<{extents[a]}" for a in axes)
        body.append(f"copy_in.copy {name}1[{index}] = {name}[{index}] for {dims}")
        name += "1"
    return f"{name}[{index}]"


REDUCTIONS = ("sum", "max", "min", "argmax", "argmin", "moments")


def reduction(r: random.Random) -> str:
    """A reduction of rows or columns in two parts, the second merged into the first."""
    op, dtype = r.choice(REDUCTIONS), r.choice(["f32", "f64", "f16", "bf16", "i32"])
    m, n = r.choice([(5, 37), (1, 8), (3, 3), (4, 70), (2, 300)])
    kept, extent = r.choice([("m", m), ("n", n)])
    space = "l2" if m * n > 300 else r.choice(["reg", "l2"])
    value = {"f64": "f64", "i32": "i32"}.get(dtype, "f32")
    if op == "moments" and value == "i32":
        dtype = value = "f32"
    second = value if op == "moments" else "i32"
    pair, arg = op == "moments" or op.startswith("arg"), op.startswith("arg")
    count = m * n // extent
    lines = [
        "program v1 reduction machine avx2 {",
        f"buffer x: {dtype}[2,{m},{n}]@gm input",
        f"buffer y: {value}[{extent}]@gm output",
        f"buffer v: {dtype}[{m},{n}]@{space} local",
        f"buffer r: {value}[{extent}]@reg local",
    ]
    if pair:
        lines += [f"buffer y2: {second}[{extent}]@gm output", f"buffer r2: {second}[{extent}]@reg local"]
    if arg:
        lines.append(f"buffer i: i32[{m},{n}]@{space} local")
    dims = f"m<{m}, n<{n}"
    lines += ["loop t < 2 {", f"copy_in.copy v[m, n] = x[t, m, n] for {dims}"]
    if arg:
        lines.append(f"vector.iota i[m, n] = for {dims} {{form=m*3 + n + t*1000}}")
    form = f", form=t*{count}" if op == "moments" else ""
    lines.append(
        f"vector.reduce_{op} r[{kept}]{f', r2[{kept}]' if pair else ''} = v[m, n]{', i[m, n]' if arg else ''} "
        f"for {dims} {{init=t{form}, chain={4 * m * n}}}"
    )
    lines += ["}", f"copy_out.copy y[j] = r[j] for j<{extent}"]
    if pair:
        lines.append(f"copy_out.copy y2[j] = r2[j] for j<{extent}")
    return "\n".join([*lines, "}"]) + "\n"


FAMILIES = {
    "contraction": contraction,
    "square": square,
    "gather": gather,
    "elementwise": elementwise,
    "reduction": reduction,
}
