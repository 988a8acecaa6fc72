"""Amino acids as token ids: 0 is padding, then the twenty of the genetic code, then what else databases hold.

Shapes: N sequences, L residues.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Alphabet = Literal["standard", "extended"]

TWENTY = "ACDEFGHIKLMNPQRSTVWY"
LETTERS = TWENTY + "X" + "BOUZ"
"""The letter of token i is LETTERS[i - 1]: X is any amino acid; B, Z are ambiguous, O, U rare."""

PADDING = 0
UNKNOWN = 1 + LETTERS.index("X")
VOCABULARY: dict[Alphabet, int] = {"standard": 1 + UNKNOWN, "extended": 1 + len(LETTERS)}
"""Token ids of each alphabet; the standard one reads B, O, U and Z as X."""


def tokenise(sequences: Sequence[str], alphabet: Alphabet = "standard") -> Tensor:
    """(N, L) uint8 tokens, padded to the longest; what is no amino acid's letter becomes X."""
    table = np.full(256, UNKNOWN, np.uint8)
    for token, letter in enumerate(LETTERS[: VOCABULARY[alphabet] - 1], start=1):
        table[ord(letter)] = table[ord(letter.lower())] = token
    tokens_NL = np.zeros((len(sequences), max(map(len, sequences), default=0)), np.uint8)
    for tokens_L, sequence in zip(tokens_NL, sequences, strict=True):
        tokens_L[: len(sequence)] = table[np.frombuffer(sequence.encode("latin1", "replace"), np.uint8)]
    return torch.from_numpy(tokens_NL)


def lengths(tokens_NL: Tensor) -> Tensor:
    """(N,) int64 residues of each sequence."""
    return (tokens_NL != PADDING).sum(-1)


def spell(tokens_L: Tensor) -> str:
    """The letters of one sequence of tokens, without the padding."""
    return "".join(LETTERS[token - 1] for token in tokens_L.tolist() if token != PADDING)
