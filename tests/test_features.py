"""Frozen features: the right rows in order on any number of ranks, and a method that is left as it was."""

import copy

import pytest
import torch
from torch import nn

from runner.dataset import ImageSet, Records
from runner.errors import NonFiniteLossError
from runner.evaluate import check_finite
from runner.features import extract_features
from runner.group import Group
from runner.method import Method
from runner.precision import Precision
from tests.ranks import run_ranks


class Toy(Method):
    """Batch norm and dropout, which betray the training mode, and a part that its owner keeps frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.encoder.append(nn.Sequential(nn.Dropout(0.5), nn.Linear(36, 5)))
        self.frozen = nn.BatchNorm2d(2).eval()
        for norm in (self.encoder[1], self.frozen):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)

    def encode(self, images_BCHW):
        return self.encoder(self.frozen(images_BCHW))


def make_images(count, labelled=True):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 2, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator) if labelled else None
    return ImageSet(images, labels, ("a", "b", "c"), mean=(0.4, 0.5), std=(0.2, 0.3))


def encode_one_by_one(method, images):
    """The reference: every image alone, normalised by hand, in evaluation mode."""
    method = copy.deepcopy(method).eval()
    mean, std = torch.tensor(images.mean)[:, None, None], torch.tensor(images.std)[:, None, None]
    with torch.no_grad():
        return torch.cat([method.encode(((image / 255 - mean) / std)[None]) for image in images.images])


def extract_on_rank(group, count, batch_size):
    method, calls = Toy().train(), []
    found = extract_features(
        method,
        make_images(count),
        group,
        batch_size,
        before_batch=lambda index: calls.append(("before", index)),
        after_batch=lambda index: calls.append(("after", index)),
    )
    return found, calls


def interrupt_on_rank(group):
    """A collective check before each batch that raises on all ranks once one of them wants to stop."""
    method, checked = Toy().train(), []

    def check(index):
        checked.append(index)
        if group.agree_max(int(group.rank == 1 and index == 1)):
            raise InterruptedError(f"batch {index}")

    with pytest.raises(InterruptedError, match="batch 1"):
        extract_features(method, make_images(10), group, 2, before_batch=check)
    return checked, [part.training for part in method.modules()]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_equals_encoding_one_by_one(batch_size):
    method, images = Toy(), make_images(7)
    found = extract_features(method, images, Group(), batch_size)
    torch.testing.assert_close(found.features, encode_one_by_one(method, images))
    assert torch.equal(found.labels, images.labels)


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("world", "count", "batch_size"),
    [(2, 8, 2), (2, 9, 4), (3, 10, 2), (3, 2, 4)],
    ids=["even", "uneven", "an extra batch on one rank", "fewer images than ranks"],
)
def test_every_rank_gets_every_row_in_order(world, count, batch_size):
    expected = encode_one_by_one(Toy(), make_images(count))
    results = run_ranks(world, extract_on_rank, count, batch_size)
    for found, calls in results:
        torch.testing.assert_close(found.features, expected)
        assert torch.equal(found.labels, make_images(count).labels)
        assert torch.equal(found.features, results[0][0].features)
        assert calls == results[0][1], "callbacks may be collective calls: as many on every rank"
        assert [name for name, _ in calls] == ["before", "after"] * (len(calls) // 2)


@pytest.mark.ddp
def test_an_interruption_ends_all_ranks_alike_and_restores_the_mode():
    assert run_ranks(2, interrupt_on_rank) == [([0, 1], [part.training for part in Toy().train().modules()])] * 2


def test_leaves_the_method_as_it_was():
    """One reference system probes in training mode: batches leak into each other and the statistics move."""
    method = Toy()
    method.train()
    method.frozen.eval()
    before = copy.deepcopy(method.state_dict())
    extract_features(method, make_images(6), Group(), 2)
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert method.encoder[1].training and method.encoder[4][0].training and method.training
    assert not method.frozen.training


def test_the_mode_comes_back_when_a_callback_raises():
    method = Toy().train()

    def stop(index):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        extract_features(method, make_images(6), Group(), 2, after_batch=stop)
    assert method.encoder[1].training


def test_features_can_be_trained_on():
    """Inference tensors could not be saved for the backward pass of a probe."""
    found = extract_features(Toy(), make_images(6), Group(), 4)
    assert not found.features.requires_grad
    probe = nn.Linear(5, 3)
    nn.functional.cross_entropy(probe(found.features), found.labels).backward()
    assert probe.weight.grad.abs().sum() > 0


def test_precision_is_that_of_the_caller_and_features_are_float32():
    method, images = Toy(), make_images(6)
    full = extract_features(method, images, Group(), 3).features
    half = extract_features(method, images, Group(), 3, precision=Precision("bf16", torch.device("cpu"))).features
    assert full.dtype == half.dtype == torch.float32
    assert torch.equal(half, half.bfloat16().float()) and not torch.equal(full, full.bfloat16().float())
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


def test_images_without_labels_have_features_all_the_same():
    assert extract_features(Toy(), make_images(4, labelled=False), Group(), 2).labels is None


class Counts(Method):
    """Features and scores of records: how often each token occurs, and how long the sample is."""

    def embed(self, batch):
        tokens_BL = batch.columns["text"]
        counts = torch.stack([(tokens_BL == token).sum(1) for token in range(4)], 1)
        return {"features": counts.float(), "scores": (tokens_BL > 0).sum(1, keepdim=True).float()}


def test_records_give_every_output_by_name():
    tokens = torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.uint8)
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    records = Records({"text": tokens}, labels, ("a", "b"), 4, {"text": torch.tensor([2, 1, 4])})
    found = extract_features(Counts(), records, Group(), 2)
    assert torch.equal(found.features[:, 1:], torch.tensor([[1, 1, 0], [0, 0, 1], [4, 0, 0]]).float())
    assert torch.equal(found.others["scores"], torch.tensor([[2.0], [1.0], [4.0]]))
    assert torch.equal(found.labels, labels) and found.data is records


class Few(Toy):
    """A mistake that broadcasting would hide: one row for all samples, against which any label may be compared."""

    def encode(self, images_BCHW):
        return super().encode(images_BCHW)[:1]


def test_each_sample_has_a_row():
    with pytest.raises(ValueError, match="Few: embed gives 1 rows of features for 4 samples; it must give one each"):
        extract_features(Few(), make_images(6), Group(), 4)


def test_features_that_are_no_numbers_are_not_scored():
    check_finite(torch.zeros(3, 2), "test")
    with pytest.raises(NonFiniteLossError, match="the features of 1 of 3 samples of test became nan or inf"):
        check_finite(torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [1.0, 1.0]]), "test")
