"""Finds names and operators in a function's text that the search_path of a writer could lead elsewhere.

PostgreSQL looks up by the path: functions, types, tables and operators without a schema, and the operators that some
words of the grammar stand for: IN, BETWEEN, LIKE, IS DISTINCT FROM, NULLIF, CASE with an operand, JOIN ... USING. What
the grammar itself leads to pg_catalog (coalesce, EXISTS, integer, CAST ...) needs no schema.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*|(?m:^\#[^\n]*))
    | (?P<comment>/\*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag))
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<number>(?:\d[\d_]*(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][-+]?\d+)?)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<label><<[^\W\d]\w*>>)
    | (?P<mark>::|:=|\.\.|[().,;\[\]:]|\$\d+)
    | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
    """,
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    #: word, quoted, string, number, label, mark or operator; qualified is an operator with its schema.
    kind: str
    #: A word in lower case, the rest as it stands.
    text: str
    #: Where it stands.
    start: int


#: Behind the last token, and before the first.
END = Token("mark", "", 0)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Types that the grammar itself leads to pg_catalog.
KEYWORD_TYPES = _words("""
    bigint bit boolean char character dec decimal double float int integer interval national nchar numeric real
    smallint time timestamp varchar
""")

#: Words of the grammar that look like the name of a function in front of a parenthesis, and can't be one.
CONSTRUCTS = _words("cast coalesce exists greatest least row values")

#: Words that no function and no type can have for a name, so that a parenthesis or a literal behind them is an
#: expression: some of `SELECT word FROM pg_get_keywords() WHERE catcode = 'R'`.
RESERVED = _words("""
    all and any array as case distinct else end except false for from group having in intersect into lateral limit
    not null offset on only or order returning select some then true union using when where with
""")

#: Other words of which that holds where they stand.
ELSEWHERE = _words("by join")

#: Words that end a list of tables.
BEHIND_TABLES = _words("where group having window union limit offset order for into loop")

#: Words of PL/pgSQL in front of an expression, where a statement begins.
STATEMENTS = _words("elsif exit if continue perform return while assert")

#: What is set by RAISE ... USING with an equals sign.
RAISE_OPTIONS = _words("message detail hint errcode column constraint datatype table schema")

#: Words in front of a literal that are no type.
BEFORE_LITERALS = _words("debug log info notice warning exception sqlstate")

#: Words that stand for operators, which are looked up by the path.
LOOKED_UP = _words("nullif between like ilike similar overlaps natural")


def tokens(sql: str) -> Iterator[Token]:
    """Yield the tokens of a text, without white space and comments.

    :raises ValueError: where there is none.
    """
    position = 0
    while position < len(sql):
        found = _TOKEN.match(sql, position)
        if found is None:
            raise ValueError(f"no token: {sql[position : position + 40]!r}")
        text, start, position = found[0], position, found.end()
        kind = found.lastgroup or ""
        if kind == "comment":
            position = _end_of_comment(sql, position)
        elif kind != "space":
            yield Token(kind, text.lower() if kind == "word" else text, start)


def _end_of_comment(sql: str, position: int) -> int:
    """Return where a comment ends that may have others in it."""
    depth = 1
    for found in re.finditer(r"/\*|\*/", sql[position:]):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return position + found.end()
    return len(sql)


def faults(
    body: str, *, own: Collection[str] = (), functions: Collection[str] = (), tables: Collection[str] = ()
) -> list[str]:
    """Return what the path could lead elsewhere in the body of a function, a line for each place.

    :param own: SQL that the user wrote, which is not looked at.
    :param functions: names that may be called without a schema, since the user wrote them.
    :param tables: tables that may be read as they are spelled here, in lower case: the root of a hierarchy.
    """
    for sql in own:
        body = body.replace(sql, "NULL")
    return [f"{what}: {_around(body, start)}" for what, start in _Checker(body, functions, tables).faults()]


def _around(body: str, start: int) -> str:
    return " ".join(body[max(0, start - 30) : start + 40].split())


def _joined(found: list[Token]) -> list[Token]:
    """Make one token of each OPERATOR(pg_catalog.x)."""
    texts, number, joined = [token.text for token in found], 0, []
    while number < len(found):
        if texts[number : number + 4] == ["operator", "(", "pg_catalog", "."] and texts[number + 5 : number + 6] == [
            ")"
        ]:
            joined.append(Token("qualified", f"operator({texts[number + 4]})", found[number].start))
            number += 6
        else:
            joined.append(found[number])
            number += 1
    return joined


class _Checker:
    """Goes through the tokens, and looks at those around each."""

    def __init__(self, body: str, functions: Collection[str], tables: Collection[str]) -> None:
        self._functions = frozenset(functions)
        self._tables = {"watch_new", "watch_old", *tables}
        self._tokens = _joined(list(tokens(body)))
        #: The words that opened the parentheses around the present token.
        self._opened: list[str] = []
        #: For the text outside of them, and in each: whether it lists tables at present.
        self._lists_tables = [False]
        self._declares = self._raises = False

    def _at(self, number: int) -> Token:
        return self._tokens[number] if 0 <= number < len(self._tokens) else END

    def faults(self) -> Iterator[tuple[str, int]]:
        for number, token in enumerate(self._tokens):
            before, after = self._at(number - 1), self._at(number + 1)
            what = self._fault(number, token, before, after)
            if what:
                yield what, token.start
            self._note(token, before)

    def _note(self, token: Token, before: Token) -> None:
        """Keep the place in the text."""
        if token.text == "(":
            self._opened.append(before.text if before.kind == "word" else "")
            self._lists_tables.append(False)
        elif token.text == ")" and self._opened:
            self._opened.pop()
            self._lists_tables.pop()
        elif token.kind == "word" and before.text != ".":
            self._declares = token.text == "declare" or (self._declares and token.text != "begin")
            self._raises = token.text == "raise" or self._raises
            if token.text in ("from", *BEHIND_TABLES):
                self._lists_tables[-1] = token.text == "from"
        elif token.text == ";":
            self._raises = self._lists_tables[-1] = False

    def _fault(self, number: int, token: Token, before: Token, after: Token) -> str | None:
        if token.kind == "operator":
            return self._operator(token, before, after)
        if token.text == "," and self._lists_tables[-1]:
            return self._table(number + 1)
        if token.kind == "mark":
            return self._type(number + 1) if token.text == "::" else None
        if token.kind not in ("word", "quoted"):
            return None
        is_qualified = before.text == "."
        if token.kind == "word" and not is_qualified:
            what = self._word(number, token, before, after)
            if what:
                return what
        if self._declares and before.text in ("declare", ";") and after.text != ":=" and token.text != "begin":
            return self._type(number + 1)
        if after.text == "(" and self._is_call(number, token, before):
            return f"function {token.text}"
        if after.kind == "string" and not is_qualified and self._is_type_of_literal(token):
            return f"type {token.text}"
        return None

    def _operator(self, token: Token, before: Token, after: Token) -> str | None:
        if token.text == "*" and (before.text in (".", "select") or (before.text, after.text) == ("(", ")")):
            return None
        if token.text == "=" and self._raises and before.text in RAISE_OPTIONS:
            return None
        is_operand = before.kind in ("string", "number", "quoted") or before.text in (")", "]")
        is_operand |= before.kind == "word" and before.text not in (RESERVED - {"end", "false", "null", "true"})
        if token.text == "-" and after.kind == "number" and not is_operand:
            return None  # the grammar makes one number of them
        return f"operator {token.text}"

    def _word(self, number: int, token: Token, before: Token, after: Token) -> str | None:
        """Words that stand for operators, and those that names follow."""
        text = token.text
        if text in LOOKED_UP:
            return text.upper()
        if text == "in" and self._at(number - 2).text != "for":
            return "IN"
        if text == "distinct" and after.text == "from":
            return "IS DISTINCT FROM"
        if text == "case" and after.text != "when" and before.text != "end":
            return "CASE with an operand"
        if text == "using" and after.text == "(":
            return "JOIN ... USING"
        if text == "execute" and before.text in (";", "begin", "then", "else", "loop"):
            return "EXECUTE, whose text is not looked at"
        if text == "collate" and self._name_at(number + 1)[:11] != "pg_catalog.":
            return f"collation {self._name_at(number + 1)}"
        if text in ("from", "join") and before.text != "distinct":
            return self._table(number + 1)
        if text == "as" and self._opened and self._opened[-1] == "cast":
            return self._type(number + 1)
        return None

    def _is_call(self, number: int, token: Token, before: Token) -> bool:
        """Return True if this is a function's name that the path is searched for."""
        if before.text == ".":
            return self._at(number - 2).text != "pg_catalog" or self._at(number - 3).text == "."
        if token.kind == "quoted":
            return True
        if token.text in RESERVED | ELSEWHERE | CONSTRUCTS | self._functions:
            return False
        if token.text in KEYWORD_TYPES:  # with a length; where a type has to be is looked at elsewhere
            return before.text not in ("::", "as") and not self._declares
        if token.text in ("over", "filter"):
            return before.text != ")"
        if token.text in STATEMENTS:
            return before.text not in (";", "begin", "then", "else", "loop", "")
        return True

    @staticmethod
    def _is_type_of_literal(token: Token) -> bool:
        return token.kind == "quoted" or token.text not in RESERVED | KEYWORD_TYPES | STATEMENTS | BEFORE_LITERALS

    def _name_at(self, number: int) -> str:
        """Return the name that begins there, with its schema."""
        name = self._at(number).text
        while self._at(number + 1).text == ".":
            number += 2
            name += f".{self._at(number).text}"
        return name

    def _type(self, number: int) -> str | None:
        token, name = self._at(number), self._name_at(number)
        if token.kind == "word" and token.text in KEYWORD_TYPES and name == token.text:
            return None
        return None if re.fullmatch(r"pg_catalog\.[^.]+", name) else f"type {name}"

    def _table(self, number: int) -> str | None:
        while self._at(number).text in ("lateral", "only"):
            number += 1
        name = self._name_at(number)
        if self._at(number).kind not in ("word", "quoted") or name.lower() in self._tables:
            return None
        return None if re.fullmatch(r"pg_catalog\.[^.]+", name) else f"table {name}"
