"""LALR tables of the language: built from grammar.lark by lark, shipped as grammar.json.

Importing lark and building the tables costs a quarter of a second, so that happens once, by
``python -m opc.lang.tables``; a test holds grammar.json to grammar.lark.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_FOLDER = Path(__file__).parent
GRAMMAR = _FOLDER / "grammar.lark"
TABLES = _FOLDER / "grammar.json"
_VERSION = 1
END = "$END"


class Rule(NamedTuple):
    """A production: ``keep`` lists the positions whose values reach the action ``name``.

    ``splice``: the values join the parent's list. ``lift``: a single value passes through.
    """

    origin: str
    name: str
    size: int
    keep: tuple[int, ...]
    splice: bool
    lift: bool


class Tables(NamedTuple):
    """``states[s][symbol]`` is a state to go to (>= 0) or ``-1 - rule`` to reduce by.

    State 0 is the start; a text is accepted in the state that 0 reaches over ``start``.
    """

    literals: dict[str, str]
    scanner: re.Pattern[str]
    rules: tuple[Rule, ...]
    states: tuple[dict[str, int], ...]


@cache
def load() -> Tables:
    """The shipped tables."""
    raw = json.loads(TABLES.read_text(encoding="utf-8"))
    scanner = "|".join(f"(?P<{name}>{pattern})" for name, pattern in raw["patterns"])
    rules = tuple(
        Rule(origin, name, size, tuple(keep), *how) for origin, name, size, keep, *how in raw["rules"]
    )
    return Tables(raw["literals"], re.compile(scanner), rules, tuple(raw["states"]))


def build() -> str:
    """Text of grammar.json for the present grammar.lark. Needs lark."""
    from lark import Lark
    from lark.grammar import Rule as LarkRule
    from lark.lexer import TerminalDef

    parser = Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr", maybe_placeholders=False)
    data, memo = parser.memo_serialize([TerminalDef, LarkRule])
    terminals = [entry for entry in memo.values() if entry["__type__"] == "TerminalDef"]
    rule_numbers: dict[int, int] = {}
    rules: list[list[object]] = []
    for key, entry in memo.items():
        if entry["__type__"] == "Rule":
            rule_numbers[int(key)] = len(rules)
            rules.append(_rule(entry))
    automaton = data["parser"]["parser"]
    out = {
        "version": _VERSION,
        "literals": _literals(terminals),
        "patterns": _patterns(terminals),
        "rules": rules,
        "states": _states(automaton, rule_numbers),
    }
    return _dump(out)


def _rule(entry: dict[str, Any]) -> list[object]:
    symbols = entry["expansion"]
    origin = entry["origin"]["name"]
    everything = entry["options"]["keep_all_tokens"]
    keep = [i for i, s in enumerate(symbols) if everything or not s.get("filter_out", False)]
    # lark lifts a single child only where no alias names the production.
    lift = bool(entry["options"]["expand1"]) and not entry["alias"]
    return [origin, entry["alias"] or origin, len(symbols), keep, origin.startswith("__"), lift]


def _literals(terminals: list[dict[str, Any]]) -> dict[str, str]:
    return {t["pattern"]["value"]: t["name"] for t in terminals if t["pattern"]["__type__"] == "PatternStr"}


def _patterns(terminals: list[dict[str, Any]]) -> list[list[str]]:
    regular = [t for t in terminals if t["pattern"]["__type__"] == "PatternRE"]
    regular.sort(key=lambda t: -t["priority"])
    marks = [text for text in _literals(terminals) if not text[0].isalpha()]
    marks.sort(key=lambda text: (-len(text), text))
    mark = "|".join(re.escape(text) for text in marks)
    return [*([t["name"], t["pattern"]["value"]] for t in regular), ["MARK", mark]]


def _states(automaton: dict[str, Any], rule_numbers: dict[int, int]) -> list[dict[str, int]]:
    """Rows of the automaton, renumbered breadth first: lark's own numbers vary with the hash seed."""
    names = automaton["tokens"]
    order = [automaton["start_states"]["start"]]
    seen = {order[0]: 0}
    states: list[dict[str, int]] = []
    for state in order:
        row: dict[str, int] = {}
        edges = automaton["states"][state].items()
        for token, (reduces, argument) in sorted(edges, key=lambda edge: str(names[edge[0]])):
            if reduces:
                row[names[token]] = -1 - rule_numbers[int(argument["@"])]
                continue
            if argument not in seen:
                seen[argument] = len(order)
                order.append(argument)
            row[names[token]] = seen[argument]
        states.append(row)
    return states


def _dump(out: dict[str, Any]) -> str:
    """JSON with one state or rule per line, so that a grammar change gives a readable diff."""
    parts = []
    for key, value in out.items():
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in value)
            parts.append(f'"{key}": [\n  {rows}\n]')
        else:
            parts.append(f'"{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    TABLES.write_text(build(), encoding="utf-8")
