"""Convolutions over the two ends of a protein, where most sorting signals are: an encoder for CPUs.

Shapes: B sequences, L residues, C channels.
"""

from typing import cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from runner.encoders._tokens import check_tokens
from runner.schema import Options

KIND = "records"


class Config(Options):
    embedding: int = Field(default=32, ge=1)
    """Numbers that a residue starts with."""

    channels: int = Field(default=64, ge=1)
    """Channels of each stack; the features are twice as wide."""

    kernel: int = Field(default=9, ge=1)
    """Residues that a convolution sees at once, an odd number."""

    layers: int = Field(default=2, ge=1)
    """Convolutions of each stack."""

    first: int = Field(default=200, ge=1)
    """Residues of the beginning that the first stack is pooled over."""

    last: int = Field(default=60, ge=1)
    """Residues of the end that the second stack is pooled over."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the embedded residues' numbers that a training step leaves out."""

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"{kernel} is even; only an odd kernel has a residue in its middle")
        return kernel


class Stack(nn.Module):
    """Convolution, layer norm over the channels of each residue, ReLU, as often as there are layers.

    Norms by residue and zeros for padding keep a sequence's features from depending on the rest of the batch.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        C = config.channels
        inputs = [config.embedding, *[C] * (config.layers - 1)]
        self.convolutions = nn.ModuleList(nn.Conv1d(n, C, config.kernel, padding=config.kernel // 2) for n in inputs)
        self.norms = nn.ModuleList(nn.LayerNorm(C) for _ in inputs)

    def forward(self, embedded_BLE: Tensor, real_BL1: Tensor) -> Tensor:
        """(B, L, C), 0 on padding."""
        x_BLC = embedded_BLE * real_BL1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x_BLC = F.relu(norm(convolution(x_BLC.transpose(1, 2)).transpose(1, 2))) * real_BL1
        return x_BLC


class SequenceCNN(nn.Module):
    """One stack for the beginning of the sequence and one for its end, each pooled by the maximum."""

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.width = 2 * config.channels
        self.first, self.last = config.first, config.last
        # Convolutions at the edge of a window still see what is beyond it.
        self.margin = config.layers * (config.kernel // 2)
        self.embedding = nn.Embedding(vocabulary, config.embedding, padding_idx=0)
        self.dropout = nn.Dropout(config.dropout)
        self.head, self.tail = Stack(config), Stack(config)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, width): the maximum of `residues` over the first residues (first half) and the last (second half)."""
        head_BLC = self._run(self.head, tokens_BL[:, : self.first + self.margin])[:, : self.first]
        tail_BLC = self._run(self.tail, take_last(tokens_BL, self.last + self.margin))[:, -self.last :]
        # ReLU leaves nothing below 0, so the zeros of padding are never above a residue.
        return torch.cat([head_BLC.amax(1), tail_BLC.amax(1)], 1)

    def residues(self, tokens_BL: Tensor) -> Tensor:
        """(B, L, width) what both stacks find at every residue; 0 on padding."""
        return torch.cat([self._run(self.head, tokens_BL), self._run(self.tail, tokens_BL)], 2)

    def pool(self, residues_BLD: Tensor, tokens_BL: Tensor) -> Tensor:
        """(B, width) what `forward` gives, from what `residues` gave for the same tokens."""
        head_BLC, tail_BLC = residues_BLD.chunk(2, 2)
        length_B1 = (tokens_BL > 0).sum(1, keepdim=True)
        place_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
        last_BL1 = (place_L >= length_B1 - self.last)[..., None]
        return torch.cat([head_BLC[:, : self.first].amax(1), (tail_BLC * last_BL1).amax(1)], 1)

    def _run(self, stack: Stack, tokens_BL: Tensor) -> Tensor:
        embedded_BLE = self.dropout(self.embedding(tokens_BL.long()))
        return cast(Tensor, stack(embedded_BLE, (tokens_BL > 0)[..., None]))


def take_last(tokens_BL: Tensor, count: int) -> Tensor:
    """(B, count) the last tokens of each sequence, with padding before those that are shorter."""
    length_B1 = (tokens_BL > 0).sum(1, keepdim=True)
    place_BK = length_B1 - count + torch.arange(count, device=tokens_BL.device)
    return tokens_BL.gather(1, place_BK.clamp(min=0)).where(place_BK >= 0, 0)


def build(config: Config, vocabulary: int) -> SequenceCNN:
    """A network with random weights for tokens below `vocabulary`, 0 being padding."""
    check_tokens("sequence_cnn", vocabulary)
    return SequenceCNN(config, vocabulary)
