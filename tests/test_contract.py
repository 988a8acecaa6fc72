"""The contract of plug-ins finds each way to break it; what is right passes, ours and a stranger's."""

import random

import numpy as np
import pytest
import torch

from runner import named
from runner.contract import check_dataset, check_encoder, check_method, check_schedule
from tests.packages import install, site

__all__ = ["site"]

METHOD = """
import random
import numpy
import torch
from torch import nn
from runner.group import Group
from runner.losses.nt_xent import nt_xent
from runner.method import Method
from runner.schema import Options

GLOBAL_VIEWS, LOCAL_VIEWS = (2, 2), False
GROUPLESS = Group()

class Config(Options): ...

def build(config, encoder, task):
    return Mine(encoder, task)

class Mine(Method):
    def __init__(self, encoder, task):
        super().__init__()
        self.encoder, self.group, self.seen = encoder, task.group, 0
        self.head = nn.Linear(encoder.width, 8)
        {init}

    def compute_loss(self, batch, step):
        one, two = (self.head(self.encoder(view)) for view in batch.global_views)
        loss = nt_xent(one, two, 0.5, self.group)
        {loss}
        return loss

    def encode(self, images):
        {encode}
        return self.encoder(images)

    {more}
"""
RIGHT = {"init": "pass", "loss": "pass", "encode": "pass", "more": "pass"}
FLAWS = {
    "negatives of its own rank": (
        {"loss": "loss = nt_xent(one, two, 0.5, GROUPLESS)"},
        r"the loss of step 0 is \S+ on one rank and \S+ on 2; gather what it compares",
    ),
    "a gradient of its own rank": (
        {"loss": "loss = loss + (one[0, 0] - one[0, 0].detach())"},
        r"the gradient of \S+ differs by .* on 2 ranks, the loss does not",
    ),
    "state that no checkpoint has": (
        {"loss": "self.seen += 1; loss = loss * (1 + 0.1 * self.seen)"},
        "resumed, it differs in .*; what must outlive a requeue is parameters, buffers and modules",
    ),
    "a parameter that is not used": (
        {"init": "self.spare = nn.Linear(3, 3)"},
        "no gradient reaches spare.weight, spare.bias; freeze them",
    ),
    "a hook that nobody calls": (
        {"more": "def after_step(self, step): ..."},
        'nobody calls after_step; did you mean "after_fit_step"',
    ),
    "a hook that takes something else": (
        {"more": "def after_fit_step(self): ..."},
        r"after_fit_step takes \['self'\], should take \['self', 'step'\]",
    ),
    "random": ({"loss": "loss = loss * (1 + random.random())"}, "draws from the global generator of the module random"),
    "numpy": ({"loss": "loss = loss * (1 + numpy.random.rand())"}, "draws from the global generator of numpy"),
    "a loss that is not finite": ({"loss": "loss = loss / 0"}, r"the first losses are \[inf, "),
    "features that depend on the batch": (
        {"encode": "return self.encoder(images) - self.encoder(images).mean(0)"},
        "features of a sample depend on the others of its batch",
    ),
    "evaluation that leaves traces": (
        {"init": "self.register_buffer('looks', torch.zeros(()))", "encode": "self.looks += 1"},
        "embed changes looks",
    ),
}


@pytest.fixture(autouse=True)
def as_before():
    """Whatever a check finds, nothing of it stays."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert (deterministic, threads) == (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())


@pytest.mark.ddp
def test_a_method_that_is_right(site):
    install(site, "my-lab", {"methods/mine": METHOD.format(**RIGHT)})
    check_method({"name": "mine"})


@pytest.mark.ddp
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_method_that_is_not(site, flaw):
    changes, problem = FLAWS[flaw]
    install(site, "my-lab", {"methods/mine": METHOD.format(**{**RIGHT, **changes})})
    with pytest.raises(AssertionError, match=f"^mine: .*{problem}"):
        check_method({"name": "mine"})


ENCODER = """
from itertools import count
import torch
from torch import nn
from runner.schema import Options

SEEN = count(1)

class Config(Options): ...

def build(config, channels):
    return Mine(channels)

class Mine(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.width, self.looks = 4, 0
        self.body = nn.Conv2d(channels, 4, 3)
        {init}

    def forward(self, images):
        features = self.body(images).mean((2, 3))
        {forward}
        return features
"""


@pytest.mark.parametrize(
    ("init", "forward", "problem"),
    [
        ("del self.width", "pass", "has no `width`"),
        ("self.width = 5", "pass", r"\(6, 4\) features, should be \(6, 5\)"),
        ("pass", "features = features.double()", "features are torch.float64"),
        ("pass", "features = features / 0", "features are not all finite"),
        ("self.spare = nn.Linear(2, 2)", "pass", "no gradient reaches spare.weight, spare.bias"),
        ("pass", "features = features - features.mean(0)", "depend on the others of its batch"),
        ("pass", "features = features + torch.rand(4)", "a second look gives other features"),
        ("self.register_buffer('n', torch.zeros(()))", "self.n += 1", "looking at samples .* changes its state"),
        ("pass", "self.eval()", "forward changes the mode"),
        ("self.scale = next(SEEN)", "features = features * self.scale", "one seed, two networks"),
    ],
)
def test_an_encoder_that_is_not_right(site, init, forward, problem):
    install(site, "my-lab", {"encoders/mine": ENCODER.format(init=init, forward=forward)})
    with pytest.raises(AssertionError, match=f"^mine: .*{problem}"):
        check_encoder({"name": "mine"})


SCHEDULE = """
from itertools import count
from runner.schema import Options

class Config(Options): ...

def build(config, steps):
    seen = count()
    return lambda step: {factor}
"""


@pytest.mark.parametrize(
    ("factor", "problem"),
    [
        ("1.0 - 2 * (step > 3)", "-1.0 at step 4 of 60; must be 0 or more"),
        ("float('nan')", "nan at step 0 of 60"),
        ("0.0", "is 0 at each of 60 steps"),
        ("1.0 / (1 + next(seen))", "is no function of the step"),
        ("step % 7 / 7", "goes on after the last step"),
        ("'1'", "gives '1' at step 0"),
    ],
)
def test_a_schedule_that_is_not_right(site, factor, problem):
    install(site, "my-lab", {"schedules/mine": SCHEDULE.format(factor=factor)})
    with pytest.raises(AssertionError, match=f"^mine: .*{problem}"):
        check_schedule({"name": "mine"})


DATASET = """
from itertools import count
import torch
from runner.dataset import ImageSet
from runner.schema import Options

{declared}
SEEN = count()

class Config(Options): ...

def build(config, split):
    images, labels = torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 2
    classes, mean, std = ("a", "b"), (0.5,), (0.5,)
    {change}
    return ImageSet(images, labels, classes, mean, std)
"""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("images = images.float()", "train: images are torch.float32, should be uint8"),
        ("images = images[:, 0]", r"train: images of shape \(6, 4, 4\)"),
        ("images = images.expand(6, 2, 4, 4)", "2 channels"),
        ("mean = (127.0,)", "mean .* is not of pixels scaled to 0..1"),
        ("mean = (0.5, 0.5)", "one number for each channel"),
        ("std = (0.0,)", "std .* is not of pixels"),
        ("labels = labels + 1", "labels from 1 to 2, should be 0 to 1"),
        ("labels = labels[:5]", "5 labels for 6 samples"),
        ("labels = labels.int()", "labels are torch.int32"),
        ("labels = None", "LABELS says 'one', but samples have none"),
        ("images, labels = images[:0], labels[:0]", "train: is empty"),
        ("images += torch.randint(255, (1,)).byte()", "draws from the global generator of torch"),
        ("images += next(SEEN)", "is not the same at a second look"),
        ("classes = ('a', 'b') if split == 'train' else ('b', 'a')", "the splits have other classes"),
    ],
)
def test_a_data_set_that_is_not_right(site, change, problem):
    install(site, "my-lab", {"data/mine": DATASET.format(declared='LABELS = "one"', change=change)})
    with pytest.raises(AssertionError, match=f"^mine.*{problem}"):
        check_dataset({"name": "mine"})


@pytest.mark.parametrize("name", [name for name in named.names("schedules") if name != "made_up"])
def test_our_schedules(name):
    check_schedule({"name": name})


@pytest.mark.parametrize(
    "options",
    [
        {"name": "fashion_mnist_sample", "limit": 100},
        {"name": "synthetic"},
        {"name": "synthetic", "channels": 3, "classes": 3, "samples": 7},
        {"name": "protein_localisation", "limit": 100, "max_length": 512, "motif": "span"},
    ],
    ids=lambda options: options["name"],
)
def test_our_data_sets_that_need_no_files(options):
    check_dataset(options)


TEXTS = {
    "bag_of_tokens": {"embedding_width": 8, "hidden_width": 8, "width": 8},
    "small_transformer": {},
    "sequence_cnn": {"embedding": 4, "channels": 5},
    "kmer": {"hidden": 8, "width": 6},
}


@pytest.mark.parametrize("name", TEXTS)
def test_our_encoders_of_records(name):
    check_encoder({"name": name, **TEXTS[name]}, inputs=26)


GROUPS = {
    "supcon_hard": {
        "method": {"supcon": {"n_pos": 2, "n_neg": 4, "hidden": 16, "width": 8}},
        "encoder": {"name": "sequence_cnn", **TEXTS["sequence_cnn"]},
        "data": {"name": "protein_localisation", "limit": 100, "max_length": 256},
    },
    "contrabin": {
        "method": {"freeze_anchor": False, "projection_width": 16},
        "encoder": {"name": "bag_of_tokens", **TEXTS["bag_of_tokens"], "token_dropout": 0.0},
        "data": {"name": "code_triples", "test_packages": ["zlib"], "limit": 48, "tokenizer": {"vocabulary": 512}},
    },
}


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["supcon_hard", pytest.param("contrabin", marks=pytest.mark.nightly)])
def test_our_methods_of_records(name):
    groups = GROUPS[name]
    check_method({"name": name, **groups["method"]}, encoder=groups["encoder"], data=groups["data"], views={})
