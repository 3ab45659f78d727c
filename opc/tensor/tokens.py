"""Tokens of tensor IR text, and a cursor over them that reports errors with a caret."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn

from opc.dtypes import DType
from opc.errors import IRError, Span, fail

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<sign>[-+*<=,:(){}\[\]])""",
    re.VERBOSE,
)
DIGITS = 300  # enough for any number a machine holds, and below Python's own limit for int()


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text: kind is the lexer group, "end" past the last one."""

    kind: str
    text: str
    at: int


class Reader:
    """A cursor over the tokens of one text."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.tokens: list[Token] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                stray = Token("end", text[at], at)
                what = "string is not closed" if stray.text == '"' else f"unexpected character {stray.text!r}"
                self.error(what, "E0412", stray)
            if match.lastgroup != "space":
                self.tokens.append(Token(str(match.lastgroup), match[0], at))
            at = match.end()
        self.tokens.append(Token("end", "", len(text)))
        self.at = 0

    def error(
        self, message: str, code: str = "E0411", token: Token | None = None, help: str = ""
    ) -> NoReturn:
        """Raise at ``token`` (default: the next one)."""
        token = token or self.tokens[self.at]
        line = self.text.count("\n", 0, token.at) + 1
        column = token.at - (self.text.rfind("\n", 0, token.at) + 1) + 1
        span = Span(self.file, line, column, max(1, len(token.text)))
        raise IRError(fail(IRError, code, message, help=help, span=span).diagnostics, self.text)

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def peek(self, ahead: int = 1) -> str:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)].text

    def take(self) -> Token:
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def accept(self, text: str) -> bool:
        if self.token.text == text and self.token.kind != "string":
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.error(f"expected '{text}', found {self.found()}")

    def found(self) -> str:
        return f"'{self.token.text[:40]}'" if self.token.text else "the end of the text"

    def name(self, what: str) -> str:
        if self.token.kind != "name":
            self.error(f"expected {what}, found {self.found()}")
        return self.take().text

    def integer(self) -> int:
        negative = self.accept("-")
        token = self.token
        if token.kind != "number" or not token.text.isdigit():
            self.error(f"expected an integer, found {self.found()}")
        if len(token.text) > DIGITS:
            self.error("the number is too long")
        return -int(self.take().text) if negative else int(self.take().text)

    def string(self) -> str:
        if self.token.kind != "string":
            self.error(f"expected a string, found {self.found()}")
        try:
            return str(json.loads(self.token.text))
        except ValueError:
            self.error("the string has a bad escape or a control character", "E0412")
        finally:
            self.at += 1

    def dtype(self) -> DType:
        if self.token.text not in _DTYPES:
            known = ", ".join(_DTYPES)
            self.error(f"unknown dtype {self.found()}", "E0414", help=f"dtypes are {known}")
        return DType(self.take().text)


_DTYPES = tuple(str(d) for d in DType)
