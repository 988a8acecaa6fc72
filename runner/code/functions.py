"""Function definitions in C source, found by their braces: nothing is preprocessed or parsed in full."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runner.code.lexer import Source

NOT_NAMES = frozenset(
    ("if", "while", "for", "switch", "do", "else", "return", "sizeof", "struct", "union", "enum", "typedef", "defined")
)

_STATEMENT_END, _BRACE = re.compile(r"[;{}]"), re.compile(r"[{}]")
_ATTRIBUTE = re.compile(r"__attribute__|__declspec|_Alignas|\balignas")
_MARKER = re.compile(r"\b[A-Z_][A-Z0-9_]*\s*$")
_WORD_AT_END = re.compile(r"([A-Za-z_]\w*)\s*$")
_OLD_STYLE = re.compile(
    r"(?P<before>.*?)\b(?P<name>[A-Za-z_]\w*)\s*\([\w\s,]*\)\s*[A-Za-z_]\w*[\s*(]+[\w\s*(),\[\]]+$", re.S
)


@dataclass(frozen=True)
class Function:
    """A definition: its first character, its opening brace, one past its closing brace."""

    name: str
    start: int
    body: int
    end: int


def find_functions(source: Source) -> Iterator[Function]:
    """The definitions of a file, in order; what is not clearly one is passed over.

    A brace that closes in the first column closes the function, so that branches of #if with unequal braces
    spoil one function and not the rest of the file.
    """
    code, head, at = source.code, 0, 0
    while match := _STATEMENT_END.search(code, at):
        at = match.end()
        if match[0] == "}":
            head = at
        elif match[0] == ";":
            head = head if _may_be_old_style(code[head : match.start()]) else at
        elif code[head : match.start()].split()[-1:] != ["extern"]:  # extern "C": its contents are at the top
            end = _end_of_block(code, match.start())
            if found := _read_head(code[head : match.start()]):
                name, offset = found
                yield Function(name, head + offset, match.start(), end)
            head = at = end
        else:
            head = at


def _end_of_block(code: str, at: int) -> int:
    """One past the brace that closes the one at `at`, or the end of the file."""
    depth = 0
    for match in _BRACE.finditer(code, at):
        depth += 1 if match[0] == "{" else -1
        if depth == 0 or (match[0] == "}" and code[match.start() - 1] == "\n"):
            return match.end()
    return len(code)


def _may_be_old_style(text: str) -> bool:
    """Whether this begins with a head and the first declaration of parameters as before C89: f(a, b) int a"""
    return "=" not in text and _match_old_style(text.partition(";")[0]) is not None


def _match_old_style(statement: str) -> re.Match[str] | None:
    # Blanked comments are long runs of spaces, on which the pattern would be slow.
    return _OLD_STYLE.match(" ".join(statement.split()))


def _read_head(head: str) -> tuple[str, int] | None:
    """Name and offset of the definition that a head belongs to, or None if it is none."""
    first, semicolon, last = head.rpartition(";")
    if semicolon and not last.strip():
        return _read_old_style(first)
    if name := _read_prototype(_without_attributes(last)):
        return name, len(first) + len(semicolon) + len(last) - len(last.lstrip())
    return None


def _read_old_style(head: str) -> tuple[str, int] | None:
    """The last of the statements that is a name with a list of names, followed by a declaration."""
    offset, found = 0, None
    for statement in head.split(";"):
        match = _match_old_style(statement)
        if match and match["before"].strip() and match["name"] not in NOT_NAMES:
            found = match["name"], offset + len(statement) - len(statement.lstrip())
        offset += len(statement) + 1
    return found


def _read_prototype(head: str) -> str | None:
    """The name before the parameters that the head ends with: f in `static int f(int a)`."""
    while not head.rstrip().endswith(")") and (marker := _MARKER.search(head)):
        head = head[: marker.start()]
    head = head.rstrip()
    opening = _opening(head)
    if "=" in head or opening is None:
        return None
    before = head[:opening].rstrip()
    if before.endswith(")"):
        # (f)(int a), which keeps a macro f from being used, or a function that returns a pointer to one
        inner_at = _opening(before)
        if inner_at is None:
            return None
        inner = before[inner_at + 1 : -1].lstrip(" *\n\t")
        before = before[:inner_at] + " " + inner.partition("(")[0]
    word = _WORD_AT_END.search(before)
    if word is None or word[1] in NOT_NAMES or not before[: word.start()].strip():
        return None
    return word[1]


def _opening(text: str) -> int | None:
    """Where the parenthesis opens that closes at the end of the text."""
    depth = 0
    for at in range(len(text) - 1, -1, -1):
        depth += (text[at] == ")") - (text[at] == "(")
        if depth == 0:
            return at if text[at] == "(" else None
    return None


def _without_attributes(text: str) -> str:
    """Attributes become spaces, so that positions stay."""
    while match := _ATTRIBUTE.search(text):
        depth, end = 0, match.end()
        for end in range(match.end(), len(text)):
            depth += (text[end] == "(") - (text[end] == ")")
            if depth == 0 and not text[end].isspace():
                break
        text = text[: match.start()] + " " * (end + 1 - match.start()) + text[end + 1 :]
    return text
