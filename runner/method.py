"""What every method is: a model with its loss, and hooks that do nothing unless a method needs them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from runner.batch import Batch
from runner.config import Selection
from runner.dataset import Split
from runner.errors import ConfigError
from runner.group import Group

Losses = Tensor | Sequence[Tensor] | dict[str, Tensor]


class BreakEpoch(Exception):  # noqa: N818 - it is a request, not an error
    """Raised by a hook to end the epoch at this step, on all ranks; in an evaluation, to leave a data set out.

    An evaluation that leaves the training samples out, which come first, has no fitted probes and ends.
    """


class BreakAllEpochs(Exception):  # noqa: N818 - it is a request, not an error
    """Raised by a hook to end the training at this step, on all ranks; the trial is evaluated and done.

    In an evaluation it ends that, too: what is not evaluated by then is left out.
    """


class Output(NamedTuple):
    """What one forward pass gives the trainer."""

    loss: Tensor
    """The scalar to differentiate: the sum of the parts."""

    measurements: dict[str, Tensor | float]
    """Scalars to log without gradient: every part of the loss by name, and what the method measured.

    Numbers known on the host (a schedule's value) stay floats, so that logging them costs the device nothing.
    """


def _no_encoder(selection: Selection) -> nn.Module:
    raise NotImplementedError(f"this task builds no encoder {selection.name}")


@dataclass(frozen=True)
class Task:
    """What a method is told of the training it takes part in."""

    steps: int
    """Planned optimizer steps."""

    group: Group = field(default_factory=Group)
    steps_per_epoch: int = 1
    classes: tuple[str, ...] = ()
    """Of the labels, where the data have any."""

    seed: int = 0
    data: Split | None = None
    """The training samples, for methods that pick some by themselves; None in an evaluation without training."""

    build_encoder: Callable[[Selection], nn.Module] = _no_encoder
    """A further encoder of the same data, for an option of a method that selects one."""


class Method(nn.Module):
    """Base class of all methods; a subclass gives `compute_loss`, and `encode` (images) or `embed` (records).

    State that must survive a requeue lives in registered buffers, parameters and modules; stages and schedules
    are functions of the step, so nothing else has to be saved.
    """

    uses_all_parameters = True
    """False where the loss of some steps leaves trainable parameters out, as the stages of a curriculum do."""

    bystanders: frozenset[str] = frozenset({"probe"})
    """Groups of parameters that train beside the others and send them no gradient: each is clipped by its own norm."""

    may_break_off = True
    """False where no hook raises BreakEpoch or BreakAllEpochs: ranks then need not compare wishes after each step."""

    def forward(self, batch: Batch, step: int) -> Output:
        """The summed loss of this rank's rows, and what to log."""
        losses = self.compute_loss(batch, step)
        measured: dict[str, Tensor | float] = {}
        if isinstance(losses, tuple) and len(losses) == 2 and isinstance(losses[1], dict):
            losses, measured = losses
        named = name_losses(losses)
        total = torch.stack([part.float() for part in named.values()]).sum() if len(named) > 1 else named["loss"]
        parts = {name: part.detach() for name, part in named.items()}
        return Output(total, {"loss": total.detach(), **parts, **measured})

    def compute_loss(self, batch: Batch, step: int) -> Losses | tuple[Losses, dict[str, Tensor | float]]:
        """A loss, a list or a dict of losses (each logged, all summed), optionally with measurements to log."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_loss")

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) features for frozen evaluation."""
        raise NotImplementedError(f"{type(self).__name__} must define encode")

    def predict(self, batch: Batch) -> Tensor | None:
        """(B, classes) scores for supervised evaluation; None without a classifier."""
        return None

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """What evaluations get of a plain batch: `features`, `scores` if there is a classifier, and what a method adds.

        Each (B, ...). The default is for images, by `encode` and `predict`.
        """
        scores = self.predict(batch)
        found = {"features": self.encode(batch.global_views[0])}
        return found if scores is None else found | {"scores": scores}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by the names that `optimizer.groups` may use."""
        groups: dict[str, list[nn.Parameter]] = {"encoder": [], "head": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["encoder" if name.startswith("encoder.") else "head"].append(parameter)
        return groups

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone, such as a temperature."""
        return set()

    def before_fit(self) -> None: ...
    def before_fit_epoch(self, epoch: int) -> None: ...
    def before_fit_step(self, step: int) -> None: ...
    def after_fit_step(self, step: int) -> None: ...
    def after_fit_epoch(self, epoch: int) -> None: ...
    def before_eval(self) -> None: ...
    def before_eval_step(self, index: int) -> None: ...
    def after_eval_step(self, index: int) -> None: ...
    def after_eval(self) -> None:
        """Comes where an evaluation is cut off, too: take back what `before_eval` put in, before a state is saved."""

    def after_fit(self) -> None: ...


HOOKS = ("before_fit_epoch", "before_fit_step", "after_fit_step", "after_fit_epoch")
"""Those that may wish to end the epoch or the run."""


BREAK_EPOCH, BREAK_ALL = 1, 2


def wish(hook: Callable[..., None], *when: int) -> int:
    """Call a hook; what it raised to end the epoch or the run becomes a wish that the ranks agree on."""
    try:
        hook(*when)
    except BreakEpoch:
        return BREAK_EPOCH
    except BreakAllEpochs:
        return BREAK_ALL
    return 0


def may_break_off(method: Method) -> bool:
    """Whether the hooks of a method have to be listened to."""
    return method.may_break_off and any(getattr(type(method), hook) is not getattr(Method, hook) for hook in HOOKS)


def check_request(method: Method) -> None:
    """Raise ConfigError where a method breaks off that says it never does: other ranks would not hear of it."""
    if not method.may_break_off:
        raise ConfigError(
            f"{type(method).__name__}: a hook raised BreakEpoch or BreakAllEpochs, and may_break_off is False; "
            "set may_break_off = True in the class"
        )


def name_losses(losses: Losses) -> dict[str, Tensor]:
    """One tensor is `loss`; a list becomes loss_0, loss_1, ...; a dict keeps its names."""
    if not isinstance(losses, Tensor | dict | list | tuple):
        problem = f"compute_loss returned {type(losses).__name__}"
        raise TypeError(f"{problem}; must be a scalar tensor, or a list or a dict of them")
    if isinstance(losses, Tensor):
        losses = {"loss": losses}
    named = losses if isinstance(losses, dict) else {f"loss_{index}": loss for index, loss in enumerate(losses)}
    if not named:
        raise ValueError("compute_loss returned no loss at all")
    for name, loss in named.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            given = f"{tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(f"compute_loss: {name} is {given}; must be a tensor without dimensions")
    if len(named) > 1 and "loss" in named:
        raise ValueError('compute_loss: "loss" is the name of the sum; give its parts other names')
    return named if len(named) > 1 else {"loss": next(iter(named.values()))}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each part is back in its own mode, so that what was frozen stays frozen."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
