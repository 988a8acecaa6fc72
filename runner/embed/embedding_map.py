"""Features in two dimensions, and how they are drawn.

Shapes: N samples, D features.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from runner.embed.learned import Learned
from runner.errors import ConfigError
from runner.plot.figure import COLORS, literal, new_figure

Place = NDArray[np.float64]
"""(2,)"""

Kind = Literal["tsne", "pca", "umap"]
KINDS = get_args(Kind)

SEED = 0
MARKERS = ("o", "^", "s", "D")
MOST_CLASSES = 14
"""Classes with a colour and a marker of their own; all smaller ones are grey."""

NAME_SIZE = np.array([0.16, 0.06])
"""Width and height of a name, as parts of the picture."""

OTHERS = "other classes"
GREY = "0.6"

NAMES: dict[Kind, str] = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}
NOTES: dict[Kind, str] = {
    "tsne": "t-SNE keeps neighbours together; distances between groups, and their sizes, mean little",
    "umap": "UMAP keeps neighbours together; distances between groups mean little",
    "pca": "the two directions of the largest variance",
}


def project(features_ND: NDArray[np.float32], kind: Kind) -> NDArray[np.float64]:
    """(N, 2) places of the features, the same ones every time.

    Raises: ConfigError for fewer than 4 samples, and for UMAP where umap-learn is not installed.
    """
    if len(features_ND) < 4:
        raise ConfigError(f"an embedding map needs at least 4 samples; there are {len(features_ND)}")
    methods: dict[Kind, Callable[[Any], Any]] = {"tsne": _tsne, "pca": _pca, "umap": _umap}
    return np.asarray(methods[kind](features_ND), np.float64)


def draw_map(learned: Learned, kind: Kind) -> Any:
    """A point for each sample, coloured by its class; the name of a class stands at the middle of its points."""
    samples = learned.evaluated
    places_N2 = project(samples.features.numpy(), kind)
    labels = np.array([samples.label(place) for place in range(len(samples))])
    where = f"{learned.run.experiment}/{learned.run.trial}, step {learned.step}"
    figure, axes = new_figure(f"{where}: {NAMES[kind]} of {len(samples)} samples of {samples.name}")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    chosen = choose_classes(labels.tolist())
    rest = ~np.isin(labels, chosen)
    if rest.any():
        name = OTHERS if chosen else ""
        axes.plot(*places_N2[rest].T, linestyle="", marker=".", markersize=3, color=GREY, label=name)
    for place, name in enumerate(chosen):
        own_N2 = places_N2[labels == name]
        marker = MARKERS[place // len(COLORS) % len(MARKERS)]
        color = COLORS[place % len(COLORS)]
        look = {"marker": marker, "markersize": 3, "markeredgewidth": 0, "alpha": 0.75}
        axes.plot(*own_N2.T, linestyle="", color=color, label=literal(name), **look)
    middles = [np.median(places_N2[labels == name], axis=0) for name in chosen]
    for name, middle in zip(chosen, spread_out(middles, np.ptp(places_N2, axis=0)), strict=True):
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
        axes.text(*middle, literal(name), ha="center", va="center", fontsize=8, bbox=box, zorder=5)
    if chosen:
        figure.legend(loc="outside right center", frameon=False, fontsize=8, markerscale=2)
    return figure


def choose_classes(labels: list[str]) -> list[str]:
    """The classes that get a colour, by name: all of them, or the largest where there are many."""
    counts = Counter(label for label in labels if label)
    most = MOST_CLASSES if len(counts) <= MOST_CLASSES else MOST_CLASSES - 1
    return sorted(sorted(counts, key=lambda label: (-counts[label], label))[:most])


def spread_out(places: Sequence[Place], size: Place) -> list[Place]:
    """Places for names in a picture of this size, moved down where a name would lie on one above it."""
    width, height = NAME_SIZE * size
    placed: list[Place] = []
    found = [np.array(place) for place in places]
    for place in sorted(found, key=lambda place: -place[1]):
        for above in placed:
            if abs(above[0] - place[0]) < width and abs(above[1] - place[1]) < height:
                place[1] = above[1] - height
        placed.append(place)
    return found


def _tsne(features_ND: Any) -> Any:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features_ND) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(features_ND)


def _pca(features_ND: Any) -> Any:
    from sklearn.decomposition import PCA

    return PCA(2, random_state=SEED).fit_transform(features_ND)


def _umap(features_ND: Any) -> Any:
    try:
        from umap import UMAP
    except ImportError:
        raise ConfigError(
            "--method umap: needs umap-learn: pip install umap-learn; tsne and pca need nothing"
        ) from None
    return UMAP(random_state=SEED).fit_transform(features_ND)
