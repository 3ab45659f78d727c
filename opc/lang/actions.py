"""What each production of the grammar builds; called bottom-up by the parser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opc.errors import Span
from opc.lang import syntax as ast
from opc.lang.source import Source, Token

# Children of a production: tokens, nodes, and tuples of nodes, in the order of the grammar.
Children = list[Any]
_LARGEST = 2**63 - 1


class Actions:
    """One method per production; ``declarations`` collects the finished ones."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.declarations: list[ast.Declaration] = []
        self._table: dict[str, Callable[[Children, Span], Any]] = {
            name.removeprefix("on_"): getattr(self, name) for name in dir(self) if name.startswith("on_")
        }

    def act(self, name: str, children: Children, start: int, end: int) -> Any:
        """The value of production ``name`` over ``text[start:end]``."""
        return self._table[name](children, self.source.span(start, end))

    def _place(self, token: Token) -> Span:
        return self.source.span(token.start, token.end)

    # Declarations.

    def on_start(self, children: Children, span: Span) -> None:
        return None

    def on_use(self, children: Children, span: Span) -> None:
        self.declarations.append(ast.Use(_unquote(children[0]), self._place(children[0])))

    def on_derived(self, children: Children, span: Span) -> None:
        name, call = children
        self.declarations.append(ast.Derived(name.text, call, self._place(name)))

    def on_kernel(self, children: Children, span: Span) -> None:
        name, params, results, *body = children
        doc = body.pop(0) if body and isinstance(body[0], str) else ""
        results = tuple(r._replace(kind="result") if r.kind == "input" else r for r in results)
        params = tuple(
            p._replace(kind="attribute") if p.kind == "input" and p.shape is None else p for p in params
        )
        node = ast.Kernel(name.text, params, results, doc, tuple(body), self._place(name))
        self.declarations.append(node)

    def on_doc(self, children: Children, span: Span) -> str:
        return " ".join(_unquote(children[0]).split())

    def on_params(self, children: Children, span: Span) -> tuple[ast.Param, ...]:
        return tuple(children)

    def on_plain(self, children: Children, span: Span) -> ast.Param:
        return children[0]  # type: ignore[no-any-return]

    def on_param(self, children: Children, span: Span) -> ast.Param:
        return children[0]._replace(kind="param")  # type: ignore[no-any-return]

    def on_inout(self, children: Children, span: Span) -> ast.Param:
        return children[0]._replace(kind="inout")  # type: ignore[no-any-return]

    def on_declaration(self, children: Children, span: Span) -> ast.Param:
        name, type_name, *rest = children
        # Nodes are tuples too, so the plain ones are told by their exact type.
        shape = rest.pop(0) if rest and type(rest[0]) is tuple else None
        default = rest[0] if rest else None
        place, type_place = self._place(name), self._place(type_name)
        return ast.Param("input", name.text, type_name.text, shape, default, place, type_place)

    def on_shape(self, children: Children, span: Span) -> tuple[ast.Expr, ...]:
        return tuple(children)

    def on_default(self, children: Children, span: Span) -> ast.Expr:
        return children[0]  # type: ignore[no-any-return]

    # Clauses.

    def on_let(self, children: Children, span: Span) -> ast.Let:
        return ast.Let(children[0].text, children[1], self._place(children[0]))

    def on_require(self, children: Children, span: Span) -> ast.Require:
        return ast.Require(children[0], _unquote(children[1]), children[0].span)

    def on_example(self, children: Children, span: Span) -> ast.Example:
        return ast.Example(tuple(children), span)

    def on_entry(self, children: Children, span: Span) -> ast.Entry:
        return ast.Entry(children[0].text, children[1], self._place(children[0]))

    def on_assign(self, children: Children, span: Span) -> ast.Assign:
        domain = children.pop() if type(children[-1]) is tuple else ()
        value = children.pop()
        return ast.Assign(tuple(children), value, domain, span)

    def on_target(self, children: Children, span: Span) -> ast.Target:
        return ast.Target(children[0].text, tuple(children[1:]) or None, span)

    def on_domain(self, children: Children, span: Span) -> tuple[ast.Dim, ...]:
        return tuple(children)

    def on_dim(self, children: Children, span: Span) -> ast.Dim:
        return ast.Dim(children[0].text, children[1] if len(children) > 1 else None, self._place(children[0]))

    # Expressions.

    def on_compare(self, children: Children, span: Span) -> str:
        return children[0].text  # type: ignore[no-any-return]

    on_plus = on_times = on_compare

    def on_binary(self, children: Children, span: Span) -> ast.Binary:
        left, op, right = children
        return ast.Binary(op, left, right, span)

    def on_negate(self, children: Children, span: Span) -> ast.Expr:
        return ast.Negate(children[0], span)

    def on_number(self, children: Children, span: Span) -> ast.Number:
        token: Token = children[0]
        if token.text.isdigit():
            # Python refuses to convert thousands of digits; anything that long is too large anyway.
            value = int(token.text) if len(token.text) < 40 else _LARGEST + 1
            if value > _LARGEST:
                raise self._too_large(token)
            return ast.Number(value, span)
        real = float(token.text)
        if real == float("inf"):
            raise self._too_large(token)
        return ast.Number(real, span)

    def _too_large(self, token: Token) -> Exception:
        shown = token.text if len(token.text) <= 30 else token.text[:27] + "..."
        help = "write `inf` for infinity; integers reach 2**63 - 1"
        return self.source.error("E0114", f"{shown} is too large for a number", token.start, token.end, help)

    def on_name(self, children: Children, span: Span) -> ast.Name:
        return ast.Name(children[0].text, span)

    def on_group(self, children: Children, span: Span) -> ast.Expr:
        return children[0]  # type: ignore[no-any-return]

    def on_read(self, children: Children, span: Span) -> ast.Read:
        return ast.Read(children[0].text, tuple(children[1:]), None, span)

    def on_read_else(self, children: Children, span: Span) -> ast.Read:
        return ast.Read(children[0].text, tuple(children[1:-1]), children[-1], span)

    def on_unknown_reduction(self, children: Children, span: Span) -> ast.UnknownReduction:
        return ast.UnknownReduction(children[0].text, self._place(children[0]))

    def on_reduction(self, children: Children, span: Span) -> ast.Reduction:
        return ast.Reduction(children[0].text, tuple(children[1:-1]), children[-1], span)

    def on_call(self, children: Children, span: Span) -> ast.Call:
        return ast.Call(children[0].text, tuple(children[1:]), span)

    def on_positional(self, children: Children, span: Span) -> ast.Argument:
        return ast.Argument(None, children[0], span)

    def on_keyword(self, children: Children, span: Span) -> ast.Argument:
        return ast.Argument(children[0].text, children[1], span)

    def on_keyword_names(self, children: Children, span: Span) -> ast.Argument:
        names = tuple(ast.Name(token.text, self._place(token)) for token in children[1:])
        return ast.Argument(children[0].text, ast.NameList(names, span), span)


def _unquote(token: Token) -> str:
    return token.text[1:-1]
