"""One view of x against one view of y in the pairwise engine: statistics, losses and gradients, tile by tile.

Shapes: B rows on this rank, N on all ranks, Q in the queue, D width, I x J a tile.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.losses.slopes import LN2, LogSum, Statistics, nothing, sigmoid_slope_, softmax_slope
from runner.losses.tiles import Tile, Workspace


@dataclass(frozen=True)
class Terms:
    """What is summed over the pairs of rows, and divided by N."""

    gamma: float | None = None
    """Exponent of the modulated sigmoid loss, 0 for the plain one; None leaves the sigmoid loss out."""

    cutoff: float | None = None
    """Leave out negatives whose logit is at most this, and do not modulate the other pairs."""

    cross_entropy: float = 0.0
    """Weight of the softmax cross entropy of each row of S against its own column."""

    column_cross_entropy: float = 0.0
    """Weight of that of each column against its own row."""

    in_batch: bool = True
    """The other rows of y are negatives of a row of x; else only those of the queue are."""

    invariance: float = 0.0
    """Weight of KL(softmax of column i || softmax of row i)."""

    measure_kl: bool = False
    """Measure that divergence even where its weight is 0."""

    @property
    def need_kl(self) -> bool:
        return bool(self.invariance) or self.measure_kl

    @property
    def need_columns(self) -> bool:
        return self.need_kl or bool(self.column_cross_entropy)

    @property
    def need_softmax(self) -> bool:
        return self.need_columns or bool(self.cross_entropy)

    @property
    def weighs_softmax(self) -> bool:
        return bool(self.cross_entropy or self.column_cross_entropy or self.invariance)


@dataclass(frozen=True)
class Comparison:
    """One view of x against one view of y: S = x y^T in bits, tile by tile."""

    x: Tensor
    """(N, D) in units of log 2, own rows first; the others are only there if mirrored."""

    y: Tensor
    """(N, D), own rows first."""

    queue: Tensor
    """(Q, D)"""

    own: int
    tiles: list[Tile]
    first: int
    """The number of the first tile, counted over all comparisons."""

    space: Workspace
    mirrored: bool
    """Whether S_ji is needed even where j is a row of another rank."""

    terms: Terms

    def columns(self, tile: Tile) -> Tensor:
        """The rows of y, or of the queue, that the tile's columns are."""
        return self.queue[tile.columns] if tile.queued else self.y[tile.columns]

    def similarities(self, number: int, tile: Tile, again: bool = False) -> Tensor:
        """S_ij and, where it is needed, S_ji: (1 or 2, I, J)."""
        sides = 2 if (self.mirrored and not tile.queued) or tile.mutual else 1
        S = self.space.similarities(number, sides, tile)
        if not (again and self.space.keeps(number)):
            torch.mm(self.x[tile.rows], self.columns(tile).T, out=S[0])
            if sides == 2:
                torch.mm(self.y[tile.rows], self.x[tile.columns].T, out=S[1])
            if not (self.terms.in_batch or tile.queued):
                positives = S.diagonal(dim1=1, dim2=2).clone()
                S.fill_(nothing(S)).diagonal(dim1=1, dim2=2).copy_(positives)
        return S

    def positives(self) -> Tensor:
        """The sum of S_ii over own rows, in bits."""
        own_B: Tensor = torch.linalg.vecdot(self.x[: self.own], self.y[: self.own])
        return own_B.sum(dtype=torch.float64)

    def statistics(self) -> Tensor:
        """The `Statistics` of own rows and columns, (B, 3); what no term needs is not computed and 0."""
        row, column = LogSum(self.own, self.x), LogSum(self.own, self.x)
        with_kl, with_columns = self.terms.need_kl, self.terms.need_columns
        for number, tile in enumerate(self.tiles, self.first):
            S = self.similarities(number, tile)
            powers, difference, _ = (buffer[0] for buffer in self.space.spare(1, tile))
            row.add(tile.rows, S[0], 1, powers)
            if tile.mutual:
                row.add(tile.columns, S[1], 0, powers)
            if with_columns:
                values = torch.sub(S[1], S[0], out=difference) if with_kl else None
                column.add(tile.rows, S[1], 1, powers, values)
                if tile.mutual:
                    column.add(tile.columns, S[0], 0, powers, None if values is None else values.neg_())
        none = torch.zeros_like(row.total)
        return torch.stack([row.log(), column.log() if with_columns else none, column.mean() if with_kl else none], 1)

    def add(
        self,
        statistics: Statistics | None,
        bias: Tensor,
        loss: Tensor,
        dbias: Tensor | None,
        dx_BD: Tensor | None,
        dy_BD: Tensor | None,
    ) -> None:
        """Add N times the sigmoid loss and N times the gradients of all terms, in place, for own rows."""
        terms = self.terms
        for number, tile in enumerate(self.tiles, self.first):
            S = self.similarities(number, tile, again=statistics is not None)
            softmax, *spare = self.space.spare(len(S), tile)
            own = 2 if tile.mutual else 1  # the mirror of another rank's row counts in that rank's loss
            wanted = own if dy_BD is None or tile.queued else 2
            slope: Tensor | None = None
            if statistics is not None and terms.weighs_softmax:
                weights = terms.cross_entropy, terms.column_cross_entropy, terms.invariance
                slope = softmax_slope(S, *weights, statistics, tile, softmax[:wanted], *spare)
            if terms.gamma is not None:
                logits = S[:wanted]
                torch.add(bias, logits, alpha=LN2, out=logits)
                scratch = (buffer[:wanted] for buffer in spare)
                loss += sigmoid_slope_(logits, terms.gamma, terms.cutoff, tile.diagonal, *scratch)[:own].sum()
                if dbias is not None:
                    dbias += logits[:own].sum(-1).sum(dtype=torch.float64)
                slope = logits if slope is None else logits.add_(slope)
            assert slope is not None, terms
            self.multiply(slope, tile, dx_BD, dy_BD)

    def multiply(self, slope: Tensor, tile: Tile, dx_BD: Tensor | None, dy_BD: Tensor | None) -> None:
        """From dloss/dS to the gradients of own rows."""
        rows, columns = tile.rows, tile.columns
        if dx_BD is not None:
            dx_BD[rows].addmm_(slope[0], self.columns(tile))
            if tile.mutual:
                dx_BD[columns].addmm_(slope[1].T, self.y[rows])
        if dy_BD is not None and not tile.queued:
            dy_BD[rows].addmm_(slope[1], self.x[columns], alpha=LN2)
            if tile.mutual:
                dy_BD[columns].addmm_(slope[0].T, self.x[rows], alpha=LN2)
