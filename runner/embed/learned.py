"""A trained trial, taken from its newest checkpoint, and the frozen features it has of its data.

Shapes: N samples of the data set that is evaluated, M of the one that neighbours are sought in, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from runner import checkpoint, lineage, named
from runner.config import Trial
from runner.dataset import Records, Split
from runner.errors import CheckpointError, ConfigError
from runner.experiment import load_trial
from runner.features import extract_features
from runner.group import Group
from runner.method import Method
from runner.run import build_method, make_plan
from runner.rundir import RunDir
from runner.state import misfits
from runner.trial_data import Data, build_data, build_split, known_tokenizer, tokenizer_of

LONGEST_TEXT = 60
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Samples:
    """Some samples of a data set, as a trial sees them."""

    name: str
    """Which of the trial's data sets."""

    data: Split
    features: Tensor
    """(N, D) float32 of length 1, on the CPU."""

    def __len__(self) -> int:
        return len(self.data)

    def label(self, place: int) -> str:
        """The class of a sample, or all of its classes; empty where it has none."""
        labels = self.data.labels
        if labels is None:
            return ""
        own = labels[place]
        numbers = [int(own)] if own.ndim == 0 else own.nonzero().ravel().tolist()
        return ", ".join(self.data.classes[number] for number in numbers) or "none"


@dataclass(frozen=True)
class Learned:
    """What a trial knows of some samples."""

    run: RunDir
    step: int
    evaluated: Samples
    known: Samples
    """What it was trained on or probes are fitted on, where neighbours are sought; `evaluated` where there is none."""

    source: str
    """The name of the data set."""


def read_learned(run: RunDir, samples: int) -> Learned:
    """Frozen features of at most so many samples of each data set, taken evenly from the whole.

    Raises: ConfigError for a trial without a checkpoint; CheckpointError, DataError for what cannot be read.
    """
    trial = load_trial(run.config)
    group = Group(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    options = named.resolve_trial(trial)
    data = build_data(trial, options, group.device, known_tokenizer(trial, options, run))
    name, test = _evaluated(trial, options, data, run)
    some = data.train if data.train is not None else test
    plan = make_plan(trial, some)
    steps = (trial.train.epochs or 0) * plan.steps_per_epoch if trial.train.steps is None else trial.train.steps
    method = build_method(trial, options, some, data.train, group, steps)
    step = load_newest(run, method)
    evaluated = take(method, name, test, samples, group)
    known = evaluated if data.probe_train is None else take(method, "train", data.probe_train, samples, group)
    return Learned(run, step, evaluated, known, trial.data.name)


def load_newest(run: RunDir, method: Method) -> int:
    """Give a method the weights of the newest checkpoint that verifies; the step of it.

    Raises: ConfigError for a trial without one; CheckpointError for one that does not fit.
    """
    name, refused = lineage.newest_valid(run)
    if name is None:
        raise ConfigError(f"{run.experiment}/{run.trial}: has no checkpoint to take the weights from yet")
    saved = checkpoint.load(run, Group(world=checkpoint.world_size(run, name)), name, refused)
    weights = saved.shared["method"]
    if problems := misfits(method, weights):
        raise CheckpointError(f"{run.checkpoints / name}: does not fit the trial's config: {problems}")
    method.load_state_dict(weights)
    return saved.step


def take(method: Method, name: str, data: Split, samples: int, group: Group) -> Samples:
    """At most so many samples, evenly from the whole data set, with what the method makes of them."""
    some = data.subset(torch.linspace(0, len(data) - 1, min(samples, len(data))).round().long())
    features = extract_features(method, some, group).features
    return Samples(name, some.to(torch.device("cpu")), F.normalize(features.cpu(), dim=1))


def describe(source: str, data: Split, place: int) -> str:
    """A sample of records in a few words: by its data set's `describe`, by its texts, or by its number."""
    assert isinstance(data, Records)
    module = named.load("data", source)
    if hasattr(module, "describe"):
        return str(module.describe(data, place))
    texts = [texts[place] for texts in data.texts.values()]
    return " · ".join(" ".join(text.split())[:LONGEST_TEXT] for text in texts if text) or f"sample {place}"


def _evaluated(trial: Trial, options: named.ResolvedTrial, data: Data, run: RunDir) -> tuple[str, Split]:
    """The data set that the trial is evaluated on; its test part where it has no probes."""
    if data.tests:
        return next(iter(data.tests.items()))
    tokenizer = tokenizer_of(data.train) if data.train is not None else known_tokenizer(trial, options, run)
    return "test", build_split(trial.data.name, options.data, "test", tokenizer, normalise=trial.views.normalise)
