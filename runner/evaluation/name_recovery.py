"""Recovering the name of a stripped function: which sub-tokens it has, from its frozen embedding.

One logistic model for each sub-token (multi-label), all fitted together.

Shapes: N training samples, M test samples, D embedding width, S sub-tokens.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from runner.errors import DataError
from runner.evaluation._probe import take_embedding, take_texts
from runner.evaluation._standardise import standardise
from runner.facts import Facts
from runner.features import FrozenFeatures
from runner.identifiers import split_name
from runner.schema import Options
from runner.text_metrics import exact_match, subtoken_f1


class Config(Options):
    embedding: str = "features"
    """Which output of the method is read."""

    text: str = "name"
    """Which text of the data set holds the names."""

    vocabulary: int = Field(1024, ge=1)
    """So many sub-tokens at most, those found in most training names."""

    threshold: float = Field(0.5, gt=0, lt=1)
    """A sub-token is predicted from this probability on."""

    C: float = Field(1.0, gt=0)
    """Inverse strength of the L2 penalty, as in scikit-learn, on features standardised by the training samples."""

    max_iterations: int = Field(200, ge=1)
    """Steps of the solver at most."""


def check(config: Config, train: Facts | None, test: Facts) -> None:
    """Raises OptionError for a missing output or text."""
    test.need_output("embedding", config.embedding)
    for facts in filter(None, (train, test)):
        facts.need_text("text", config.text)


def run(
    config: Config, train: FrozenFeatures, test: FrozenFeatures, device: torch.device, seed: int
) -> dict[str, float]:
    """`subtoken_f1` and `exact_match` of the names of the test functions, means over functions.

    What the vocabulary lacks counts as missed: `coverage` is the share of the test sub-tokens that it has. The
    solver draws nothing: the seed is not needed.

    Raises ConfigError without names, DataError if the training names hold no sub-token.
    """
    names = take_texts(train, config.text)
    words = choose_subtokens(names, config.vocabulary)
    if not words:
        raise DataError(f"name recovery: the {len(names)} training names hold no sub-token")
    train_ND, test_MD = standardise(*(take_embedding(split, config.embedding).to(device) for split in (train, test)))
    marks_NS = mark_subtokens(names, words).to(train_ND)
    weight_SD, bias_S = fit(train_ND, marks_NS, config.C, config.max_iterations)
    chosen_MS = torch.sigmoid(torch.addmm(bias_S, test_MD, weight_SD.T)) >= config.threshold
    predicted = [[words[s] for s in row.nonzero()[:, 0].tolist()] for row in chosen_MS]
    return score(predicted, [split_name(name) for name in take_texts(test, config.text)], words)


def score(
    predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]], words: Sequence[str]
) -> dict[str, float]:
    """Means over functions, and the share of the expected sub-tokens that are among `words`."""
    known = set(words)
    pairs = list(zip(predicted, expected, strict=True))
    return {
        "subtoken_f1": _mean([subtoken_f1(*pair) for pair in pairs]),
        "exact_match": _mean([exact_match(*pair) for pair in pairs]),
        "coverage": _mean([float(word in known) for name in expected for word in set(name)]),
    }


def choose_subtokens(names: Sequence[str], vocabulary: int) -> list[str]:
    """The sub-tokens found in most names, most common first, equal ones in alphabetical order."""
    counts = Counter(word for name in names for word in set(split_name(name)))
    return sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary]


def mark_subtokens(names: Sequence[str], words: Sequence[str]) -> Tensor:
    """(N, S) 1 where a name has the sub-token."""
    place = {word: s for s, word in enumerate(words)}
    marks_NS = torch.zeros(len(names), len(words))
    for n, name in enumerate(names):
        marks_NS[n, [place[word] for word in split_name(name) if word in place]] = 1
    return marks_NS


def fit(features_ND: Tensor, marks_NS: Tensor, C: float, max_iterations: int) -> tuple[Tensor, Tensor]:
    """Weights (S, D) and biases (S,) at the minimum of the summed cross entropy + |W|^2 / 2C, by L-BFGS.

    The sub-tokens share nothing but the solver: each has the optimum of its own logistic regression.
    """
    N, S = marks_NS.shape
    weight_SD = features_ND.new_zeros(S, features_ND.shape[1]).requires_grad_()
    # The log-odds of the share, where the model is best without any features.
    share_S = (marks_NS.sum(dim=0) + 0.5) / (N + 1)
    bias_S = torch.logit(share_S).requires_grad_()
    solver = torch.optim.LBFGS(
        [weight_SD, bias_S],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        solver.zero_grad()
        logits_NS = torch.addmm(bias_S, features_ND, weight_SD.T)
        loss = F.binary_cross_entropy_with_logits(logits_NS, marks_NS, reduction="sum")
        total = (loss + weight_SD.square().sum() / (2 * C)) / N
        torch.autograd.backward(total)
        return total.item()

    with torch.enable_grad():
        solver.step(objective)  # type: ignore[no-untyped-call]
    return weight_SD.detach(), bias_S.detach()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
