"""Words hashed to ids: identifiers fall apart into the words they are made of, wherever they stand.

So `list` in a comment, in `listAddNode` of the source and in `call <listAddNode>` of the binary is one token, and
so is a constant, whether it is written 0x1F, 31 or '\\x1f'.
Nothing is trained; two words share an id by chance, rarely so with ids enough.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache

from runner.identifiers import split_identifier
from runner.tokenizers.tokenizer import Kind

_SOURCE = re.compile(
    r"([A-Za-z_]\w*)|(0[xX][0-9a-fA-F]+|\d+)[uUlL]*|'(\\?[^\n])'|(->|\+\+|--|<<|>>|&&|\|\||[-=!<>+*/%&|^]=|[^\w\s])"
)
_PROSE = re.compile(r"[A-Za-z_]\w*|\d+")
_ASM = re.compile(r"<([^>]*)>|\b(L)\d+\b|([+-]0x[0-9a-f]+)|(0x[0-9a-f]+|\b\d+\b)|([A-Za-z_][\w.]*|[\[\]+*-])")
_IR = re.compile(r"[@%]\"?([A-Za-z_.$][\w.$]*)|([%@]\d+)|(-?\d[\w.]*)|([A-Za-z_]\w*|[^\w\s])")

_OCTAL = re.compile(r"0[0-7]+")
_ESCAPES = {"\\n": 10, "\\t": 9, "\\r": 13, "\\0": 0, "\\a": 7, "\\b": 8, "\\f": 12, "\\v": 11}


class WordTokenizer:
    """`vocabulary` ids, the words of `split_text` by their CRC-32."""

    def __init__(self, vocabulary: int = 8192) -> None:
        self.vocabulary = vocabulary

    def encode(self, text: str, kind: Kind, length: int) -> list[int]:
        """The ids of a text, `length` of them at most; one without words has the id of the empty word."""
        ids = []
        for word in split_text(text, kind):
            ids.append(_hash(word, self.vocabulary))
            if len(ids) == length:
                break
        return ids or [_hash("", self.vocabulary)]

    def describe(self) -> str:
        """What its ids mean, as JSON."""
        return json.dumps({"name": "words", "vocabulary": self.vocabulary})


@lru_cache(maxsize=2**17)
def _hash(word: str, vocabulary: int) -> int:
    return zlib.crc32(word.encode()) % (vocabulary - 1) + 1


def split_text(text: str, kind: Kind) -> Iterator[str]:
    """The words of a text, in order."""
    return _SPLITTERS[kind](text)


def split_source(text: str) -> Iterator[str]:
    """Words of identifiers, constants by their values, operators."""
    for name, constant, character, operator in _SOURCE.findall(text):
        if name:
            yield from _words(name)
        elif constant:
            yield _value(constant)
        else:
            yield operator or str(_ESCAPES.get(character, ord(character[-1])))


def split_prose(text: str) -> Iterator[str]:
    """Words, those of identifiers one by one, and numbers; no punctuation."""
    for token in _PROSE.findall(text):
        yield from _words(token)


def split_asm(text: str) -> Iterator[str]:
    """Opcodes, registers and sizes (marked %, so that the opcode `and` is not the word), words of names in
    angle brackets, immediates by their values, displacements (marked, too), and L for every local jump target,
    whose number says nothing."""
    for name, label, displacement, constant, other in _ASM.findall(text):
        if other or label or displacement:
            yield f"%{other or label or displacement}"
        elif constant:
            yield _value(constant)
        else:
            yield from _words(name)


def split_ir(text: str) -> Iterator[str]:
    """Opcodes, types and punctuation (marked %), words of named values, constants, % for numbered values."""
    for name, local, number, other in _IR.findall(text):
        if other or local:
            yield f"%{other}"
        elif number:
            yield number
        else:
            yield from _words(name)


def _value(constant: str) -> str:
    """In decimal, and without the sign that C writes and two's complement hides: -1 and 0xffffffff are both 1."""
    base = 16 if constant[1:2] in ("x", "X") else 8 if _OCTAL.fullmatch(constant) else 10
    value = int(constant, base)
    return str(min(value, abs(2**32 - value), abs(2**64 - value)))


def _words(name: str) -> list[str]:
    return split_identifier(name) or [name]


_SPLITTERS: dict[Kind, Callable[[str], Iterator[str]]] = {
    "source": split_source,
    "asm": split_asm,
    "ir": split_ir,
    "comment": split_prose,
}
