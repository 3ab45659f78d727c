"""Text of a ``.k`` file on its way to the parser: decoding, limits, places, tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from opc.errors import LanguageError, Span, fail
from opc.lang.tables import END, Tables

MAX_NESTING = 256
MAX_LINE = 20_000
MAX_FILE = 2_000_000
_OPEN = {"(": ")", "[": "]", "{": "}"}
_CLOSE = frozenset(_OPEN.values())


class Token(NamedTuple):
    """A terminal of the grammar and where it stands."""

    kind: str
    text: str
    start: int
    end: int


class Source(NamedTuple):
    """A text and its line starts; makes spans from offsets."""

    name: str
    text: str
    starts: tuple[int, ...]

    @staticmethod
    def of(text: str | bytes, name: str) -> Source:
        """Decode and check the limits. Raises ``LanguageError`` (E0104, E0107, E0108)."""
        decoded = decode(text, name)
        if len(decoded) > MAX_FILE:
            raise fail(
                LanguageError,
                "E0108",
                f"the text has {len(decoded):,} characters; the limit is {MAX_FILE:,}",
                help='split it into files and join them with `use "other.k"`',
                span=Span(name, 1),
            )
        starts = [0]
        for line in decoded.split("\n"):
            if len(line) > MAX_LINE:
                raise LanguageError(_long_line(name, len(starts), len(line)).diagnostics, decoded)
            starts.append(starts[-1] + len(line) + 1)
        return Source(name, decoded, tuple(starts[:-1]))

    def span(self, start: int, end: int) -> Span:
        """The place of ``text[start:end]``; what runs over its first line is marked to that line's end."""
        line = bisect_right(self.starts, start)
        limit = self.starts[line] - 1 if line < len(self.starts) else len(self.text)
        return Span(self.name, line, start - self.starts[line - 1] + 1, max(1, min(end, limit) - start))

    def error(
        self, code: str, message: str, start: int, end: int, help: str = "", **more: object
    ) -> LanguageError:
        """An error at ``text[start:end]``."""
        made = fail(LanguageError, code, message, help=help, span=self.span(start, end), **more)
        return LanguageError(made.diagnostics, self.text)


def _long_line(name: str, line: int, length: int) -> LanguageError:
    error = fail(
        LanguageError,
        "E0107",
        f"line {line} has {length:,} characters; the limit is {MAX_LINE:,}",
        help="line breaks may stand between any two words",
        span=Span(name, line),
    )
    assert isinstance(error, LanguageError)
    return error


def decode(text: str | bytes, name: str) -> str:
    """UTF-8 bytes to text; raises E0104 at the first byte, or half of a surrogate pair, that is none."""
    if isinstance(text, str):
        raw = text.encode("utf-8", "surrogatepass")
        if len(raw) == len(text):
            return text
    else:
        raw = text
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        raise fail(
            LanguageError,
            "E0104",
            f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}",
            help="save the file as UTF-8",
            span=Span(name, line, column),
        ) from None


def tokens(source: Source, tables: Tables) -> Iterator[Token]:
    """Terminals of ``source``, ended by one ``END``; brackets deeper than the cap raise E0105."""
    text, position = source.text, 0
    match_at, literals = tables.scanner.match, tables.literals
    opened: list[Token] = []
    while position < len(text):
        match = match_at(text, position)
        if match is None:
            raise _bad_character(source, position)
        kind, word, start, position = match.lastgroup or "", match.group(), position, match.end()
        if kind in ("SPACE", "COMMENT"):
            continue
        if kind == "NAME":
            kind = literals.get(word, kind)
        elif kind == "MARK":
            kind = literals[word]
            _track_bracket(source, opened, Token(kind, word, start, position))
        elif (
            kind == "NUMBER" and position < len(text) and (text[position].isalnum() or text[position] in "_.")
        ):
            raise _bad_number(source, start, position)
        yield Token(kind, word, start, position)
    if opened:
        raise _unclosed(source, opened[-1])
    yield Token(END, "", len(text.rstrip()), len(text.rstrip()))


def _track_bracket(source: Source, opened: list[Token], token: Token) -> None:
    if token.text in _OPEN:
        opened.append(token)
        if len(opened) > MAX_NESTING:
            message = f"brackets nested deeper than {MAX_NESTING}"
            help = "split the expression with `let`, or into clauses"
            raise source.error("E0105", message, token.start, token.end, help)
    elif token.text in _CLOSE:
        if not opened or _OPEN[opened[-1].text] != token.text:
            raise _unmatched(source, opened, token)
        opened.pop()


def _unmatched(source: Source, opened: list[Token], token: Token) -> LanguageError:
    if not opened:
        return source.error("E0113", f"`{token.text}` closes nothing", token.start, token.end)
    opening = opened[-1]
    return source.error(
        "E0113",
        f"`{token.text}` does not close `{opening.text}`",
        token.start,
        token.end,
        help=f"write `{_OPEN[opening.text]}` first",
        secondary=((source.span(opening.start, opening.end), "opened here"),),
    )


def _unclosed(source: Source, opening: Token) -> LanguageError:
    message = f"`{opening.text}` is never closed"
    help = f"add `{_OPEN[opening.text]}`"
    return source.error("E0109", message, opening.start, opening.end, help)


def _bad_character(source: Source, position: int) -> LanguageError:
    character = source.text[position]
    if character == '"':
        end = source.text.find("\n", position)
        message = "the text that starts here has no closing quote"
        return source.error("E0103", message, position, end if end >= 0 else len(source.text), 'add `"`')
    shown = f"`{character}`" if character.isprintable() else f"U+{ord(character):04X}"
    help = "names are ASCII letters, digits and _" if character.isalpha() else ""
    return source.error("E0102", f"{shown} has no meaning here", position, position + 1, help)


def _bad_number(source: Source, start: int, end: int) -> LanguageError:
    text = source.text
    while end < len(text) and (text[end].isalnum() or text[end] in "_."):
        end += 1
    message = f"`{text[start:end][:40]}` is not a number"
    return source.error(
        "E0111", message, start, end, "write 12, 0.5 or 1e-5; a name may not start with a digit"
    )
