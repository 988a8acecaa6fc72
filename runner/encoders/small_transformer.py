"""A transformer encoder of texts, trained from scratch: 3 million parameters by default, half of them embeddings.

Pre-norm blocks (Xiong et al. 2020); learnt positions, as in BERT (Devlin et al. 2019).

Shapes: B texts, L tokens, E width, N heads, H width of a head.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from runner.explain import OptionError
from runner.schema import Options

KIND = "records"

Pooling = Literal["mean", "cls"]


class Config(Options):
    width: int = Field(default=192, ge=1)
    """Width of embeddings, blocks and features; a multiple of `heads`."""

    layers: int = Field(default=3, ge=1)
    """Blocks of attention and feed-forward network."""

    heads: int = Field(default=3, ge=1)
    """Heads of attention."""

    feed_forward: int = Field(default=768, ge=1)
    """Width of the hidden layer of the feed-forward networks."""

    max_length: int = Field(default=512, ge=1)
    """Tokens of a text at most: there is a learnt position for each."""

    pooling: Pooling = "mean"
    """mean: over the tokens that are no padding. cls: the output of a learnt vector put in front of them."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of what each block adds, and of the embeddings, that training leaves out."""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.width % self.heads:
            raise OptionError("width", f"{self.width} is not allowed; must be a multiple of heads, {self.heads}")
        return self


class Block(nn.Module):
    """Attention, then a feed-forward network, each added to what comes in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        E = config.width
        self.heads = config.heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(E), nn.LayerNorm(E)
        self.query_key_value, self.merge = nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.feed_forward = nn.Sequential(
            nn.Linear(E, config.feed_forward), nn.GELU(), nn.Linear(config.feed_forward, E)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLE: Tensor, real_BL: Tensor) -> Tensor:
        """(B, L, E); attention sees what is `real_BL`."""
        x_BLE = x_BLE + self.dropout(self._attend(self.attention_norm(x_BLE), real_BL))
        out_BLE: Tensor = x_BLE + self.dropout(self.feed_forward(self.feed_forward_norm(x_BLE)))
        return out_BLE

    def _attend(self, x_BLE: Tensor, real_BL: Tensor) -> Tensor:
        q_BNLH, k_BNLH, v_BNLH = self.query_key_value(x_BLE).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen_BNLH = F.scaled_dot_product_attention(q_BNLH, k_BNLH, v_BNLH, attn_mask=real_BL[:, None, None])
        merged_BLE: Tensor = self.merge(seen_BNLH.transpose(1, 2).flatten(2))
        return merged_BLE


class SmallTransformer(nn.Module):
    """Embeddings of tokens and positions, blocks, layer norm, pooling."""

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.tokens = nn.Embedding(vocabulary, config.width, padding_idx=0)
        self.positions = nn.Embedding(config.max_length, config.width)
        self.cls = nn.Parameter(torch.zeros(config.width)) if config.pooling == "cls" else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self._initialise()

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, width) features of int64 token ids, 0 for padding; what exceeds `max_length` is cut."""
        tokens_BL = drop_empty_columns(tokens_BL[:, : self.config.max_length])
        real_BL = tokens_BL != 0
        # A text of padding only attends to its first place: a softmax over nothing is nan.
        real_BL[:, 0] = True
        x_BLE = self.tokens(tokens_BL) + self.positions.weight[: tokens_BL.shape[1]]
        if self.cls is not None:
            x_BLE = torch.cat([self.cls.expand(len(x_BLE), 1, -1), x_BLE], dim=1)
            real_BL = F.pad(real_BL, (1, 0), value=True)
        x_BLE = self.dropout(x_BLE)
        for block in self.blocks:
            x_BLE = block(x_BLE, real_BL)
        x_BLE = self.norm(x_BLE)
        return x_BLE[:, 0] if self.cls is not None else masked_mean(x_BLE, real_BL)

    def _initialise(self) -> None:
        """Normal with deviation 0.02, as in BERT; linear layers without bias at the start."""
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)
        with torch.no_grad():
            self.tokens.weight[0] = 0
        if self.cls is not None:
            nn.init.normal_(self.cls, std=0.02)


def drop_empty_columns(tokens_BL: Tensor) -> Tensor:
    """Without the columns at the end that are padding in every text; one stays."""
    used_L = (tokens_BL != 0).any(dim=0).nonzero()
    return tokens_BL[:, : int(used_L[-1]) + 1 if len(used_L) else 1]


def masked_mean(x_BLE: Tensor, real_BL: Tensor) -> Tensor:
    """(B, E) mean over the places that are real."""
    weight_BL1 = real_BL[:, :, None].to(x_BLE.dtype)
    return (x_BLE * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1)


def build(config: Config, vocabulary: int) -> SmallTransformer:
    """A small transformer with random weights."""
    return SmallTransformer(config, vocabulary)
