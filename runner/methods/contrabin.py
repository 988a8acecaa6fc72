"""ContraBin: binary code against its source and comment, which an encoder that stays as it is reads.

Source: Zhang et al. 2022, "Pre-Training Representations of Binary Code Using Contrastive Learning"
(arXiv:2210.05102). The primary loss draws binary code to source and to comment; after the naive stage of the
curriculum, an intermediate loss draws it to learnt points between the two.

Shapes: B samples on this rank, L tokens, F feature width, D projection width.
"""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from runner.batch import Batch
from runner.canonical import find_canonical_maps
from runner.config import Selection
from runner.curriculum import Stage, stage_at_step
from runner.dataset import Split
from runner.errors import ConfigError
from runner.explain import OptionError
from runner.interpolation import LinearInterpolation, NonlinearInterpolation
from runner.losses.info_nce import info_nce
from runner.losses.soft_targets import Second, soft_target_cross_entropy
from runner.method import Method, Task, evaluating
from runner.projection import HeadType, build_head
from runner.schema import Options

KIND = "records"

Modality = Literal["source", "binary", "comment"]
MODALITIES: tuple[Modality, ...] = ("source", "binary", "comment")
START_ROWS = 256
"""Texts read at once where the heads begin from correlations."""

Share = Annotated[float, Field(ge=0)]


class Curriculum(Options):
    """How the stages share the steps, in any unit, such as epochs; 0 leaves a stage out."""

    naive: Share = 10
    """Without interpolation: the primary losses alone."""

    linear: Share = 5
    """One learnt weight for each sample."""

    nonlinear: Share = 5
    """One learnt weight for each number of each sample."""

    @model_validator(mode="after")
    def _some_stage(self) -> "Curriculum":
        if not self.naive + self.linear + self.nonlinear:
            raise ValueError("naive, linear and nonlinear are all 0; one of them must be more")
        return self

    def stage(self, step: int, steps: int) -> Stage:
        """The stage of an optimizer step out of `steps`."""
        return stage_at_step(step, steps, (self.naive, self.linear, self.nonlinear))


class Config(Options):
    curriculum: Curriculum = Curriculum()
    """When interpolation begins, and which."""

    freeze_anchor: bool = True
    """Leave the encoder of source and comment as it is, in evaluation mode. A pretrained encoder may stay so; one
    that starts from random weights must be trained."""

    binary_encoder: Selection | None = None
    """The encoder of binary code, with its options; None: a trainable copy of the other one."""

    projection_width: int = Field(256, ge=1)
    """Width of what is compared."""

    head: HeadType = "linear"
    """Kind of the three projection heads."""

    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the heads and the interpolation."""

    anchor: Modality = "source"
    """Whose share the interpolation's weight is: source (for binary, too, as in the original code) or comment."""

    primary_temperature: float = Field(0.1, gt=0)
    """Divides the similarities of the primary losses, and those that make their targets."""

    intermediate_temperature: float = Field(0.1, gt=0)
    """Divides the cosines of the intermediate loss."""

    normalize: bool = True
    """Compare projections of length 1 in the primary losses. Without it, as published, similarities are as large
    as the width, and at a temperature below it the soft targets are hard."""

    second_direction: Second = "symmetric"
    """Primary losses the other way, too, from source and comment to binary: none is the paper's single direction,
    transposed the original code's."""

    start: Literal["random", "canonical"] = "random"
    """canonical: heads begin from what correlates between the three texts of the training functions, as the encoders
    read them before training, rather than from random numbers."""

    shrinkage: float | None = Field(None, ge=0)
    """Of the canonical correlations: so many times the mean variance is added to each variance of the features; the
    fewer the functions, the more. None: 1."""

    detach_targets: bool = False
    """Send no gradient through the soft targets."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `embed` gives."""
        return ("features", *MODALITIES)

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.shrinkage is not None and self.start != "canonical":
            raise OptionError("shrinkage", f"{self.shrinkage} needs start: canonical")
        return self


def build(config: Config, encoder: nn.Module, task: Task) -> "ContraBin":
    """Raises ConfigError if nothing of the binary encoder could be trained."""
    if config.binary_encoder is None:
        binary_encoder = copy.deepcopy(encoder)
    else:
        binary_encoder = task.build_encoder(config.binary_encoder)
    if not any(parameter.requires_grad for parameter in binary_encoder.parameters()):
        key = "encoder" if config.binary_encoder is None else "method.binary_encoder"
        raise ConfigError(f"{key}: for binary code it has nothing to train; freeze by method.freeze_anchor")
    method = ContraBin(config, encoder, binary_encoder, task)
    if task.data is not None:
        _start(method, task.data)
    return method


def _start(method: "ContraBin", data: Split) -> None:
    """Fit the encoders that learn from texts alone, and the heads if they are to begin from correlations.

    The same on every rank, and after a requeue replaced by what was saved.
    """
    columns: dict[str, Tensor] = {name: _column(data.columns, name).cpu().long() for name in MODALITIES}
    if hasattr(method.encoder, "fit"):
        method.encoder.fit(columns["source"], columns["comment"])  # type: ignore[operator]
    if hasattr(method.binary_encoder, "fit"):
        method.binary_encoder.fit(columns["binary"])  # type: ignore[operator]
    if method.config.start == "canonical":
        method.start_from_correlations(columns)


def _column(columns: Mapping[str, Tensor], modality: Modality) -> Tensor:
    if modality not in columns:
        there = ", ".join(columns) or "none"
        raise ConfigError(f"data.name: contrabin reads columns {', '.join(MODALITIES)}; these data have {there}")
    return columns[modality]


class ContraBin(Method):
    """Two encoders, three heads, and two interpolations."""

    uses_all_parameters = False

    def __init__(self, config: Config, encoder: nn.Module, binary_encoder: nn.Module, task: Task) -> None:
        super().__init__()
        self.config, self.group, self.steps = config, task.group, task.steps
        self.encoder, self.binary_encoder = encoder, binary_encoder
        if config.freeze_anchor:
            self.encoder.requires_grad_(False)
        D = config.projection_width
        anchor_head, binary_head = (
            build_head(config.head, int(part.width), D, config.dropout)  # type: ignore[arg-type]
            for part in (encoder, binary_encoder)
        )
        if config.binary_encoder is None:
            # Alike at first, as the encoders are: what two texts share, such as constants, is near from the start.
            binary_head = copy.deepcopy(anchor_head)
        heads = {"source": anchor_head, "binary": binary_head, "comment": copy.deepcopy(anchor_head)}
        self.heads = nn.ModuleDict(heads)
        self.interpolations = nn.ModuleDict(
            {"linear": LinearInterpolation(D, config.dropout), "nonlinear": NonlinearInterpolation(D, config.dropout)}
        )
        self.train()

    def train(self, mode: bool = True) -> "ContraBin":
        """Training mode of all that is trained."""
        super().train(mode)
        if self.config.freeze_anchor:
            self.encoder.eval()
        return self

    def compute_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`source_binary` and `comment_binary`, and in the later stages `intermediate`."""
        config = self.config
        source_BD, binary_BD, comment_BD = (self.project(name, self.read(name, batch)) for name in MODALITIES)
        losses = {
            "source_binary": self.compare(source_BD, binary_BD),
            "comment_binary": self.compare(comment_BD, binary_BD),
        }
        stage = config.curriculum.stage(step, self.steps)
        if stage != "naive":
            ends = (comment_BD, source_BD) if config.anchor == "comment" else (source_BD, comment_BD)
            between_BD = self.interpolations[stage](*ends)
            losses["intermediate"] = info_nce(between_BD, binary_BD, config.intermediate_temperature, self.group)
        return losses

    def compare(self, anchor_BD: Tensor, binary_BD: Tensor) -> Tensor:
        """The primary loss of one pair of modalities."""
        config = self.config
        return soft_target_cross_entropy(
            anchor_BD,
            binary_BD,
            config.primary_temperature,
            self.group,
            second_direction=config.second_direction,
            normalize=config.normalize,
            detach_targets=config.detach_targets,
        )

    def read(self, modality: Modality, batch: Batch) -> Tensor:
        """(B, F) features of one column; raises ConfigError for data that lack it."""
        tokens_BL = _column(batch.columns, modality)
        frozen = modality != "binary" and self.config.freeze_anchor
        with torch.no_grad() if frozen else nullcontext():
            features_BF: Tensor = (self.binary_encoder if modality == "binary" else self.encoder)(tokens_BL)
        return features_BF

    @torch.no_grad()
    def start_from_correlations(self, columns: Mapping[str, Tensor]) -> None:
        """Let the heads begin from the canonical correlations of these rows' features."""
        shrinkage = 1.0 if self.config.shrinkage is None else self.config.shrinkage
        views = [self.read_all(name, columns[name]) for name in MODALITIES]
        maps = find_canonical_maps(views, self.config.projection_width, shrinkage)
        for name, found in zip(MODALITIES, maps, strict=True):
            self.heads[name].start_from(*found)  # type: ignore[operator]

    def read_all(self, modality: Modality, tokens_NL: Tensor) -> Tensor:
        """(N, F) features of many rows of one column, in evaluation mode."""
        with evaluating(self):
            batches = (Batch(columns={modality: part_BL}) for part_BL in torch.split(tokens_NL, START_ROWS))
            return torch.cat([self.read(modality, batch) for batch in batches])

    def project(self, modality: Modality, features_BF: Tensor) -> Tensor:
        """(B, D) projections, not normalised."""
        projections_BD: Tensor = self.heads[modality](features_BF)
        return projections_BD

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`features` of binary code before its head, and the projections `source`, `binary` and `comment`."""
        read = {name: self.read(name, batch) for name in MODALITIES}
        return {"features": read["binary"], **{name: self.project(name, read[name]) for name in MODALITIES}}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """`encoder`: both encoders, less what is frozen; `head`: heads and interpolations."""
        groups: dict[str, list[nn.Parameter]] = {"encoder": [], "head": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["head" if name.startswith(("heads.", "interpolations.")) else "encoder"].append(parameter)
        return groups
