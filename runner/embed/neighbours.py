"""The samples that are nearest to some queries by the cosine of their features.

Shapes: Q queries, M samples they are sought among, K neighbours, D features.
"""

import io
import textwrap
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.dataset import ImageSet, Split
from runner.embed.learned import Learned, Samples, describe
from runner.plot.figure import literal

SEED = 0
"""Of the order in which queries are drawn."""

LETTERS_OF_A_COLUMN = 16
"""Of the title of a sheet of images."""


@dataclass(frozen=True)
class Neighbour:
    """One of the nearest samples of a query."""

    place: int
    cosine: float
    is_right: bool | None
    """It has a class in common with the query; None where one of the two has none."""


@dataclass(frozen=True)
class Sheet:
    """Queries of the evaluated samples, each with its neighbours, the nearest first."""

    learned: Learned
    queries: dict[int, list[Neighbour]]
    share_right: float | None
    """Of the neighbours of all evaluated samples, with a class of the query; None without labels."""

    share_by_chance: float | None
    """The same for neighbours drawn at random."""

    def title(self) -> str:
        known, evaluated = self.learned.known, self.learned.evaluated
        told = f"nearest neighbours in {len(known)} samples of {known.name}, by cosine"
        if self.share_right is None or self.share_by_chance is None:
            return told
        count = len(next(iter(self.queries.values()), []))
        return (
            f"{told}; of the {count} nearest of all {len(evaluated)} samples of {evaluated.name} "
            f"{self.share_right:.1%} are of the same class, at random {self.share_by_chance:.1%}"
        )


def find_neighbours(learned: Learned, queries: int, count: int) -> Sheet:
    """The `count` nearest samples of some queries: one of each class in turn, in an order that is always the same."""
    right_QM = same_class(learned.evaluated.data.labels, learned.known.data.labels)
    if right_QM is not None and not right_QM.any():
        # Classes that were never trained on have neighbours of their own only among themselves.
        learned = replace(learned, known=learned.evaluated)
        right_QM = same_class(learned.evaluated.data.labels, learned.evaluated.data.labels)
    evaluated, known = learned.evaluated, learned.known
    is_same = evaluated is known
    count = min(count, len(known) - int(is_same))
    cosine_QM = evaluated.features @ known.features.T
    if is_same:
        cosine_QM.fill_diagonal_(-torch.inf)
        if right_QM is not None:
            right_QM.fill_diagonal_(False)
    nearest_QK = cosine_QM.topk(count, dim=1).indices
    found: dict[int, list[Neighbour]] = {}
    for query in choose_queries(evaluated, queries):
        found[query] = [
            Neighbour(place, float(cosine_QM[query, place]), None if right_QM is None else bool(right_QM[query, place]))
            for place in nearest_QK[query].tolist()
        ]
    if right_QM is None:
        return Sheet(learned, found, None, None)
    right_QK = right_QM.gather(1, nearest_QK)
    return Sheet(
        learned,
        found,
        right_QK.double().mean().item(),
        right_QM.sum().item() / (right_QM.numel() - len(right_QM) * is_same),
    )


def same_class(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """(Q, M) which pairs have a class in common; None where one side has no labels."""
    if first is None or second is None:
        return None
    if first.ndim == 1:
        return first[:, None] == second[None, :]
    return first.float() @ second.float().T > 0


def choose_queries(samples: Samples, count: int) -> list[int]:
    """Places of the queries: one of each class in turn, by their classes and then as they are drawn."""
    turns: dict[str, list[int]] = {}
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(SEED))
    for place in order.tolist():
        turns.setdefault(samples.label(place), []).append(place)
    ranked = sorted((turn, name, place) for name, places in turns.items() for turn, place in enumerate(places))
    return [place for _, _, place in sorted(ranked[:count], key=lambda each: (each[1], each[0]))]


def draw_images(sheet: Sheet) -> Any:
    """A row a query: the image, then those nearest to it, the wrong ones in a frame."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    evaluated, known = sheet.learned.evaluated, sheet.learned.known
    count = max(map(len, sheet.queries.values()), default=0)
    figure = Figure(figsize=(1.1 * (count + 1), 1.35 * len(sheet.queries) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(literal(textwrap.fill(sheet.title(), LETTERS_OF_A_COLUMN * (count + 1))), fontsize=9)
    grid = figure.subplots(len(sheet.queries), count + 1, squeeze=False)
    for row, (query, neighbours) in zip(grid, sheet.queries.items(), strict=True):
        _draw_image(row[0], evaluated.data, query, f"query: {evaluated.label(query)}")
        for axes, each in zip(row[1:], neighbours, strict=True):
            mark = {True: "✓ ", False: "✗ ", None: ""}[each.is_right]
            _draw_image(axes, known.data, each.place, f"{mark}{known.label(each.place)}\n{each.cosine:.2f}")
            if each.is_right is False:
                axes.spines[:].set(visible=True, color="#D55E00", linewidth=2.5)
    return figure


def _draw_image(axes: Any, data: Split, place: int, words: str) -> None:
    axes.imshow(pixels(data, place), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(literal(words), fontsize=7)


def pixels(data: Split, place: int) -> Any:
    """(H, W) or (H, W, 3) uint8 of one image."""
    image_CHW = data.take(torch.tensor([place]))["images"][0].numpy()
    return image_CHW[0] if len(image_CHW) == 1 else np.moveaxis(image_CHW[:3], 0, -1)


def to_png(data: Split, place: int) -> bytes:
    """One image as it is, pixel by pixel."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, pixels(data, place), cmap="gray", vmin=0, vmax=255, format="png")
    return buffer.getvalue()


def table(sheet: Sheet) -> list[list[str]]:
    """[query, neighbour, cosine, right?, label of the query, label of the neighbour] of each, in words."""
    learned = sheet.learned
    rows = []
    for query, neighbours in sheet.queries.items():
        for each in neighbours:
            verdict = {True: "yes", False: "no", None: ""}[each.is_right]
            labels = [learned.evaluated.label(query), learned.known.label(each.place)]
            names = [
                describe(learned.source, learned.evaluated.data, query),
                describe(learned.source, learned.known.data, each.place),
            ]
            rows.append([*names, f"{each.cosine:.2f}", verdict, *labels])
    return rows


def has_images(sheet: Sheet) -> bool:
    return isinstance(sheet.learned.evaluated.data, ImageSet)
