"""A weighted sum of token embeddings, then a small network: order is lost, and a CPU is enough.

A token found n times weighs 1 + log n, as in sublinear tf-idf: what a text repeats does not drown the rest.

Shapes: B texts, L tokens, E width of the embeddings.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from runner.schema import Options

KIND = "records"


class Config(Options):
    embedding_width: int = Field(default=256, ge=1)
    """Width of a token's embedding."""

    hidden_width: int = Field(default=512, ge=1)
    """Width of the hidden layers."""

    layers: int = Field(default=1, ge=0)
    """Hidden layers; 0 maps the sum to the features in one step."""

    width: int = Field(default=256, ge=1)
    """Width of the features."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the sum and of each hidden layer that training leaves out."""

    token_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the tokens that training leaves out."""


class BagOfTokens(nn.Module):
    """Embeddings of a text's tokens, their weighted sum, layer norm, and an MLP."""

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.width = config.width
        self.leave_out = TokenDropout(config.token_dropout)
        self.embedding = nn.EmbeddingBag(vocabulary, config.embedding_width, mode="sum", padding_idx=0)
        with torch.no_grad():
            nn.init.normal_(self.embedding.weight, std=config.embedding_width**-0.5)[0] = 0
        # The norm takes out the length of the text.
        self.body = nn.Sequential(nn.LayerNorm(config.embedding_width))
        inputs = config.embedding_width
        for _ in range(config.layers):
            self.body.extend([nn.Dropout(config.dropout), nn.Linear(inputs, config.hidden_width), nn.GELU()])
            inputs = config.hidden_width
        self.body.extend([nn.Dropout(config.dropout), nn.Linear(inputs, config.width)])

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, width) features of int64 token ids, 0 for padding."""
        tokens_BL, weight_BL = weigh_sublinearly(self.leave_out(tokens_BL), self.embedding.weight.dtype)
        features: Tensor = self.body(self.embedding(tokens_BL, per_sample_weights=weight_BL))
        return features


class TokenDropout(nn.Dropout):
    """In training, tokens left out at random: they become padding, and the others weigh no more for it."""

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, L) token ids, 0 for padding."""
        if not self.training or not self.p:
            return tokens_BL
        return tokens_BL * (torch.rand(tokens_BL.shape, device=tokens_BL.device) >= self.p)


def weigh_sublinearly(tokens_BL: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tokens of each text, sorted, and weights that add up to 1 + log n over a token found n times."""
    tokens_BL, count_BL = count_tokens(tokens_BL)
    count_BL = count_BL.to(dtype)
    return tokens_BL, (1 + count_BL.log()) / count_BL


def count_tokens(tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of each text, sorted, and how often its text has each."""
    tokens_BL = tokens_BL.sort(dim=1).values
    new_BL = torch.ones_like(tokens_BL)
    new_BL[:, 1:] = tokens_BL[:, 1:] != tokens_BL[:, :-1]
    group_BL = new_BL.cumsum(dim=1) - 1
    count_BL = torch.zeros_like(tokens_BL).scatter_add_(1, group_BL, torch.ones_like(tokens_BL)).gather(1, group_BL)
    return tokens_BL, count_BL


def build(config: Config, vocabulary: int) -> BagOfTokens:
    """A bag of tokens with random weights."""
    return BagOfTokens(config, vocabulary)
