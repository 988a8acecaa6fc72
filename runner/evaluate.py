"""Evaluate frozen features with the trial's probes; every part of it can be interrupted by a preemption."""

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from runner import named
from runner.dataset import ImageSet
from runner.features import extract_features
from runner.group import Group
from runner.method import Method
from runner.preemption import Preemption
from runner.schema import Options

POLL_SECONDS = 0.2
BATCH_SIZE = 256
"""Images in one forward pass of one rank; large enough to be fast, small enough to hear a signal soon."""

T = TypeVar("T")


def evaluate(
    method: Method,
    probes: Mapping[str, Options],
    train: ImageSet,
    test: ImageSet,
    *,
    group: Group,
    preemption: Preemption,
    seed: int,
) -> dict[str, float]:
    """The probes' metrics as `test/<probe>_<metric>`, the same on every rank; a collective call.

    `probes` maps a module of runner/evaluation to its options. Raises: Interrupted on all ranks alike.
    """
    sync_buffers(method, group)
    method.before_eval()

    def before_batch(index: int) -> None:
        preemption.check(group)
        method.before_eval_step(index)

    known, unknown = (
        extract_features(
            method,
            images,
            group,
            BATCH_SIZE,
            before_batch=before_batch,
            after_batch=method.after_eval_step,
        )
        for images in (train, test)
    )
    metrics: dict[str, float] = {}
    for name, config in probes.items():
        probe = named.load("evaluation", name)
        found = run_on_main(
            lambda probe=probe, config=config: probe.run(  # type: ignore[misc]
                config, known, unknown, device=group.device, seed=seed
            ),
            group,
            preemption,
        )
        metrics |= {f"test/{name}_{metric}": value for metric, value in found.items()}
    method.after_eval()
    return metrics


def sync_buffers(method: Method, group: Group) -> None:
    """Give every rank rank 0's buffers, so that all ranks evaluate one model; doing it twice changes nothing."""
    if group.world > 1:
        for buffer in method.buffers():
            torch.distributed.broadcast(buffer, 0, group=group.data)


def run_on_main(work: Callable[[], dict[str, float]], group: Group, preemption: Preemption) -> dict[str, float]:
    """Do `work` on rank 0 in a thread while all ranks go on watching for signals; its result on every rank.

    Raises: Interrupted on all ranks when one was signalled (the thread is abandoned and dies with the process).
    """
    finished = threading.Event()
    found: list[dict[str, float]] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            found.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    if group.is_main:
        threading.Thread(target=body, name="probe", daemon=True).start()
    while not group.agree_max(int(group.is_main and finished.wait(POLL_SECONDS))):
        preemption.check(group)
    if group.agree_max(int(bool(errors))):
        raise errors[0] if errors else RuntimeError("a probe failed on rank 0; see its log")
    result = group.broadcast_json(found[0] if found else None)
    assert isinstance(result, dict)
    return result
