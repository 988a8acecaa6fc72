"""Any text encoder of `transformers`, by name or folder, with its weights or only its architecture.

Token ids are those of the `pretrained` tokenizer: the model's own plus one, 0 for padding.

Shapes: B texts, L tokens, E width.
"""

import pickle
from typing import Any, Literal

import torch
from torch import Tensor, nn

from runner.encoders.small_transformer import drop_empty_columns, masked_mean
from runner.errors import ConfigError
from runner.schema import Options
from runner.tokenizers.pretrained import not_found

KIND = "records"


class Config(Options):
    source: str
    """Name of the model, such as microsoft/graphcodebert-base, or its folder."""

    pooling: Literal["cls", "mean"] = "cls"
    """cls: the output of the first token. mean: over the tokens that are no padding."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """random: the same architecture, trained from scratch."""

    freeze: bool = False
    """Train nothing of it, and keep it in evaluation mode."""

    download: bool = False
    """Fetch it when it is not on this machine."""


class HuggingFaceEncoder(nn.Module):
    """A pretrained encoder and its pooling."""

    def __init__(self, body: nn.Module, pooling: Literal["cls", "mean"], freeze: bool) -> None:
        super().__init__()
        self.body, self.pooling, self.freeze = body, pooling, freeze
        config: Any = body.config
        self.width: int = config.hidden_size
        self.padding: int = config.pad_token_id or 0
        self.requires_grad_(not freeze)
        self.train()

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, width) features of int64 token ids, 0 for padding."""
        tokens_BL = drop_empty_columns(tokens_BL)
        real_BL = tokens_BL != 0
        ids_BL = torch.where(real_BL, tokens_BL - 1, self.padding)
        # A text of padding only attends to its first place: a softmax over nothing is nan.
        real_BL[:, 0] = True
        out_BLE: Tensor = self.body(input_ids=ids_BL, attention_mask=real_BL.long()).last_hidden_state
        return out_BLE[:, 0] if self.pooling == "cls" else masked_mean(out_BLE, real_BL)

    def train(self, mode: bool = True) -> "HuggingFaceEncoder":
        """Training mode, if anything is to be trained."""
        return super().train(mode and not self.freeze)


def build(config: Config, vocabulary: int) -> HuggingFaceEncoder:
    """Raises ConfigError when the model is not on this machine or has fewer ids than the tokenizer."""
    from transformers import AutoConfig, AutoModel  # heavy, and only needed here

    try:
        if config.weights == "random":
            body = AutoModel.from_config(
                AutoConfig.from_pretrained(config.source, local_files_only=not config.download, trust_remote_code=False)
            )
        else:
            body = AutoModel.from_pretrained(
                config.source, local_files_only=not config.download, trust_remote_code=False
            )
    except pickle.UnpicklingError:
        raise ConfigError(f"encoder.source: {config.source!r} has a pickle that asks for more than tensors") from None
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"encoder.source: {not_found('model', config.source, config.download, error)}") from None
    if vocabulary > (most := body.config.vocab_size + 1):
        raise ConfigError(
            f"encoder.source: {config.source!r} has {most - 1} token ids, the data have {vocabulary - 1}; "
            f"set data.tokenizer to {{name: pretrained, source: {config.source}}}"
        )
    if getattr(body, "pooler", None) is not None:
        # Its output is not used, and DDP waits for a gradient of every parameter.
        body.pooler = None
    return HuggingFaceEncoder(body, config.pooling, config.freeze)
