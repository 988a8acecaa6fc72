"""SupCon-Hard on proteins: MUTarget's class and position heads with CLEAN's contrastive loss and hard negatives.

Sources: MUTarget (Jiang et al.: the heads and their losses), CLEAN (Yu et al. 2023: projection, mining, SupCon-Hard),
Khosla et al. 2020 (supervised contrastive learning).

Shapes: B rows (proteins or fragments) on this rank, N of the training set, L residues, C classes, D width of features.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from runner import class_weights
from runner.batch import Batch
from runner.config import TrainConfig
from runner.dataset import Records
from runner.decoders import DecoderType, build_decoder
from runner.errors import ConfigError
from runner.explain import OptionError
from runner.losses.reduction import mean_of_rows
from runner.method import Method, Task, evaluating
from runner.methods._mined_pairs import MinedPairs, SupConOptions, multi_hot
from runner.proteins.mutations import Kind, mutate
from runner.schema import Options

KIND = "records"
IN_BATCH_NEGATIVES = False


class ClassOptions(Options):
    head: Literal["mean", "max"] = "mean"
    """mean: a linear layer on the encoder's features; max: the largest motif logit of any residue."""

    weighting: Literal["none", "sample", "balanced"] = "sample"
    """sample: a row weighs like its rarest class, by 1 / size, as in MUTarget, on average 1; balanced: positives and
    negatives of every class weigh the same."""

    weight: float = Field(default=1.0, gt=0)
    """Of the class loss in the sum with the others."""


class PositionOptions(Options):
    decoder: DecoderType = "linear"
    """What scores the residues, one for each class: linear, cnn, or cnn-linear, which has a hidden layer."""

    positive_weight: float = Field(default=35.0, gt=0)
    """How many negatives a residue of a motif weighs."""

    kernel: int = Field(default=15, ge=1)
    """Residues that a convolution sees at once, an odd number."""

    hidden: int = Field(default=32, ge=1)
    """Channels of each class's hidden layer."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """In the hidden layer."""

    weight: float = Field(default=1.0, gt=0)
    """Of the position loss in the sum with the others."""

    @model_validator(mode="after")
    def _odd(self) -> "PositionOptions":
        if self.kernel % 2 == 0:
            raise OptionError("kernel", f"{self.kernel} is even; only an odd kernel has a residue in its middle")
        return self


class MutationOptions(Options):
    rate: float = Field(default=0.1, gt=0, le=1)
    """Share of the residues of a training row that change, on average; other ones each epoch."""

    spread: float = Field(default=0.02, ge=0)
    """Standard deviation of that share over the rows."""

    kind: Kind = "mask"
    """mask: unknown (X); substitute: any of the twenty amino acids."""


class Config(Options):
    supcon: SupConOptions = SupConOptions()
    """The contrastive loss, its positives and negatives."""

    classes: ClassOptions | None = ClassOptions()
    """The class head and its loss; null: none, as in CLEAN."""

    position: PositionOptions | None = None
    """Decoders that find the motif of each class, and their loss; they need data.motif."""

    mutation: MutationOptions | None = None
    """Changes of the rows that heads and anchors are trained on; null: none."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `embed` gives."""
        parts = {"projections": self.supcon.apply, "scores": self.classes, "motif_scores": self.position}
        return ("features", *(name for name, part in parts.items() if part))

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        heads = self.classes is not None or self.position is not None
        if not heads and not self.supcon.apply:
            raise OptionError("supcon.apply", "false leaves no loss; keep classes or position")
        if not heads and self.supcon.warm_start:
            raise OptionError("supcon.warm_start", f"{self.supcon.warm_start}: no other loss comes in afterwards")
        if self.classes is not None and self.classes.head == "max" and self.position is None:
            raise OptionError("classes.head", "max is taken over the logits of residues, which need position")
        return self


def check_warm_start(config: Config, epochs: int | None) -> None:
    """Raise OptionError for a warm start that takes the whole training; `epochs` is None where it is not known."""
    warm_start = config.supcon.warm_start
    if epochs is not None and warm_start >= epochs:
        problem = f"{warm_start} is not allowed; must be less than {epochs}, the epochs of the whole training"
        raise OptionError("method.supcon.warm_start", problem)


def check(config: Config, train: TrainConfig) -> None:
    """Raises OptionError for a warm start that takes the whole training."""
    check_warm_start(config, train.epochs)


def build(config: Config, encoder: nn.Module, task: Task) -> "SupConHard":
    """SupCon-Hard on `encoder`; one that standardises its inputs takes their statistics from the training data.

    Raises ConfigError where data or encoder lack what the options ask for, DataError for a broken distance map.
    """
    check_warm_start(config, math.ceil(task.steps / task.steps_per_epoch) if task.steps else None)
    if not task.classes:
        raise ConfigError("method.name: supcon_hard needs data with classes, and these have none")
    if task.data is not None:
        _check_data(config, task.data)
    if config.position is not None and not hasattr(encoder, "residues"):
        raise ConfigError("method.position: this encoder has no features of residues; sequence_cnn and esm2 have them")
    method = SupConHard(config, encoder, task)
    if task.data is not None and hasattr(encoder, "fit"):
        encoder.fit(task.data.columns["sequence"].cpu())  # type: ignore[operator]
    return method


def _check_data(config: Config, data: Any) -> None:
    if not isinstance(data, Records) or "sequence" not in data.columns or data.labels is None:
        raise ConfigError("method.name: supcon_hard needs sequences with labels, as protein_localisation gives them")
    if config.position is not None and "motif" not in data.columns:
        raise ConfigError("method.position: needs data with motifs; set data.motif to span or site")


class SupConHard(Method):
    """An encoder of sequences with up to three heads: projection, classes, positions."""

    may_break_off = False

    class_weights: Tensor
    """(2, C) of the negatives and the positives of each class."""

    row_weights: Tensor
    """(N,)"""

    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.encoder = config, task, encoder
        width, C = int(encoder.width), len(task.classes)  # type: ignore[arg-type]
        classes, position, supcon = config.classes, config.position, config.supcon
        self.pairs = MinedPairs(supcon, width, task) if supcon.apply else None
        self.classifier = nn.Linear(width, C) if classes is not None and classes.head == "mean" else None
        self.decoder: nn.Module | None = None
        if position is not None:
            sizes = {"kernel": position.kernel, "hidden": position.hidden}
            self.decoder = build_decoder(position.decoder, width, C, dropout=position.dropout, **sizes)
        self.uses_all_parameters = not supcon.warm_start
        weights_2C, weights_N = torch.ones(2, C), torch.ones(0)
        if classes is not None and task.data is not None and task.data.labels is not None:
            weights_2C, weights_N = _weigh(multi_hot(task.data.labels.cpu(), C), classes.weighting)
        self.register_buffer("class_weights", weights_2C, persistent=False)
        self.register_buffer("row_weights", weights_N, persistent=False)

    def stage(self, step: int) -> tuple[bool, bool]:
        """Whether the contrastive loss, and whether the losses of the heads take part in this step."""
        supcon = self.config.supcon
        warming = step // self.task.steps_per_epoch < supcon.warm_start
        return supcon.apply and (warming or supcon.after_warm_start), not warming

    def compute_loss(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor | float]]:
        """supcon_loss, class_loss and position_loss, each times its weight, those that take part in this step."""
        assert batch.labels is not None and batch.ids is not None
        contrasts, classifies = self.stage(step)
        tokens_BL = self._mutate(batch, step)
        features_BD, logits_BLC = self._encode(tokens_BL, decode=classifies)
        losses: dict[str, Tensor] = {}
        if contrasts:
            assert self.pairs is not None
            loss = self.pairs.loss(features_BD, batch.ids, step, self.encoder)
            losses["supcon_loss"] = self.config.supcon.weight * loss
        if classifies and self.config.classes is not None:
            logits_BC = self._classify(features_BD, logits_BLC, tokens_BL)
            losses["class_loss"] = self.config.classes.weight * self._class_loss(logits_BC, batch)
        if logits_BLC is not None and self.config.position is not None:
            loss = self._position_loss(logits_BLC, tokens_BL, batch.columns["motif"])
            losses["position_loss"] = self.config.position.weight * loss
        # By name, also where there is but one.
        return losses, {name: loss.detach() for name, loss in losses.items()}

    def before_fit_epoch(self, epoch: int) -> None:
        """Distances of the classes by the embeddings of the training samples, where they are due."""
        if self.pairs is not None and self.pairs.is_due(epoch):
            with evaluating(self):
                self.pairs.refresh(self.encoder)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`features`, and of the heads there are: `projections`, `scores` (B, C) and `motif_scores` (B, L, C) logits.

        Rows may be fragments: evaluations put them together to proteins.
        """
        tokens_BL = batch.columns["sequence"]
        features_BD, logits_BLC = self._encode(tokens_BL)
        found = {"features": features_BD}
        if self.pairs is not None:
            found["projections"] = self.pairs.projection(features_BD)
        if self.config.classes is not None:
            found["scores"] = self._classify(features_BD, logits_BLC, tokens_BL)
        return found if logits_BLC is None else {**found, "motif_scores": logits_BLC}

    def _encode(self, tokens_BL: Tensor, decode: bool = True) -> tuple[Tensor, Tensor | None]:
        """(B, D) features, and (B, L, C) logits of the residues where there is a decoder and it is wanted."""
        if self.decoder is None or not decode:
            return self.encoder(tokens_BL), None
        residues_BLD = self.encoder.residues(tokens_BL)  # type: ignore[operator]
        return self.encoder.pool(residues_BLD, tokens_BL), self.decoder(residues_BLD)  # type: ignore[operator]

    def _mutate(self, batch: Batch, step: int) -> Tensor:
        tokens_BL, mutation = batch.columns["sequence"], self.config.mutation
        if mutation is None:
            return tokens_BL
        assert batch.ids is not None
        epoch, how = step // self.task.steps_per_epoch, mutation.model_dump()
        return mutate(tokens_BL, batch.ids.numpy(), seed=self.task.seed, epoch=epoch, view=0, **how)

    def _classify(self, features_BD: Tensor, logits_BLC: Tensor | None, tokens_BL: Tensor) -> Tensor:
        """(B, C) logits of the class head."""
        if self.classifier is not None:
            logits_BC: Tensor = self.classifier(features_BD)
            return logits_BC
        assert logits_BLC is not None
        return logits_BLC.masked_fill((tokens_BL == 0)[..., None], -torch.inf).amax(1)

    def _class_loss(self, logits_BC: Tensor, batch: Batch) -> Tensor:
        """Mean over rows and classes of the weighted binary cross entropy."""
        assert batch.labels is not None and batch.ids is not None
        labels_BC = multi_hot(batch.labels, logits_BC.shape[1])
        negative_C, positive_C = self.class_weights
        weights_BC = torch.where(labels_BC > 0, positive_C, negative_C)
        weights_B = self.row_weights[batch.ids.to(self.row_weights.device)]
        losses_BC = F.binary_cross_entropy_with_logits(logits_BC.float(), labels_BC, weights_BC, reduction="none")
        return mean_of_rows(weights_B * losses_BC.mean(1), self.task.group)

    def _position_loss(self, logits_BLC: Tensor, tokens_BL: Tensor, motif_BLC: Tensor) -> Tensor:
        """Mean over the residues of all rows, and over classes, of the binary cross entropy; padding counts nothing."""
        assert self.config.position is not None
        real_BL = tokens_BL > 0
        weight = logits_BLC.new_tensor(self.config.position.positive_weight, dtype=torch.float32)
        losses_RC = F.binary_cross_entropy_with_logits(
            logits_BLC[real_BL].float(), motif_BLC[real_BL].float(), pos_weight=weight, reduction="none"
        )
        return mean_of_rows(losses_RC.mean(1), self.task.group)


def _weigh(labels_NC: Tensor, weighting: str) -> tuple[Tensor, Tensor]:
    """(2, C) weights of a class's negatives and positives, and (N,) of the rows, each on average 1."""
    N, C = labels_NC.shape
    weights_2C, weights_N = torch.ones(2, C), torch.ones(N)
    if weighting == "sample":
        weights_N = class_weights.sample_weights(labels_NC, class_weights.class_weights(labels_NC)).float()
        weights_N /= weights_N.mean()
    elif weighting == "balanced":
        counts_2C = torch.stack([(labels_NC == 0).sum(0), (labels_NC > 0).sum(0)])
        # A class with one kind of rows only has nothing to balance.
        weights_2C = torch.where((counts_2C > 0).all(0), N / (2 * counts_2C.clamp(min=1)), 1.0)
    return weights_2C, weights_N
