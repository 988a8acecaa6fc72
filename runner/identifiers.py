"""Names in programs, taken apart into the words they are made of."""

import re

_NAME_BREAK = re.compile(r"_+|(?<=[a-z0-9])(?=[A-Z])")
_PIECES = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def split_name(name: str) -> list[str]:
    """The sub-tokens of a function's name: split at underscores and before a capital; digits stay.

    `parseHTTPHeader_v2` gives parse, httpheader, v2. What name recovery predicts.
    """
    return [piece.lower() for piece in _NAME_BREAK.split(name) if piece]


def split_identifier(name: str) -> list[str]:
    """The words of an identifier: split at every change of case, underscore and digit.

    `parseHTTPHeader_v2` gives parse, http, header, v, 2. What tokenizers see.
    """
    return [piece.lower() for piece in _PIECES.findall(name)]
