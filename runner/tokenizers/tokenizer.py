"""What every tokenizer does.

Shapes: N texts, L tokens.
"""

from collections.abc import Iterable
from typing import Literal, Protocol

import torch
from torch import Tensor

Kind = Literal["source", "asm", "ir", "comment"]
"""What a text is: C, disassembly, LLVM IR, or prose."""

PADDING = 0


class Tokenizer(Protocol):
    """Text to ids between 1 and `vocabulary` - 1."""

    @property
    def vocabulary(self) -> int:
        """Number of ids, padding among them."""

    def encode(self, text: str, kind: Kind, length: int) -> list[int]:
        """The ids of a text, `length` of them at most, and at least one."""

    def describe(self) -> str:
        """What its ids mean, as JSON: tokenizers that say the same give the same ids."""


def encode_all(tokenizer: Tokenizer, texts: Iterable[tuple[Kind, str]], length: int) -> Tensor:
    """(N, L) int64 ids of each text, then padding; L is the longest text's, `length` at most and 1 at least."""
    rows = [torch.tensor(tokenizer.encode(text, kind, length), dtype=torch.int64) for kind, text in texts]
    if not rows:
        return torch.zeros(0, 1, dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)
