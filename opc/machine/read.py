"""Checked construction of a ``Machine`` from TOML data: every missing, negative or unknown
figure is reported, all at once, with the key's path.
"""

from __future__ import annotations

import difflib
import math
from itertools import pairwise
from typing import Any

from opc.dtypes import DType
from opc.errors import Diagnostic, MachineError
from opc.machine.factor import Factor
from opc.machine.model import ROLES, Gather, Machine, Measured, Route, Space, VectorCost
from opc.machine.shared import Memory
from opc.scalar import FUNCTIONS

FORMAT = 1
CLASSES = ("copy_in", "cube", "scale", "vector", "copy_out")
_TOP = {
    "format", "name", "kind", "description", "clock_mhz", "cores", "default_dtype", "spaces", "roles", "routes",
    "dtypes", "cube", "vector", "scale", "pipes", "limits", "features", "measured", "memory", "sources",
}  # fmt: skip
# What vector costs are listed for: functions, and the forms of them that a vector unit distinguishes.
_OPERATIONS = {
    *FUNCTIONS, "default", "fma", "copy", "convert", "fill", "iota", "adds", "muls", "maxs", "mins", "relu",
    "axpy", "reciprocal", "compare", "dequantise", "reduce", "reduce_sum", "reduce_max", "reduce_min",
    "reduce_groups",
}  # fmt: skip
_TYPES = {*DType, "i64", "i16", "i4", "u32", "u16", "u8"}


class _Reader:
    """Collects problems; every getter returns a usable value so reading can go on."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Diagnostic] = []

    def problem(self, code: str, message: str, help: str = "") -> None:
        self.problems.append(Diagnostic(code, f"{self.file}: {message}", help=help))

    def get(self, table: Any, key: str, kind: type, where: str, default: Any = ...) -> Any:
        if not isinstance(table, dict) or key not in table:
            if default is ...:
                self.problem(
                    "E0604", f"'{where}{key}' is missing", help=f"add {key} = … under [{where.rstrip('.')}]"
                )
                return _usable(kind)
            return default
        value = table[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.problem("E0605", f"'{where}{key}' must be {_KINDS[kind]}, not {value!r}")
            return _usable(kind)
        return value

    def figure(self, table: Any, key: str, where: str, default: Any = ..., least: float = 0.0) -> float:
        value = float(self.get(table, key, float, where, default))
        if not math.isfinite(value) or value < least:
            self.problem("E0606", f"'{where}{key}' = {value:g} must be at least {least:g}")
        return value

    def whole(self, table: Any, key: str, where: str, default: Any = ..., least: int = 0) -> int:
        value = int(self.get(table, key, int, where, default))
        if not least <= value <= _LARGEST:
            bound = f"at least {least}" if value < least else f"at most {_LARGEST}"
            self.problem("E0606", f"'{where}{key}' = {value} must be {bound}")
        return value

    def dtype(self, text: Any, where: str) -> DType:
        if text not in list(DType):
            self.problem(
                "E0607", f"'{where}' names an unknown dtype {text!r}", help="one of " + ", ".join(DType)
            )
            return DType.F32
        return DType(text)


_LARGEST = 2**53  # beyond it sizes and addresses would not be exact where they are priced as floats
_KINDS = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "a table",
}  # fmt: skip


def _usable(kind: type) -> Any:
    """A value that raises no further complaint about a figure already reported."""
    return kind(1) if kind in (int, float) else kind()


def build(data: dict[str, Any], file: str) -> Machine:
    """A machine from parsed TOML. Raises MachineError listing every problem."""
    r = _Reader(file)
    if data.get("format") != FORMAT:
        r.problem("E0608", f"'format' must be {FORMAT}, found {data.get('format')!r}")
    _check_keys(r, data)
    spaces = _spaces(r, data)
    roles = _roles(r, data, spaces)
    cores = r.whole(data, "cores", "", least=1)
    routes = _share(_routes(r, data, spaces), _memory(r, data), roles.get("memory", ""), cores)
    cube = r.get(data, "cube", dict, "", {})
    vector = r.get(data, "vector", dict, "")
    scale = r.get(data, "scale", dict, "", {})
    pipes = r.get(data, "pipes", dict, "")
    kind = r.get(data, "kind", str, "")
    machine = Machine(
        name=r.get(data, "name", str, ""),
        kind=kind,
        description=r.get(data, "description", str, "", ""),
        clock_mhz=r.figure(data, "clock_mhz", "", least=1.0),
        cores=cores,
        spaces=spaces,
        roles=roles,
        routes=routes,
        default_dtype=r.dtype(r.get(data, "default_dtype", str, ""), "default_dtype"),
        dtypes={k: _dtypes(r, v, f"dtypes.{k}") for k, v in r.get(data, "dtypes", dict, "").items()},
        accumulators=_accumulators(r, cube),
        cube_shape=_cube_shapes(r, cube),
        vector_bytes=r.whole(vector, "bytes", "vector.", least=max(t.bytes for t in DType)),
        vector_functions=_functions(r, vector),
        scale_forms=frozenset(r.get(scale, "forms", list, "scale.", [])),
        pipes=tuple(r.get(pipes, "names", list, "pipes.")),
        scale_factor=_factor(r, scale, spaces),
        vector_pipe=r.get(vector, "pipe", str, "vector.", ""),
        cube_pipe=r.get(cube, "pipe", str, "cube.", ""),
        prefetch_pipe=r.get(pipes, "prefetch", str, "pipes.", ""),
        vector_costs=_vector_costs(r, vector),
        vector_units=r.whole(vector, "units", "vector.", 1, least=1),
        operand_dtypes=_dtypes(r, r.get(cube, "operand_dtypes", list, "cube.", []), "cube.operand_dtypes"),
        cube_block=r.figure(cube, "block_cycles", "cube.", 1.0),
        cube_issue=r.figure(cube, "issue", "cube.", 0.0),
        cube_latency=r.figure(cube, "latency", "cube.", 0.0),
        dispatch_cycles=r.figure(pipes, "dispatch_cycles", "pipes.", 0.0),
        window=r.whole(pipes, "window", "pipes.", 0),
        queue_depth=r.whole(pipes, "queue_depth", "pipes.", 0),
        event_ids=r.whole(pipes, "event_ids", "pipes.", 0),
        sync=r.get(pipes, "sync", str, "pipes.", "none"),
        unordered_pipes=frozenset(r.get(pipes, "unordered", list, "pipes.", [])),
        sync_cycles=r.figure(pipes, "sync_cycles", "pipes.", 1.0),
        limits=_limits(r, r.get(data, "limits", dict, "", {})),
        features=tuple(r.get(data, "features", list, "", [])),
        measured=_measured(r, r.get(data, "measured", dict, "", {})),
        sources={k: str(v) for k, v in r.get(data, "sources", dict, "", {}).items()},
    )
    _check_pipes(r, machine)
    _check_cache(r, machine)
    if r.problems:
        raise MachineError(r.problems)
    return machine


def _check_keys(r: _Reader, data: dict[str, Any]) -> None:
    for key in sorted(set(data) - _TOP):
        close = difflib.get_close_matches(key, _TOP, 1)
        r.problem("E0609", f"unknown key '{key}'", help=f"did you mean '{close[0]}'?" if close else "")


def _limits(r: _Reader, table: dict[str, Any]) -> dict[str, int]:
    # Planners divide by rates and ways; of anything else there may be none.
    return {k: r.whole(table, k, "limits.", least=int(k.endswith(("_per_cycle", "_ways")))) for k in table}


def _check_cache(r: _Reader, machine: Machine) -> None:
    limits = machine.limits
    if "l1_bytes" in limits and limits["l1_bytes"] < (least := limits.get("l1_ways", 1) * machine.line_bytes):
        r.problem(
            "E0606", f"'limits.l1_bytes' = {limits['l1_bytes']} must be at least {least}: a line in each way"
        )


def _spaces(r: _Reader, data: dict[str, Any]) -> dict[str, Space]:
    found: dict[str, Space] = {}
    for name, table in r.get(data, "spaces", dict, "").items():
        where = f"spaces.{name}."
        fractal = r.get(table, "fractal", list, where, None)
        if fractal is not None and (
            len(fractal) != 2 or not all(isinstance(n, int) and n > 0 for n in fractal)
        ):
            r.problem("E0605", f"'{where}fractal' must be two positive numbers")
            fractal = None
        found[name] = Space(
            name,
            r.whole(table, "capacity", where),
            r.whole(table, "align", where, 1, least=1),
            r.get(table, "addressable", bool, where, True),
            tuple(fractal) if fractal else None,
        )
    return found


def _roles(r: _Reader, data: dict[str, Any], spaces: dict[str, Space]) -> dict[str, str]:
    roles = r.get(data, "roles", dict, "")
    for role, space in roles.items():
        if role not in ROLES:
            r.problem("E0609", f"unknown role '{role}'", help="roles: " + ", ".join(ROLES))
        if space not in spaces:
            r.problem("E0610", f"role '{role}' names space '{space}', which is not declared")
    needed = ["memory", "vector", "stage"]
    if r.get(r.get(data, "dtypes", dict, "", {}), "cube", list, "dtypes.", []):
        needed += ["accumulator"]
        if data.get("kind") == "npu" or "operand_a" in roles or "operand_b" in roles:
            needed += ["operand_a", "operand_b"]
            if data.get("kind") == "cpu":
                needed += ["registers"]  # of the element types without tiles
    for role in needed:
        if role not in roles:
            r.problem("E0604", f"'roles.{role}' is missing", help="name the space that serves as it")
    return {k: v for k, v in roles.items() if v in spaces}


def _routes(r: _Reader, data: dict[str, Any], spaces: dict[str, Space]) -> tuple[Route, ...]:
    found = []
    pipes = r.get(data, "pipes", dict, "", {})
    names = pipes.get("names", []) if isinstance(pipes, dict) else []
    for i, table in enumerate(r.get(data, "routes", list, "")):
        where = f"routes[{i}]."
        units = r.whole(table, "units", where, 1, least=1)
        route = Route(
            r.get(table, "class", str, where),
            r.get(table, "from", str, where),
            r.get(table, "to", str, where),
            r.get(table, "pipe", str, where),
            units * r.figure(table, "bandwidth", where, least=1e-6),
            r.figure(table, "latency", where, 0.0),
            r.whole(table, "burst", where, 32, least=1),
            r.figure(table, "head", where, 0.0),
            tuple((units * size, cycles) for size, cycles in _curve(r, table, where)),
            units,
            _gather(r, r.get(table, "gather", dict, where, None), f"{where}gather."),
        )
        if route.opcode_class not in CLASSES:
            r.problem(
                "E0609", f"'{where}class' is '{route.opcode_class}'", help="classes: " + ", ".join(CLASSES)
            )
        for end in (route.source, route.target):
            if end not in spaces:
                r.problem("E0610", f"'{where}' names space '{end}', which is not declared")
        if route.pipe not in names:
            r.problem("E0610", f"'{where}pipe' names pipe '{route.pipe}', which is not in pipes.names")
        found.append(route)
    return tuple(found)


def _curve(r: _Reader, table: Any, where: str) -> tuple[tuple[float, float], ...]:
    points = r.get(table, "curve", list, where, [])
    pairs = [p for p in points if isinstance(p, list) and len(p) == 2 and all(_is_figure(n) for n in p)]
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(pairs))
    if len(pairs) != len(points) or len(points) == 1 or not rising:
        r.problem("E0606", f"'{where}curve' must be two or more rising points [bytes, cycles], none negative")
        return ()
    return tuple((float(x), float(y)) for x, y in pairs)


def _gather(r: _Reader, table: Any, where: str) -> Gather | None:
    if table is None:
        return None
    steps = r.get(table, "steps", list, where)
    if not all(isinstance(n, int) and n > 0 for n in steps):
        r.problem("E0605", f"'{where}steps' must be positive numbers")
    figures = (r.figure(table, key, where) for key in ("fixed", "step", "row", "worst"))
    return Gather(tuple(steps), *figures)


def _memory(r: _Reader, data: dict[str, Any]) -> Memory:
    table = r.get(data, "memory", dict, "", {})
    known = {"l2_hit", "l2_bandwidth", "bandwidth", "miss_latency"}
    for key in sorted(set(table) - known):
        r.problem("E0609", f"unknown key 'memory.{key}'", help="one of " + ", ".join(sorted(known)))
    hit = r.figure(table, "l2_hit", "memory.", 1.0)
    if hit > 1:
        r.problem("E0606", f"'memory.l2_hit' = {hit:g} is a share, at most 1")
    rates = (r.figure(table, key, "memory.", 0.0) for key in ("l2_bandwidth", "bandwidth", "miss_latency"))
    return Memory(min(1.0, hit), *rates)


def _share(routes: tuple[Route, ...], memory: Memory, space: str, cores: int) -> tuple[Route, ...]:
    def shared(r: Route) -> bool:
        return space in (r.source, r.target) and r.bandwidth > 0  # else already reported

    return tuple(memory.route(r, cores) if shared(r) else r for r in routes)


def _is_figure(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _measured(r: _Reader, table: Any) -> Measured:
    return Measured(
        r.get(table, "chip", str, "measured.", ""),
        r.figure(table, "clock_mhz", "measured.", 0.0),
        frozenset(str(c) for c in r.get(table, "single", list, "measured.", [])),
    )


def _dtypes(r: _Reader, listed: Any, where: str) -> tuple[DType, ...]:
    if not isinstance(listed, list):
        r.problem("E0605", f"'{where}' must be a list, not {listed!r}")
        return ()
    return tuple(r.dtype(t, where) for t in listed)


def _accumulators(r: _Reader, cube: Any) -> dict[DType, DType]:
    listed = r.get(cube, "accumulators", dict, "cube.", {}).items()
    return {r.dtype(k, "cube.accumulators"): r.dtype(v, f"cube.accumulators.{k}") for k, v in listed}


def _cube_shapes(r: _Reader, cube: Any) -> dict[DType, tuple[int, int, int]]:
    found: dict[DType, tuple[int, int, int]] = {}
    for name, shape in r.get(cube, "shape", dict, "cube.", {}).items():
        where = f"cube.shape.{name}"
        if not (
            isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
        ):
            r.problem("E0605", f"'{where}' must be three positive numbers [m, n, k]")
            continue
        found[r.dtype(name, where)] = (shape[0], shape[1], shape[2])
    return found


def _factor(r: _Reader, scale: Any, spaces: dict[str, Space]) -> Factor | None:
    table = r.get(scale, "factor", dict, "scale.", None)
    if table is None:
        if "scale" in r.get(scale, "forms", list, "scale.", []):
            r.problem("E0604", "'scale.factor' is missing", help="scale.forms says that drains multiply")
        return None
    where = "scale.factor."
    space = r.get(table, "space", str, where, "")
    if space and space not in spaces:
        r.problem("E0610", f"'{where}space' names space '{space}', which is not declared")
    results = {
        r.dtype(k, f"{where}results"): _dtypes(r, v, f"{where}results.{k}")
        for k, v in r.get(table, "results", dict, where).items()
    }
    return Factor(results, r.whole(table, "bits", where, least=1), space)


def _functions(r: _Reader, vector: Any) -> frozenset[str]:
    listed = r.get(vector, "functions", list, "vector.")
    for name in listed:
        if name not in FUNCTIONS and name not in ("fma", "copy", "iota", "reduce"):
            r.problem("E0609", f"'vector.functions' lists unknown function '{name}'")
    return frozenset(listed)


def _vector_costs(r: _Reader, vector: Any) -> dict[str, VectorCost]:
    found = {}
    for name, cost in r.get(vector, "cost", dict, "vector.", {}).items():
        where = f"vector.cost.{name}"
        operation, *types = name.split(".")
        if operation not in _OPERATIONS or len(types) > 2 or not _TYPES.issuperset(types):
            r.problem(
                "E0609",
                f"'{where}' is no vector operation",
                help="write OPERATION, OPERATION.TYPE or OPERATION.SOURCE.RESULT",
            )
        if not isinstance(cost, list) or len(cost) not in (3, 4, 5) or not all(map(_is_figure, cost)):
            r.problem("E0606", f"'{where}' must be [head, slope, tail, floor, fixed], none negative")
            continue
        found[name] = VectorCost(*map(float, cost))
    return found


def _check_pipes(r: _Reader, m: Machine) -> None:
    if m.kind not in ("cpu", "npu"):
        r.problem("E0605", f'\'kind\' must be "cpu" or "npu", not {m.kind!r}')
    named = (("vector.pipe", m.vector_pipe), ("cube.pipe", m.cube_pipe), ("pipes.prefetch", m.prefetch_pipe))
    for what, pipe in named:
        if pipe and pipe not in m.pipes:
            r.problem("E0610", f"'{what}' names pipe '{pipe}', which is not in pipes.names")
    for t in m.dtypes.get("cube", ()):
        for key, table in (("shape", m.cube_shape), ("accumulators", m.accumulators)):
            if t not in table:
                r.problem(
                    "E0604", f"'cube.{key}.{t}' is missing", help="dtypes.cube says that the cube takes it"
                )
    if m.sync not in ("none", "flags"):
        r.problem("E0605", f'\'pipes.sync\' must be "none" or "flags", not {m.sync!r}')
    if m.sync == "flags" and m.event_ids < 1:
        r.problem("E0606", "'pipes.event_ids' must be at least 1 where pipes are synchronised by flags")
    if m.kind == "npu" and not m.vector_costs.get("default"):
        r.problem("E0604", "'vector.cost.default' is missing")
