"""The samples of a trial: to train on, to fit probes on and to evaluate, with one meaning of their token ids."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from runner import lineage, loader, named
from runner.config import Trial
from runner.dataset import ImageSet, Records, Split
from runner.errors import ConfigError, DataError
from runner.evaluate import fits
from runner.explain import OptionError
from runner.export import read_export, read_tokenizer
from runner.rundir import RunDir
from runner.schema import Options
from runner.tokenizers.choice import name_of

SAMPLES_HASHED = 64
"""A few pages of the largest data set."""


@dataclass(frozen=True)
class Data:
    """The samples of a trial."""

    train: Split | None
    """None when nothing is trained or fitted."""

    probe_train: Split | None
    """What probes are fitted on; another set than `train` where that has no labels."""

    tests: Mapping[str, Split]
    """What is evaluated, by the name its metrics get; empty without probes."""


def known_tokenizer(trial: Trial, options: named.ResolvedTrial, run: RunDir) -> str | None:
    """The tokenizer that the model is trained with: of the checkpoints there are, else of `init_from`; or None.

    Raises ConfigError for weights that do not say it, where the trial's own training texts would make other ids.
    """
    if lineage.list_names(run):
        return run.tokenizer.read_text() if run.tokenizer.exists() else None
    if trial.init_path is None:
        return None
    read_export(trial.init_path)
    tokenizer = read_tokenizer(trial.init_path)
    if tokenizer is None and getattr(options.data, "trains_tokenizer", False):
        problem = f'"bpe" is not allowed without a source: {trial.init_path} does not say what its token ids mean'
        raise OptionError("data.tokenizer.name", f"{problem}; export its trial again, or set data.tokenizer.source")
    return tokenizer


def build_split(name: str, options: Options, split: str, tokenizer: str | None, *, normalise: bool = True) -> Split:
    """A split of a data set by its name, with the model's token ids; without `normalise` its pixels stay in 0..1."""
    source = named.load("data", name)
    more = {"tokenizer": tokenizer} if getattr(source, "TOKENIZES", False) else {}
    built: Split = source.build(options, split, **more)
    return built if normalise else unnormalised(built)


def check_whole(name: str, split: str, data: Split) -> None:
    """Raise DataError for a part of a data set that nothing can be made of."""
    if len(data) == 0:
        raise DataError(f"data {name}: its {split} part has no samples")
    if isinstance(data, ImageSet) and not len(data.mean) == len(data.std) == data.inputs:
        given = f"mean has {len(data.mean)} values and std {len(data.std)}"
        raise DataError(f"data {name}: the images of its {split} part have {data.inputs} channels, and {given}")


def unnormalised(data: Split) -> Split:
    """The same samples, and of images the pixels in 0..1 wherever they are looked at, in evaluation too."""
    if not isinstance(data, ImageSet):
        return data
    return replace(data, mean=(0.0,) * data.inputs, std=(1.0,) * data.inputs)


def build_data(trial: Trial, options: named.ResolvedTrial, device: torch.device, tokenizer: str | None = None) -> Data:
    """The samples of a trial: to train on, to fit probes on, and to evaluate.

    `tokenizer` is the one that the model was trained with, as far as it was. Raises ConfigError for other data
    than the model's.
    """
    source, evaluate = named.load("data", trial.data.name), trial.evaluate

    def build(name: str, own: Options, split: str, tokenizer: str | None) -> Split:
        built = build_split(name, own, split, tokenizer, normalise=trial.views.normalise)
        check_whole(name, split, built)
        return built

    train = tests = probe_train = None
    if trial.train.steps != 0 or fits(options.probes) or evaluate.on == "validation":
        train = build(trial.data.name, options.data, "train", tokenizer)
        check_tokenizer("data", train, tokenizer)
        tokenizer = tokenizer_of(train)
    if evaluate.on == "test":
        tests = {"test": build(trial.data.name, options.data, "test", tokenizer)} if options.probes else {}
    elif "validation" in getattr(source, "SPLITS", ()):
        tests = {"validation": build(trial.data.name, options.data, "validation", tokenizer)}
    else:
        assert train is not None
        train, held_out = loader.hold_out(train, evaluate.validation_share, trial.train.seed)
        tests = {"validation": held_out}
    model = train if train is not None else tests["test"]
    check_tokenizer("data", model, tokenizer)
    for name, selection in evaluate.data.items():
        with errors_about("data", f"evaluate.data.{name}"):
            tests[name] = build(selection.name, options.more_data[name], "test", tokenizer_of(model))
        check_alike(name, tests[name], model)
    if options.probes and hasattr(source, "build_probe"):
        probe_train = source.build_probe(options.data)
        if probe_train is not None and not trial.views.normalise:
            probe_train = unnormalised(probe_train)
    if train is not None:
        train = loader.resident(train, device)
    return Data(train, train if probe_train is None else probe_train, tests)


def tokenizer_of(data: Split) -> str | None:
    """What the token ids of a split mean; None where there is no choice."""
    return data.tokenizer if isinstance(data, Records) else None


def check_tokenizer(key: str, data: Split, model: str | None) -> None:
    """Raise OptionError where token ids mean something else to the model, by what its tokenizer is described as."""
    found = tokenizer_of(data)
    if found is not None and model is not None and found != model:
        given, wanted = name_of(found), name_of(model)
        other = f'another "{wanted}"' if given == wanted else f'"{wanted}"'
        problem = f'"{given}" is not allowed; the model was trained on the token ids of {other}: choose that one'
        raise OptionError(f"{key}.tokenizer", problem)


def check_alike(name: str, data: Split, model: Split) -> None:
    """Raise ConfigError where a method that is made for `model` cannot be evaluated on the data set of this name."""
    if lacking := [column for column in model.columns if column not in data.columns]:
        problem = f"has no column {lacking[0]}, which the trial's data have"
    elif data.inputs != model.inputs:
        what = "channels" if isinstance(data, ImageSet) else "token ids"
        problem = f"has {data.inputs} {what}, and the trial's data have {model.inputs}"
    else:
        check_tokenizer(f"evaluate.data.{name}", data, tokenizer_of(model))
        return
    raise ConfigError(f"evaluate.data.{name}: {problem}; choose data like those")


@contextmanager
def errors_about(group: str, key: str) -> Iterator[None]:
    """What a plug-in says of its own group is said of the dotted key that the plug-in was selected by."""
    try:
        yield
    except OptionError as error:
        raise OptionError(_moved(error.key, group, key), error.problem) from None
    except (ConfigError, DataError) as error:
        raise type(error)(_moved(str(error), group, key)) from None


def _moved(text: str, group: str, key: str) -> str:
    return key + text.removeprefix(group) if text.startswith((f"{group}.", f"{group}:")) else text


def describe_data(data: Split) -> dict[str, Any]:
    """How many samples there are, and a sha256 of some of them, spread evenly: enough to notice other data."""
    ids = torch.arange(0, len(data), max(len(data) // SAMPLES_HASHED, 1))[:SAMPLES_HASHED]
    columns = data.take(ids)
    if data.labels is not None:
        columns = {**columns, "labels": data.labels[ids.to(data.labels.device)]}
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(f"{name}{columns[name].dtype}{tuple(columns[name].shape)}".encode())
        digest.update(columns[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {"samples": len(data), "sha256": digest.hexdigest()}
