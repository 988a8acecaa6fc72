"""Words hashed to ids: identifiers fall apart into the words they are made of, wherever they stand.

So `list` in a comment, in `listAddNode` of the source and in `call <listAddNode>` of the binary is one token.
Nothing is trained; two words share an id by chance, rarely so with ids enough.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache

from runner.identifiers import split_identifier
from runner.tokenizers.tokenizer import Kind

_SOURCE = re.compile(r"[A-Za-z_]\w*|0[xX][0-9a-fA-F]+|\d+|->|\+\+|--|<<|>>|&&|\|\||[-=!<>+*/%&|^]=|[^\w\s]")
_PROSE = re.compile(r"[A-Za-z_]\w*|\d+")
_ASM = re.compile(r"<([^>]*)>|\b(L)\d+\b|(-?0x[0-9a-f]+|\b\d+\b)|([A-Za-z_][\w.]*|[\[\]+*-])")
_IR = re.compile(r"[@%]\"?([A-Za-z_.$][\w.$]*)|([%@]\d+)|(-?\d[\w.]*)|([A-Za-z_]\w*|[^\w\s])")


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


@lru_cache(maxsize=2**17)
def _hash(word: str, vocabulary: int) -> int:
    return zlib.crc32(word.encode()) % (vocabulary - 1) + 1


def split_text(text: str, kind: Kind) -> Iterator[str]:
    """The words of a text, in order."""
    return _SPLITTERS[kind](text)


def split_source(text: str) -> Iterator[str]:
    """Words of identifiers, numbers, operators."""
    for token in _SOURCE.findall(text):
        yield from _words(token) if token[0].isalpha() or token[0] == "_" else (token.lower(),)


def split_prose(text: str) -> Iterator[str]:
    """Words, those of identifiers one by one, and numbers; no punctuation."""
    for token in _PROSE.findall(text):
        yield from _words(token)


def split_asm(text: str) -> Iterator[str]:
    """Opcodes, registers and sizes (marked %, so that the opcode `and` is not the word), words of names in
    angle brackets, immediates, and L for every local jump target, whose number says nothing."""
    for name, label, number, other in _ASM.findall(text):
        if other or label:
            yield f"%{other or label}"
        elif number:
            yield number
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


def _words(name: str) -> list[str]:
    return split_identifier(name) or [name]


_SPLITTERS: dict[Kind, Callable[[str], Iterator[str]]] = {
    "source": split_source,
    "asm": split_asm,
    "ir": split_ir,
    "comment": split_prose,
}
