"""Every byte of UTF-8 is a token: nothing to train, nothing unknown, long sequences."""

import json

from runner.tokenizers.tokenizer import Kind

END = 257
"""The id of an empty text."""


class ByteTokenizer:
    """Byte b is id b + 1."""

    vocabulary = END + 1

    def encode(self, text: str, kind: Kind, length: int) -> list[int]:
        """The ids of a text, `length` of them at most."""
        return [byte + 1 for byte in text.encode()[:length]] or [END]

    def describe(self) -> str:
        """What its ids mean, as JSON."""
        return json.dumps({"name": "bytes"})
