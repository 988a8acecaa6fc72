"""What is new about new_name, in one line, with its paper: this one finds the other view of an image (InfoNCE).

Works as it is. What to change: the options in `Config`, the parts in `__init__`, the loss in `compute_loss`.

Shapes: B samples on this rank, D width of the projections.
"""

from pydantic import Field
from torch import Tensor, nn

from runner.batch import Batch
from runner.losses.nt_xent import nt_xent
from runner.method import Method, Task
from runner.schema import Options

GLOBAL_VIEWS, LOCAL_VIEWS = (2, 2), False
"""At least, and at most, so many views of an image; no small ones."""


class Config(Options):
    """The options in the experiment file, each with a type, its bounds, a default and a line of text."""

    width: int = Field(64, ge=1)
    """Width of the projections that are compared."""

    temperature: float = Field(0.5, gt=0)
    """Cosines are divided by it."""


def build(config: Config, encoder: nn.Module, task: Task) -> "NewName":
    """The model around `encoder`; `task` knows the planned steps, the ranks, the classes and the seed."""
    return NewName(config, encoder, task)


class NewName(Method):
    """State that is to outlive a requeue is parameters, buffers and modules; the rest is a function of the step."""

    def __init__(self, config: Config, encoder: nn.Module, task: Task) -> None:
        super().__init__()
        self.encoder, self.group, self.temperature = encoder, task.group, config.temperature
        self.projector = nn.Linear(int(encoder.width), config.width)  # type: ignore[arg-type]

    def compute_loss(self, batch: Batch, step: int) -> Tensor:
        """A loss of this rank's rows, or a dict of losses by name: each is logged, all are summed.

        A loss that compares samples gathers those of all ranks by `self.group`, as those in runner.losses do.
        """
        one_BD, two_BD = (self.projector(self.encoder(view)) for view in batch.global_views)
        return nt_xent(one_BD, two_BD, self.temperature, self.group)

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) features of images as they are, which the evaluations look at."""
        features: Tensor = self.encoder(images_BCHW)
        return features

    # Hooks, such as after_fit_step(self, step) for a teacher that follows its student: runner/method.py has them all.
