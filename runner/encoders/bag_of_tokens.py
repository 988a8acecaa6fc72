"""The mean of token embeddings, then a small network: order is lost, and a CPU is enough.

Shapes: B texts, L tokens, E width of the embeddings.
"""

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
    """Hidden layers; 0 maps the mean to the features in one step."""

    width: int = Field(default=256, ge=1)
    """Width of the features."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the mean and of each hidden layer that training leaves out."""


class BagOfTokens(nn.Module):
    """Embeddings of a text's tokens, their mean, layer norm, and an MLP."""

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.width = config.width
        # The mean leaves padding out and is 0 for a text of nothing else.
        self.embedding = nn.EmbeddingBag(vocabulary, config.embedding_width, mode="mean", padding_idx=0)
        self.body = nn.Sequential(nn.LayerNorm(config.embedding_width))
        inputs = config.embedding_width
        for _ in range(config.layers):
            self.body.extend([nn.Dropout(config.dropout), nn.Linear(inputs, config.hidden_width), nn.GELU()])
            inputs = config.hidden_width
        self.body.extend([nn.Dropout(config.dropout), nn.Linear(inputs, config.width)])

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, width) features of int64 token ids, 0 for padding."""
        features: Tensor = self.body(self.embedding(tokens_BL))
        return features


def build(config: Config, vocabulary: int) -> BagOfTokens:
    """A bag of tokens with random weights."""
    return BagOfTokens(config, vocabulary)
