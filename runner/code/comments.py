"""What a function says of itself: the comment directly above it, as prose."""

import re

from runner.code.lexer import Comment, Source

MAX_CHARACTERS = 600
MIN_WORDS = 4

_LEGAL = re.compile(r"copyright|\blicen[cs]e|spdx|all rights reserved|[@\\]file\b", re.IGNORECASE)
_RULER = re.compile(r"^[\W_]{5,}$")
_MARKS = re.compile(r"^\s*(?:/\*+[!<]?|//+[!<]?|\*+(?!/))?\s?")
_DROPPED_TAG = re.compile(
    r"^@\w+:|^(?:returns?|since):"  # gtk-doc
    r"|^[@\\](?:param|returns?|retval|since|see|sa|note|warning|throws|deprecated|ingroup|author|date|version|todo)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z]{2,}")


def find_comment(source: Source, start: int) -> str:
    """The comment that ends above position `start`, unclean; empty if there is none.

    It is a block or a run of line comments, on lines of their own, with at most one empty line in between.
    """
    above = [comment for comment in source.comments if comment.end <= start]
    if not above or not _touch(source, above[-1], start, newlines=2) or not _is_alone(source, above[-1]):
        return ""
    first = last = above.pop()
    while not first.is_block and above and not above[-1].is_block:
        if not _touch(source, above[-1], first.start, newlines=1) or not _is_alone(source, above[-1]):
            break
        first = above.pop()
    return source.text[first.start : last.end]


def _touch(source: Source, comment: Comment, start: int, newlines: int) -> bool:
    between = source.text[comment.end : start]
    return not between.strip() and between.count("\n") <= newlines


def _is_alone(source: Source, comment: Comment) -> bool:
    """Whether nothing stands in front of it on its line."""
    return not source.text[source.text.rfind("\n", 0, comment.start) + 1 : comment.start].strip()


def clean_comment(comment: str, name: str) -> str:
    """The prose of a comment, whole words of at most 600 characters; empty if it is none.

    Marks, rulers and what documentation tools say of parameters, results and versions are dropped, as is
    a line with nothing but the function's name; notices of copyright and headings of sections are no prose.
    """
    if _LEGAL.search(comment):
        return ""
    lines = [_MARKS.sub("", line).rstrip().removesuffix("*/").rstrip(" *") for line in comment.splitlines()]
    kept, dropping, ruled = [], False, False
    for line in map(str.strip, lines):
        ruled = ruled or bool(_RULER.match(line))
        if _RULER.match(line) or line.rstrip(":( )") == name:
            continue
        # What a tag says goes on to the next empty line or tag.
        dropping = bool(_DROPPED_TAG.match(line)) or (dropping and line != "" and line[0] not in "@\\")
        if not dropping:
            kept.append(re.sub(r"^[@\\]brief\s+", "", line))
    text = " ".join(" ".join(kept).split())
    words = len(_WORD.findall(text))
    if words < MIN_WORDS or (ruled and words <= 6 and "." not in text):
        return ""
    # The space behind the last word tells whether it is whole.
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS + 1].rpartition(" ")[0]
