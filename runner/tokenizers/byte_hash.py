"""Hashes of four bytes each: ContraBin's tokenizer for tests, kept to compare runs with its own.

Texts that differ by one byte at the start share no token; the word tokenizer is the better one.
"""

import hashlib
import json

from runner.tokenizers.tokenizer import Kind

CHUNK_BYTES = 4


class ByteHashTokenizer:
    """The first two bytes of a chunk's md5, little end first, modulo the number of ids that are not padding."""

    def __init__(self, vocabulary: int = 1024) -> None:
        self.vocabulary = vocabulary

    def encode(self, text: str, kind: Kind, length: int) -> list[int]:
        """The ids of a text, `length` of them at most; an empty one has id 1."""
        data = text.encode()[: CHUNK_BYTES * length]
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        return [self._hash(chunk) for chunk in chunks] or [1]

    def describe(self) -> str:
        """What its ids mean, as JSON."""
        return json.dumps({"name": "byte_hash", "vocabulary": self.vocabulary})

    def _hash(self, chunk: bytes) -> int:
        digest = hashlib.md5(chunk, usedforsecurity=False).digest()
        return int.from_bytes(digest[:2], "little") % (self.vocabulary - 1) + 1
