"""ESM-2 (Lin et al. 2023), a language model of proteins of 8 million to 15 billion parameters.

By way of `transformers`, in one of four modes: nothing is trained, the last layers are, all is, or low-rank
adapters of the attention's queries and keys are (LoRA, Hu et al. 2021, eq. 3).

Shapes: B sequences, L residues, D width.
"""

import math
import pickle
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from runner.encoders._tokens import check_amino_acids
from runner.errors import ConfigError, DataError
from runner.proteins.alphabet import LETTERS
from runner.schema import Options

KIND = "records"

ESM_TOKENS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
CLS, PAD, EOS = (ESM_TOKENS.index(token) for token in ("<cls>", "<pad>", "<eos>"))


class Config(Options):
    model: str = "esm2_t33_650M_UR50D"
    """A folder with the weights, or their name at huggingface.co: esm2_t6_8M_UR50D (320 features),
    esm2_t12_35M_UR50D (480), esm2_t30_150M_UR50D (640), esm2_t33_650M_UR50D (1280) and larger ones."""

    download: bool = False
    """Fetch weights that are not in the cache of huggingface_hub."""

    mode: Literal["freeze", "last_layers", "lora", "full"] = "last_layers"
    """What is trained: nothing, the last `last_layers` layers, low-rank adapters, or everything."""

    last_layers: int = Field(default=2, ge=1)
    """Layers that mode last_layers trains, and the norm after them."""

    lora_rank: int = Field(default=8, ge=1)
    """Rank of what mode lora adds to the weights of each query and key."""

    lora_alpha: float = Field(default=16.0, gt=0)
    """The addition is scaled by alpha / rank."""

    random: bool = False
    """Random weights of a size given by the next three, for tests."""

    layers: int | None = Field(default=None, ge=1)
    """Layers of a model with random weights."""

    width: int | None = Field(default=None, ge=1)
    """Width of its features."""

    heads: int | None = Field(default=None, ge=1)
    """Heads of its attention."""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        for name in ("layers", "width", "heads"):
            if (getattr(self, name) is not None) != self.random:
                raise ValueError(f"{name}: needs random: true, which needs layers, width and heads")
        if self.width and self.heads and self.width % (2 * self.heads):
            raise ValueError(f"width: {self.width} is not a multiple of twice the {self.heads} heads")
        return self


class LowRank(nn.Module):
    """x W^T + b + (alpha / rank) x A^T B^T with W and b frozen; B starts at zero, so nothing changes at first."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.base(x) + self.scale * F.linear(F.linear(x, self.down), self.up)
        return added


class ESM2(nn.Module):
    """ESM-2 on this package's tokens; a protein's features are the mean over its residues."""

    esm_ids: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.body = _load(config)
        self.width = int(self.body.config.hidden_size)  # type: ignore[union-attr, arg-type]
        # Predicts contacts, which nothing here asks for; parameters without a gradient stop distributed training.
        self.body.contact_head = nn.Identity()
        choose_trained(self.body, config)
        ids = torch.tensor([PAD, *(ESM_TOKENS.index(letter) for letter in LETTERS)])
        self.register_buffer("esm_ids", ids, persistent=False)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, width) features."""
        return self.pool(self.residues(tokens_BL), tokens_BL)

    def residues(self, tokens_BL: Tensor) -> Tensor:
        """(B, L, width) last hidden states; 0 on padding."""
        real_BL = tokens_BL > 0
        # Attention over columns of padding alone would be wasted.
        longest = int(real_BL.sum(1).max())
        ids = self.to_esm(tokens_BL[:, :longest])
        hidden = self.body(ids, attention_mask=(ids != PAD).long()).last_hidden_state
        inner_BLD = hidden[:, 1:-1] * real_BL[:, :longest, None]
        return F.pad(inner_BLD, (0, 0, 0, tokens_BL.shape[1] - longest))

    def pool(self, residues_BLD: Tensor, tokens_BL: Tensor) -> Tensor:
        """(B, width) what `forward` gives, from what `residues` gave for the same tokens."""
        length_B1 = (tokens_BL > 0).sum(1, keepdim=True)
        return residues_BLD.sum(1, dtype=torch.float32) / length_B1.clamp(min=1)

    def to_esm(self, tokens_BL: Tensor) -> Tensor:
        """(B, L + 2) ESM-2's ids: <cls>, the residues, <eos>, padding."""
        ids = F.pad(self.esm_ids[tokens_BL.long()], (1, 1), value=PAD)
        ids[:, 0] = CLS
        return ids.scatter(1, (tokens_BL > 0).sum(1, keepdim=True) + 1, EOS)


def choose_trained(body: nn.Module, config: Config) -> None:
    """Say by `requires_grad` what the mode trains, and put in the adapters of mode lora."""
    body.requires_grad_(config.mode == "full")
    layers = cast(nn.ModuleList, body.get_submodule("encoder.layer"))
    if config.mode == "last_layers":
        if config.last_layers > len(layers):
            raise ConfigError(f"encoder.last_layers: {config.last_layers} is more than the {len(layers)} of the model")
        layers[-config.last_layers :].requires_grad_(True)
        body.get_submodule("encoder.emb_layer_norm_after").requires_grad_(True)
    elif config.mode == "lora":
        for layer in layers:
            attention = layer.get_submodule("attention.self")
            for name in ("query", "key"):
                base = cast(nn.Linear, attention.get_submodule(name))
                attention.add_module(name, LowRank(base, config.lora_rank, config.lora_alpha))


def _load(config: Config) -> nn.Module:
    from transformers import EsmConfig, EsmModel  # heavy, and only needed by who names this encoder

    if config.random:
        assert config.width is not None
        sizes = {
            "hidden_size": config.width,
            "intermediate_size": 4 * config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
        }
        tokens = {"vocab_size": len(ESM_TOKENS), "pad_token_id": PAD, "mask_token_id": ESM_TOKENS.index("<mask>")}
        as_published = {"position_embedding_type": "rotary", "token_dropout": True, "emb_layer_norm_before": False}
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return cast(
            nn.Module, EsmModel(EsmConfig(**sizes, **tokens, **as_published, **no_dropout), add_pooling_layer=False)
        )
    folder = Path(config.model).expanduser()
    name = str(folder) if folder.is_dir() else config.model if "/" in config.model else f"facebook/{config.model}"
    try:
        model = EsmModel.from_pretrained(
            name, add_pooling_layer=False, local_files_only=not config.download, trust_remote_code=False
        )
    except pickle.UnpicklingError:
        raise DataError(f"encoder.model: {name} has a pickle that asks for more than tensors") from None
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"encoder.model: no weights of {name}: {reason} Give a folder that holds them, or set "
            "encoder.download=true where huggingface.co can be reached"
        ) from None
    return cast(nn.Module, model.float())


def build(config: Config, vocabulary: int) -> ESM2:
    """The model with its published or random weights; it reads every alphabet of `runner.proteins.alphabet`.

    Raises DataError, one line, if the weights are not there.
    """
    check_amino_acids("esm2", vocabulary)
    return ESM2(config)
