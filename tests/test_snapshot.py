"""A snapshot is the state as it was, whatever happens to the original while it is being written."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from runner.snapshot import Snapshot, size_bytes
from tests.test_state import make_state

CPU = torch.device("cpu")


def tensors_of(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for item in items for tensor in tensors_of(item)]


def same(one, other) -> bool:
    """Equal in types, keys and every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def content_of(state) -> dict:
    return {"shared": state.shared(), "own": state.own()}


def test_a_snapshot_of_a_training_state_shares_nothing_with_it():
    state, other = make_state(steps=3), make_state(seed=1, steps=5)
    content = content_of(state)
    before = copy.deepcopy(content)
    copied = Snapshot(CPU).take(content)
    assert same(copied, before)
    live = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(content) if tensor.numel()}
    assert not live & {tensor.untyped_storage().data_ptr() for tensor in tensors_of(copied)}
    # Every tensor and every list or dict of the original changes under it.
    state.restore(other.shared(), other.own(), CPU)
    state.best["value"] = -1.0
    for tensor in tensors_of(content):
        tensor.detach().zero_()
    assert same(copied, before)


def test_buffers_are_used_again_and_follow_what_changes_its_shape():
    state, snapshot = make_state(steps=1), Snapshot(CPU)
    snapshot.reserve(content_of(state))
    reserved = [buffer.data_ptr() for buffer in snapshot._buffers]
    first = snapshot.take(content_of(state))
    assert [buffer.data_ptr() for buffer in snapshot._buffers] == reserved, "made by reserve"
    grown = content_of(make_state(steps=4, width=6))
    assert same(snapshot.take(grown), grown)
    assert first["shared"]["step"] == 1


def test_tied_weights_stay_tied_and_are_copied_once():
    weight = nn.Parameter(torch.randn(4, 4))
    copied = Snapshot(CPU).take({"a": weight, "b": [weight], "c": weight.t()})
    assert copied["a"].data_ptr() == copied["b"][0].data_ptr()
    assert torch.equal(copied["c"], weight.t())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_versions_and_types_are_kept(layout):
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)).to(memory_format=layout)
    content = {"model": model.state_dict(), "bytes": torch.arange(5, dtype=torch.uint8), "nothing": torch.empty(0)}
    copied = Snapshot(CPU).take(content)
    assert same(copied, content)
    assert isinstance(copied["model"], OrderedDict)
    assert copied["model"]._metadata == content["model"]._metadata
    assert copied["model"]["0.weight"].stride() == model[0].weight.stride()


def test_size_counts_tensors_alone():
    assert size_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int64), "text", 1.0]}) == 28


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("room", [0.9, 0.0], ids=["with room for a second copy", "without"])
def test_on_a_gpu_the_copy_is_of_the_step_though_the_next_one_is_queued_behind(monkeypatch, room):
    monkeypatch.setattr("runner.snapshot.ROOM", room)
    device = torch.device("cuda", 0)
    weights = [torch.full((1000, 1000), float(index), device=device) for index in range(8)]
    snapshot = Snapshot(device)
    for turn in range(3):
        copied = snapshot.take({"weights": weights, "step": torch.tensor(turn)})
        for weight in weights:
            weight.add_(1.0)
        snapshot.wait()
        for index, tensor in enumerate(copied["weights"]):
            assert tensor.is_pinned() and bool((tensor == index + turn).all())
        assert int(copied["step"]) == turn
