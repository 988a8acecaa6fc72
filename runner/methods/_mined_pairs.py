"""The contrastive part of SupCon-Hard: a projection, mined tuples of each anchor, and how far classes lie apart.

Shapes: N training samples, B anchors, P positives and M negatives of each, R = B (P + M) of them in a row, C classes,
D width of the features, W of the projections.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from runner.dataset import Records
from runner.explain import OptionError
from runner.losses.supcon_hard import supcon_hard
from runner.losses.triplet import triplet_margin
from runner.method import Task
from runner.mining.distances import centre_distances, class_centres, hardness, read_distances
from runner.mining.tuples import Tuples, draw_anchors, draw_tuples, regroup
from runner.projection import LayerNormProjection
from runner.proteins.mutations import mutate
from runner.schema import Options

SHIPPED = Path(__file__).parents[2] / "experiments" / "samples" / "proteins" / "distances.json"
COPY_VIEW = 1
"""The view of the masked copies that are positives; 0 is that of the anchors."""

Encode = Callable[[Tensor], Tensor]


class SupConOptions(Options):
    apply: bool = True
    """False: no contrastive loss at all; what is left is supervised training of the same network."""

    loss: Literal["supcon_hard", "triplet"] = "supcon_hard"
    """triplet: the margin loss of CLEAN's first version, with one positive and one negative."""

    n_pos: int = Field(default=9, ge=1)
    """Positives of each anchor: samples that share at least one class with it."""

    n_neg: int = Field(default=30, ge=0)
    """Negatives of each anchor: samples that share none."""

    temperature: float = Field(default=0.1, gt=0)
    """Divides the cosines of supcon_hard."""

    margin: float = Field(default=1.0, gt=0)
    """How much nearer than its negative a positive should be, for the loss triplet."""

    weight: float = Field(default=1.0, gt=0)
    """Of this loss in the sum with the others."""

    warm_start: int = Field(default=0, ge=0)
    """Epochs 0 .. warm_start - 1 train by this loss alone; with epoch `warm_start` the other losses come in."""

    after_warm_start: bool = True
    """False: leave this loss out from epoch `warm_start` on."""

    hard_neg: bool = True
    """Draw negatives of the classes nearest to the anchor's first; False: all negatives are equally likely."""

    knn: int = Field(default=1, ge=1)
    """Nearest classes whose samples are hard negatives of a class."""

    weighted_negatives: bool = False
    """Draw the class of a hard negative in proportion to 1 / distance, as CLEAN; False: all are equally likely."""

    distance_map: str = "embeddings"
    """Distances of the classes. embeddings: between the class centres of the projected training samples; shipped:
    experiments/samples/proteins/distances.json; else a file {class: {class: distance}}."""

    refresh_every_epochs: int = Field(default=1, ge=1)
    """Epochs after which distances by embeddings are computed anew, the first time before epoch 0."""

    balanced_anchors: bool = False
    """Compare a random sample of a random class in place of each sample of the batch, as CLEAN."""

    hidden: int = Field(default=512, ge=1)
    """Width of the projection's two hidden layers."""

    width: int = Field(default=256, ge=1)
    """Width of the projections that are compared."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """In the projection's hidden layers."""

    copy_rate: float = Field(default=0.1, ge=0, le=1)
    """Residues that are masked in the copy that is the positive of an anchor without any other, as a share."""

    chunk: int | None = Field(default=None, ge=1)
    """Positives and negatives that the encoder holds in memory at a time, computed again in the backward pass.
    None: all, once."""

    @model_validator(mode="after")
    def _consistent(self) -> "SupConOptions":
        if self.loss == "triplet" and (self.n_pos, self.n_neg) != (1, 1):
            raise OptionError("loss", f"triplet takes n_pos 1 and n_neg 1, got {self.n_pos} and {self.n_neg}")
        if not self.apply and self.warm_start:
            raise OptionError("warm_start", f"{self.warm_start} epochs need apply: true")
        if not self.after_warm_start and not self.warm_start:
            raise OptionError("after_warm_start", "false with warm_start 0 never applies the loss; set apply: false")
        return self


class MinedPairs(nn.Module):
    """Projects features, draws what each anchor is compared with from the training samples, and compares.

    Distances by embeddings are a buffer, so that a requeue goes on with those of the last refresh.
    """

    distances: Tensor

    def __init__(self, options: SupConOptions, features: int, task: Task) -> None:
        super().__init__()
        self.options, self.task = options, task
        self.projection = LayerNormProjection(features, options.hidden, options.width, options.dropout)
        C = len(task.classes)
        # Until they are known, no class is near another: then all negatives are alike.
        known = options.hard_neg and options.distance_map != "embeddings"
        path = SHIPPED if options.distance_map == "shipped" else Path(options.distance_map).expanduser()
        distances_CC = torch.from_numpy(read_distances(path, task.classes)) if known else torch.zeros(C, C).double()
        self.register_buffer("distances", distances_CC)
        self._hardness_CC: NDArray[np.float64] | None = None
        if task.data is not None:
            assert isinstance(task.data, Records) and task.data.labels is not None
            self.sequences = replace(task.data, columns={"sequence": task.data.columns["sequence"]})
            self.labels_NC = multi_hot(task.data.labels, C).cpu().numpy() > 0

    def loss(self, features_BD: Tensor, ids_B: Tensor, step: int, encode: Encode) -> Tensor:
        """Of the samples `ids_B` with these features, or of the anchors that stand in for them."""
        options, group = self.options, self.task.group
        tuples = self.draw(ids_B.numpy(), step)
        others_RW = self.project_others(tuples, step, encode)
        if options.balanced_anchors:
            anchors_BW = self.project_rows(tuples.anchors, encode)
        else:
            anchors_BW = self.projection(features_BD)
        z_BXW = regroup(torch.cat([anchors_BW, others_RW]), options.n_pos, options.n_neg)
        complete_B = torch.from_numpy(tuples.complete).to(z_BXW.device)
        if options.loss == "triplet":
            anchor_BW, positive_BW, negative_BW = z_BXW[complete_B].unbind(1)
            return triplet_margin(anchor_BW, positive_BW, negative_BW, group, margin=options.margin)
        weights_B = complete_B.to(z_BXW.dtype) if options.n_neg else None
        return supcon_hard(z_BXW, options.n_pos, options.temperature, group, weights_B=weights_B)

    def draw(self, ids_B: NDArray[np.int64], step: int) -> Tuples:
        """Anchors, positives and negatives: functions of (seed, epoch, sample), with balanced anchors of the step."""
        options, seed = self.options, self.task.seed
        # The members of a small class are anchors many times an epoch, each time with other partners.
        when = step if options.balanced_anchors else step // self.task.steps_per_epoch
        if options.balanced_anchors:
            ids_B = draw_anchors(self.labels_NC, ids_B, seed=seed, epoch=when)
        return draw_tuples(
            self.labels_NC,
            ids_B,
            options.n_pos,
            options.n_neg,
            seed=seed,
            epoch=when,
            hardness_CC=self.hardness() if options.hard_neg else None,
            weighted=options.weighted_negatives,
        )

    def hardness(self) -> NDArray[np.float64]:
        """(C, C) how much the samples of one class are hard negatives of another."""
        if self._hardness_CC is None:
            hardness_CC = hardness(self.distances.cpu().numpy(), self.options.knn)
            if self.options.weighted_negatives:
                # The class is drawn by its distance, then any of its members.
                hardness_CC = hardness_CC / self.labels_NC.sum(0).clip(min=1)
            self._hardness_CC = hardness_CC
        return self._hardness_CC

    def project_others(self, tuples: Tuples, step: int, encode: Encode) -> Tensor:
        """(R, W) projections of the positives, then the negatives; an anchor's own copy as positive is masked."""
        rows_R = np.concatenate([tuples.positives.ravel(), tuples.negatives.ravel()])
        projected_RW = self.project_rows(rows_R, encode)
        copies_BP = tuples.positives == tuples.anchors[:, None]
        if not copies_BP.any():
            return projected_RW
        epoch = step // self.task.steps_per_epoch
        masked = [
            self._masked_copy(tuples.anchors[[row]], epoch, view) for row, view in np.argwhere(copies_BP).tolist()
        ]
        copies_KW = self.projection(encode(nn.utils.rnn.pad_sequence(masked, batch_first=True)))
        places = torch.from_numpy(np.flatnonzero(copies_BP)).to(copies_KW.device)
        return projected_RW.index_copy(0, places, copies_KW)

    def _masked_copy(self, ids: NDArray[np.int64], epoch: int, view: int) -> Tensor:
        seed, rate = self.task.seed, self.options.copy_rate
        return mutate(self._fetch(ids), ids, seed=seed, epoch=epoch, view=COPY_VIEW + view, rate=rate)[0]

    def project_rows(self, rows_R: NDArray[np.int64], encode: Encode) -> Tensor:
        """(R, W) projections of training samples, each computed once however often it is there."""

        def project(tokens_BL: Tensor) -> Tensor:
            projected: Tensor = self.projection(encode(tokens_BL))
            return projected

        ids, places = np.unique(rows_R, return_inverse=True)
        if (chunk := self.options.chunk) is None:
            projected = project(self._fetch(ids))
        else:
            # Checkpointed, a part is computed again in the backward pass instead of being remembered.
            parts = [ids[start : start + chunk] for start in range(0, len(ids), chunk)]
            projected = torch.cat([checkpoint(project, self._fetch(part), use_reentrant=False) for part in parts])
        return projected.index_select(0, torch.from_numpy(places.ravel()).to(projected.device))

    def is_due(self, epoch: int) -> bool:
        """Whether distances by embeddings are computed before this epoch."""
        options = self.options
        by_embeddings = options.hard_neg and options.distance_map == "embeddings"
        return by_embeddings and epoch % options.refresh_every_epochs == 0

    @torch.no_grad()
    def refresh(self, encode: Encode, batch_size: int = 256) -> None:
        """Compute the distances of the classes from the training samples, shared out over the ranks; in eval mode.

        A collective call that draws no random number.
        """
        group, N = self.task.group, len(self.labels_NC)
        own = np.arange(N * group.rank // group.world, N * (group.rank + 1) // group.world)
        parts = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        # A rank may have none at all.
        none_ND = self.projection.fc3.weight.new_empty(0, self.projection.width)
        z_ND = group.all_gather(torch.cat([none_ND, *(self.projection(encode(self._fetch(part))) for part in parts)]))
        labels_NC = torch.from_numpy(self.labels_NC).to(z_ND.device)
        self.distances.copy_(centre_distances(class_centres(z_ND, labels_NC)))
        self._hardness_CC = None

    def _fetch(self, ids: NDArray[np.int64]) -> Tensor:
        return self.sequences.take(torch.from_numpy(ids))["sequence"].to(self.task.group.device)


def multi_hot(labels: Tensor, classes: int) -> Tensor:
    """(N, C) floats 0 or 1 of labels that are so already, or (N,) numbers."""
    return labels.float() if labels.ndim == 2 else F.one_hot(labels, classes).float()
