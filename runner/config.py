"""What an experiment file may say: one frozen model for each of its groups. Needs no torch.

Plug-ins (method, encoder, data, schedule) stay a `Selection` here; runner.named knows their options.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_serializer,
    model_validator,
)

from runner.explain import OptionError, did_you_mean, listed
from runner.schema import Options
from runner.search_config import SearchConfig
from runner.strict_yaml import show
from runner.views_config import ViewsConfig

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError('must be 1 to 64 letters, digits, ".", "_" and "-", the first a letter or digit')
    return name


Name = Annotated[str, AfterValidator(_check_name)]
"""A name that is safe as a folder, a job name and a part of a command line."""


def _check_steps(steps: Any) -> Any:
    if isinstance(steps, int) and steps < 0:
        raise ValueError("must be at least 1, or 0 to evaluate what init_from names")
    return steps


Count = Annotated[int, Field(ge=1, le=10**9)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Selection(Options):
    """One member of a plug-in family and its options; flat in YAML: `{name: scl, gamma: 1.0}`."""

    name: str
    """File name of the plug-in, without `.py`."""

    options: dict[str, Any] = Field(default_factory=dict)
    """What else the mapping says; checked by the plug-in's own Config."""

    @model_validator(mode="before")
    @classmethod
    def gather(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"must be a mapping; write {{name: {value}}}")
        if not isinstance(value, dict) or isinstance(value.get("options"), dict):
            return value
        name = {"name": value["name"]} if "name" in value else {}
        return {**name, "options": {key: value[key] for key in value if key != "name"}}

    @model_serializer
    def flatten(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


def _expand_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Probe = Annotated[Selection, BeforeValidator(_expand_name)]
"""An evaluation: its name, or a mapping with its name and options."""


class GroupOptions(Options):
    """What one group of parameters does differently."""

    lr: Annotated[float, Field(gt=0)] | None = None
    """Learning rate before the schedule; None: that of the optimizer."""

    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """None: that of the optimizer."""


class OptimizerConfig(Options):
    """The optimizer and its parameter groups."""

    name: Literal["adamw", "adam", "sgd", "lars"] = "adamw"
    """A class of torch.optim, or LARS (You et al. 2017) for large batches."""

    lr: float = Field(gt=0)
    """Learning rate; the schedule multiplies it."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled from the gradient for adamw, an L2 penalty for the others."""

    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """Decay rates of the two moments of adam and adamw."""

    momentum: Momentum = 0.9
    """Momentum of sgd and lars."""

    nesterov: bool = False
    """Nesterov's momentum, for sgd and lars."""

    trust_coefficient: float = Field(default=1e-3, gt=0)
    """Share of its length that lars moves a tensor by, before the learning rate."""

    groups: dict[str, GroupOptions] = Field(default_factory=dict)
    """Own values for groups of parameters, by the names the method gives them, such as encoder and head."""

    @model_validator(mode="after")
    def check(self) -> Self:
        has_momentum = self.name in ("sgd", "lars")
        if has_momentum and self.betas != (0.9, 0.999):
            raise OptionError("betas", f"is no option of {self.name}; leave it out")
        if self.name != "lars" and self.trust_coefficient != 1e-3:
            raise OptionError("trust_coefficient", f"is no option of {self.name}; leave it out")
        if not has_momentum and (self.nesterov or self.momentum != 0.9):
            key = "nesterov" if self.nesterov else "momentum"
            raise OptionError(key, f"is no option of {self.name}; leave it out")
        if self.nesterov and self.momentum == 0:
            raise OptionError("nesterov", "needs a momentum above 0")
        return self


class TrainConfig(Options):
    """How long, how much at a time, and how the arithmetic is done."""

    epochs: Count | None = None
    """Passes over the training data; give this or `steps`."""

    steps: Annotated[int, BeforeValidator(_check_steps), Field(ge=0, le=10**9)] | None = None
    """Optimizer steps; give this or `epochs`. 0 evaluates what `init_from` names and trains nothing."""

    batch_size: Count
    """Samples for one optimizer step, over all ranks and accumulation."""

    precision: Literal["no", "fp16", "bf16"] = "no"
    """Autocast type of the forward pass; fp16 scales the loss."""

    accumulate: Count = 1
    """Backward passes for one optimizer step."""

    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients are scaled down to this joint 2-norm; None: never."""

    seed: Seed = 0
    """Start of every random number: initial weights, order of the data, views, dropout."""

    workers: int = Field(default=0, ge=0)
    """Processes that load data, for each rank; the results do not depend on it."""

    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Collectives of torch.distributed; auto: nccl on GPUs, gloo on CPUs."""

    sync_batch_norm: bool = False
    """Batch norm over the samples of all ranks, on GPUs."""

    deterministic: bool = True
    """Deterministic kernels only: the same bits from the same seed on the same machine."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            both = "both are given" if self.epochs is not None else "neither is given"
            raise ValueError(f"needs either epochs or steps; {both}")
        return self


class EvaluateConfig(Options):
    """When the frozen encoder is evaluated; always at the end, and every so often if this says so."""

    every_epochs: Count | None = None
    """Epochs between evaluations."""

    every_steps: Count | None = None
    """Optimizer steps between evaluations."""

    probes: tuple[Probe, ...] = ()
    """Evaluations by name, such as linear and knn, or with their options: {name: knn, k: 5}."""

    on: Literal["test", "validation"] = "test"
    """validation: a part of the training data that is held out, to choose settings by."""

    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """How much of the training data is held out by `on: validation` where the data set has no such part itself."""

    data: dict[Name, Selection] = Field(default_factory=dict)
    """More data sets whose test parts are evaluated too, by the name their metrics get."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.every_epochs is not None and self.every_steps is not None:
            raise ValueError("every_epochs and every_steps are both given; keep one")
        names = [probe.name for probe in self.probes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise OptionError("probes", f"{twice[0]} is listed twice; list it once")
        if self.validation_share != 0.1 and self.on != "validation":
            raise OptionError("validation_share", f"{self.validation_share} needs on: validation")
        if not self.probes and (self.data or self.on == "validation"):
            raise OptionError("probes", "is empty, so evaluate.on and evaluate.data would do nothing")
        if taken := {"train", "test", "validation"} & set(self.data):
            raise OptionError(f"data.{min(taken)}", "this name is taken; choose another")
        return self


class CheckpointConfig(Options):
    """When checkpoints are written, beside those at interruptions and at the end, and which of them stay."""

    every_minutes: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Minutes between checkpoints; auto weighs what a save costs against what a crash loses."""

    every_steps: Count | None = None
    """Optimizer steps between checkpoints, beside `every_minutes`."""

    background: bool | Literal["always"] = True
    """Training goes on while these are written, from a copy in memory, unless the state is small: then it waits, as it
    does for false; always: whatever the size."""

    keep: Count = 3
    """Newest checkpoints that stay on disk."""

    keep_every_steps: Count | None = None
    """Checkpoints at multiples of this stay for ever."""


class TrackingConfig(Options):
    """How often metrics are written, and where to beside metrics.jsonl."""

    every_steps: Count = 50
    """Optimizer steps between rows."""

    mirrors: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of each mirror by its name, flat in YAML: `{wandb: {mode: offline}}`; checked by its own Config."""

    @model_validator(mode="before")
    @classmethod
    def gather(cls, value: Any) -> Any:
        if not isinstance(value, dict) or isinstance(value.get("mirrors"), dict):
            return value
        given = {name: options for name, options in value.items() if name != "every_steps" and options is not None}
        for name, options in given.items():
            if not isinstance(options, dict):
                known = did_you_mean(name, ["every_steps"])
                raise OptionError(name, f"unknown key; {known}; a mirror is a mapping, as in {name}: {{}}")
        return {key: value[key] for key in value if key == "every_steps"} | {"mirrors": given}

    @model_serializer
    def flatten(self) -> dict[str, Any]:
        return {"every_steps": self.every_steps, **self.mirrors}


class ResourcesConfig(Options):
    """What one trial runs on."""

    ranks: Count = 1
    """Processes that train together, one for each GPU where there are GPUs."""

    cpus_per_rank: Count = 1
    elastic: bool = False
    """Whether a checkpoint of another number of ranks is taken up; see `runner retry --elastic`."""


class RehearseConfig(Options):
    """Has the first trials interrupt themselves once, anywhere they run, to see them resume.

    For the quickstart, which has no scheduler. `runner rehearse` interrupts a trial from outside, by a real Slurm,
    and leaves this key out.
    """

    signal: Literal["USR2", "TERM", "KILL"] = "USR2"
    """USR2 and TERM are preemptions, KILL is a crash."""

    at_step: Count
    """Optimizer step after which the signal comes, once."""

    trials: Count = 1
    """The first so many trials are interrupted."""


class Trial(Options):
    """One run: an experiment file after sweep expansion and overrides."""

    name: Name
    """Name of the experiment; its trials share a folder of this name."""

    method: Selection
    """The loss, and the model around the encoder."""

    encoder: Selection
    """The network whose features are wanted."""

    data: Selection
    """The data set."""

    views: ViewsConfig = ViewsConfig()
    """How the views of each image are made."""

    optimizer: OptimizerConfig
    """The optimizer and its learning rate."""

    schedule: Selection = Selection(name="constant")
    """The learning rate over the steps, relative to that of the optimizer."""

    train: TrainConfig
    """Length, batch size, precision, seed."""

    evaluate: EvaluateConfig = EvaluateConfig()
    """When and how the encoder is evaluated."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the state is saved."""

    tracking: TrackingConfig = TrackingConfig()
    """When metrics are written, and where to."""

    resources: ResourcesConfig = ResourcesConfig()
    """Ranks, and CPUs for each."""

    init_from: str | None = None
    """Start from the weights in this file, which `runner export` writes; None: random weights."""

    rehearse: RehearseConfig | None = None
    """Interruptions on purpose; None: none."""

    search: SearchConfig | None = None
    """Where `sweep: search:` made the trial: which one it is of which search. Nobody writes it by hand."""

    @model_validator(mode="after")
    def check(self) -> Self:
        check_together(self)
        return self

    @property
    def init_path(self) -> Path | None:
        """`init_from` as a path, ~ expanded."""
        return None if self.init_from is None else Path(self.init_from).expanduser()


def check_together(trial: Trial) -> None:
    """Raise OptionError for a value that another group does not allow."""
    train, ranks = trial.train, trial.resources.ranks
    share = ranks * train.accumulate
    if train.batch_size % share:
        below = train.batch_size // share * share
        nearest = f"{below} or {below + share}" if below else f"{share}"
        divisor = f"{ranks} ranks x {train.accumulate} passes"
        problem = f"{train.batch_size} is not allowed; must be divisible by {divisor}, such as {nearest}"
        raise OptionError("train.batch_size", problem)
    if train.steps == 0 and trial.init_from is None:
        raise OptionError("train.steps", "0 trains nothing, so init_from must name the weights to evaluate")
    if train.steps == 0 and not trial.evaluate.probes:
        raise OptionError("evaluate.probes", "is empty and train.steps is 0: nothing would be done")
    if trial.rehearse is not None and train.steps is not None and trial.rehearse.at_step >= train.steps:
        problem = f"{trial.rehearse.at_step} is not allowed; must be less than train.steps, {train.steps}"
        raise OptionError("rehearse.at_step", problem)
    if trial.search is not None:
        check_search(trial.search, trial.evaluate)


def check_search(search: SearchConfig, evaluate: EvaluateConfig) -> None:
    """Raise OptionError for a metric that no evaluation gives, and for a pruner that would never be asked."""
    probes = [f"{data}/{probe.name}_" for data in (evaluate.on, *evaluate.data) for probe in evaluate.probes]
    if not search.metric.startswith(("train/", *probes)):
        problem = f"{show(search.metric)} is not allowed; must begin with {listed([*probes, 'train/'])}"
        raise OptionError("search.metric", problem)
    if search.pruner is None:
        return
    if search.metric.startswith("train/"):
        raise OptionError("search.pruner", f"needs the metric of an evaluation, and that is {search.metric}")
    if evaluate.every_steps is None and evaluate.every_epochs is None:
        raise OptionError("search.pruner", "needs evaluate.every_epochs or every_steps: it is asked at evaluations")
