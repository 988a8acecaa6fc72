"""C source with everything blanked that is no code, at unchanged positions; and where its comments are."""

import re
from dataclasses import dataclass

_OUTSIDE = re.compile(
    r"(?P<block>/\*.*?(?:\*/|\Z))|(?P<line>//(?:\\\r?\n|[^\n])*)"
    r"|(?P<text>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')|(?P<directive>^[ \t]*\#)",
    re.DOTALL | re.MULTILINE,
)
_IN_DIRECTIVE = re.compile(
    r"(?P<block>/\*.*?(?:\*/|\Z))|(?P<line>//(?:\\\r?\n|[^\n])*)"
    r"|(?P<text>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')|(?P<continued>\\\r?\n)|(?P<end>\n|\Z)",
    re.DOTALL,
)
_INK = re.compile(r"[^\n]")


@dataclass(frozen=True)
class Comment:
    """A comment from `start` up to `end`; a block is /* ... */, a line // to the end of its line."""

    start: int
    end: int
    is_block: bool


@dataclass(frozen=True)
class Source:
    """A C file as a lexer sees it."""

    text: str
    code: str
    """As long as the text; comments, strings, characters and preprocessor lines are spaces."""

    comments: tuple[Comment, ...]


def lex(text: str) -> Source:
    """Never fails: what does not end (a comment, a string) ends with the file or the line."""
    comments: list[Comment] = []
    pieces, at = [], 0
    for start, end in _spans(text, comments):
        pieces += [text[at:start], _INK.sub(" ", text[start:end])]
        at = end
    return Source(text, "".join([*pieces, text[at:]]), tuple(comments))


def _spans(text: str, comments: list[Comment]) -> list[tuple[int, int]]:
    """What is to be blanked, in order; comments are noted on the way."""
    spans, at = [], 0
    while match := _OUTSIDE.search(text, at):
        at = match.end()
        if match.lastgroup == "directive":
            at = _end_of_directive(text, at, comments)
        elif match.lastgroup != "text":
            comments.append(Comment(match.start(), at, match.lastgroup == "block"))
        spans.append((match.start(), at))
    return spans


def _end_of_directive(text: str, at: int, comments: list[Comment]) -> int:
    """A directive ends with its line, but neither at a continuation nor inside a comment that opens on it."""
    while match := _IN_DIRECTIVE.search(text, at):
        if match.lastgroup == "end":
            return match.start()
        at = match.end()
        if match.lastgroup in ("block", "line"):
            comments.append(Comment(match.start(), at, match.lastgroup == "block"))
    return len(text)


def without_comments(source: Source, start: int, end: int) -> str:
    """The text between two positions without comments, without lines that this leaves empty."""
    pieces, at = [], start
    for comment in source.comments:
        if start <= comment.start < end:
            pieces.append(source.text[at : comment.start])
            at = comment.end
    lines = " ".join([*pieces, source.text[at:end]]).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())
