"""Text to syntax tree: a table-driven LALR parser that builds nodes as it reduces.

Nothing here recurses, so no input can exhaust the stack; expressions deeper than
``MAX_NESTING`` are refused so that later stages may recurse.
"""

from __future__ import annotations

from typing import Any

from opc.errors import LanguageError
from opc.lang.actions import Actions
from opc.lang.source import MAX_NESTING, Source, Token, tokens
from opc.lang.syntax import File
from opc.lang.tables import END, Tables, load

# A level of nesting takes about ten entries of the stack. Signs before an operand pile up without reducing.
_MAX_STACK = 16 * MAX_NESTING
# Rules that put one more level on a syntax tree, by the name of their action.
_DEEPER = frozenset(
    {"binary", "negate", "group", "read", "read_else", "reduction", "unknown_reduction", "call"}
)


def parse(text: str | bytes, file: str = "<string>") -> File:
    """The syntax tree of ``text``.

    Args:
        text: the source; bytes must be UTF-8.
        file: its name, for messages.

    Raises:
        LanguageError: E01xx, with the place of the first error.
    """
    tables = load()
    source = Source.of(text, file)
    actions = Actions(source)
    _Driver(source, tables, actions).run()
    return File(file, source.text, tuple(actions.declarations))


class _Driver:
    """The stacks of the automaton: states, values, depths and extents of the values."""

    def __init__(self, source: Source, tables: Tables, actions: Actions) -> None:
        self.source, self.tables, self.actions = source, tables, actions
        self.states = [0]
        self.values: list[Any] = []
        self.depths: list[int] = []
        self.starts: list[int] = []
        self.ends: list[int] = []

    def run(self) -> None:
        rows = self.tables.states
        accept = rows[0]["start"]
        previous = Token(END, "", 0, 0)
        for token in tokens(self.source, self.tables):
            while True:
                action = rows[self.states[-1]].get(token.kind)
                if action is None and token.kind == END and self.states[-1] == accept:
                    return
                if action is None:
                    raise unexpected(self.source, self.tables, self.possible(), token, previous)
                if action >= 0:
                    break
                self.reduce(-1 - action, token.start)
            self.push(action, token, 0, token.start, token.end)
            if len(self.states) > _MAX_STACK:
                raise self.too_deep(token.start, token.end)
            previous = token

    def possible(self) -> frozenset[str]:
        """Terminals that may stand next. A row's own entries are too many: some only lead to reductions."""
        candidates = self.tables.states[self.states[-1]]
        return frozenset(kind for kind in candidates if self._shifts(kind))

    def _shifts(self, kind: str) -> bool:
        rows, states = self.tables.states, list(self.states)
        while True:
            action = rows[states[-1]].get(kind)
            if action is None:
                return kind == END and states[-1] == rows[0]["start"]
            if action >= 0:
                return True
            rule = self.tables.rules[-1 - action]
            del states[len(states) - rule.size :]
            states.append(rows[states[-1]][rule.origin])

    def push(self, state: int, value: Any, depth: int, start: int, end: int) -> None:
        self.states.append(state)
        self.values.append(value)
        self.depths.append(depth)
        self.starts.append(start)
        self.ends.append(end)

    def too_deep(self, start: int, end: int) -> LanguageError:
        message = f"the expression is more than {MAX_NESTING} operations deep"
        return self.source.error("E0106", message, start, end, "split it with `let`, or into clauses")

    def reduce(self, number: int, at: int) -> None:
        rule = self.tables.rules[number]
        first = len(self.values) - rule.size
        start, end = (self.starts[first], self.ends[-1]) if rule.size else (at, at)
        depth = max(self.depths[first:], default=0) + (rule.name in _DEEPER)
        if depth > MAX_NESTING:
            raise self.too_deep(start, end)
        children: list[Any] = []
        for position in rule.keep:
            value = self.values[first + position]
            if isinstance(value, list):
                children += value
            else:
                children.append(value)
        value = self._value(rule.name, rule.splice, rule.lift, children, start, end)
        for stack in (self.states, self.values, self.depths, self.starts, self.ends):
            del stack[len(stack) - rule.size :]
        self.push(self.tables.states[self.states[-1]][rule.origin], value, depth, start, end)

    def _value(self, name: str, splice: bool, lift: bool, children: list[Any], start: int, end: int) -> Any:
        if splice:
            return children
        if lift and len(children) == 1:
            return children[0]
        return self.actions.act(name, children, start, end)


# Terminals that are named together where all of the first set may stand: the sets, and the name.
_CATEGORIES = (
    ({"NAME", "NUMBER", "LPAR", "REDUCE"}, {"NAME", "NUMBER", "LPAR", "REDUCE", "MINUS"}, "an expression"),
    ({"LET", "REQUIRE", "EXAMPLE"}, {"LET", "REQUIRE", "EXAMPLE", "NAME"}, "a clause"),
    ({"PLUS", "MINUS", "STAR"}, {"PLUS", "MINUS", "STAR", "SLASH", "PERCENT", "//"}, "an operator"),
    ({"PLUS", "MINUS"}, {"PLUS", "MINUS"}, "an operator"),
    ({"LESSTHAN", "MORETHAN"}, {"LESSTHAN", "MORETHAN", "<=", ">=", "==", "!="}, "a comparison"),
    ({"USE", "KERNEL"}, {"USE", "KERNEL"}, "`kernel` or `use`"),
)
_PLAIN = {"NAME": "a name", "NUMBER": "a number", "STRING": "a text in quotes", "REDUCE": "a reduction"}


def unexpected(
    source: Source, tables: Tables, possible: frozenset[str], token: Token, previous: Token
) -> LanguageError:
    """The error for ``token``: what stands there, and what might."""
    expected = _expected(tables, possible)
    if token.kind == END:
        message = "the file ends too early"
        return source.error("E0112", message, previous.start, previous.end, help=f"expected {expected}")
    keyword = token.text in tables.literals and token.text.isalpha()
    if "NAME" in possible and (keyword or token.kind == "REDUCE"):
        message = f"`{token.text}` is a word of the language and cannot be a name"
        return source.error("E0110", message, token.start, token.end, help="choose another name")
    if token.text == "=" and tables.literals["=="] in possible:
        expected = "`==` to compare"
    shown = token.text if len(token.text) <= 40 else token.text[:37] + "..."
    return source.error("E0101", f"unexpected `{shown}`", token.start, token.end, help=f"expected {expected}")


def _expected(tables: Tables, possible: frozenset[str]) -> str:
    spelled = {kind: text for text, kind in tables.literals.items()}
    wanted = {kind for kind in possible if kind in spelled or kind in _PLAIN}
    parts: list[str] = []
    for members, covered, title in _CATEGORIES:
        if members <= wanted:
            parts.append(title)
            wanted = {kind for kind in wanted if kind not in covered and spelled.get(kind) not in covered}
    if END in possible:
        parts.append("the end of the file")
    parts += sorted(_PLAIN.get(kind) or f"`{spelled[kind]}`" for kind in wanted)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"
