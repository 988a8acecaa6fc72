"""Evaluate frozen features with the trial's probes; every part of it can be interrupted by a preemption."""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

from runner import named
from runner.batch import Batch
from runner.dataset import Records, Split
from runner.errors import NonFiniteLossError
from runner.facts import Facts
from runner.faults import NO_FAULTS, Faults
from runner.features import FrozenFeatures, extract_features
from runner.group import Group
from runner.heartbeat import Pulse
from runner.loader import fetch, plain_batch, train_batch
from runner.method import BREAK_ALL, BreakAllEpochs, BreakEpoch, Method, check_request, evaluating, wish
from runner.preemption import Preemption
from runner.schema import Options
from runner.strict_yaml import is_number
from runner.views_config import ViewsConfig

POLL_SECONDS = 0.2
BATCH_SIZE = 256
"""Samples in one forward pass of one rank; large enough to be fast, small enough to hear a signal soon."""


def evaluate(
    method: Method,
    probes: Mapping[str, Options],
    train: Split | None,
    tests: Mapping[str, Split],
    *,
    group: Group,
    preemption: Preemption,
    seed: int,
    views: ViewsConfig,
    faults: Faults = NO_FAULTS,
    pulse: Pulse | None = None,
) -> tuple[dict[str, float], bool]:
    """The probes' metrics as `<data set>/<probe>_<metric>`, and whether a hook wants no more training; collective.

    `probes` maps a module of runner/evaluation to its options; they are fitted on `train` and scored on each of
    `tests`. A probe whose options are `samples` and `views` gets so many random views of the first samples.
    Each batch and each probe counts as progress in `pulse`. Raises: Interrupted on all ranks alike.
    """
    pulse = pulse or Pulse()
    sync_buffers(method, group)

    def before_batch(index: int) -> None:
        pulse.at("evaluate.batch")
        faults.at("evaluate.batch")
        preemption.check(group)
        obey(heed(method, "before_eval_step", group, index))

    extract = partial(
        extract_features,
        method,
        group=group,
        batch_size=BATCH_SIZE,
        before_batch=before_batch,
        after_batch=lambda index: obey(heed(method, "after_eval_step", group, index)),
    )

    def extract_views(test: Split, samples: int, count: int) -> Tensor:
        some = test.subset(torch.arange(min(samples, len(test))))
        batches = (partial(_view_batch, views=views, seed=seed, number=number) for number in range(count))
        return torch.stack([extract(some, make_batch=make_batch).features for make_batch in batches], 1)

    def run_probe(name: str, test: Split, known: FrozenFeatures | None, unknown: FrozenFeatures) -> dict[str, float]:
        probe, config = named.load("evaluation", name), probes[name]
        if hasattr(config, "samples") and hasattr(config, "views"):
            unknown = unknown._replace(others={"views": extract_views(test, config.samples, config.views)})
        work = partial(probe.run, config, known, unknown, device=group.device, seed=seed)
        pulse.at("evaluate.probe")
        found = run_on_main(work, group, preemption)
        check_numbers(name, found)
        return found

    metrics: dict[str, float] = {}
    is_enough = False
    try:
        obey(heed(method, "before_eval", group))
        known = extract(train) if train is not None and fits(probes) else None
        if known is not None:
            check_finite(known.features, "the training set")
        for data_name, test in tests.items():
            with suppress(BreakEpoch):  # a hook leaves this data set out
                unknown = extract(test)
                check_finite(unknown.features, data_name)
                for name in probes:
                    found = run_probe(name, test, known, unknown)
                    metrics |= {f"{data_name}/{name}_{metric}": value for metric, value in found.items()}
    except BreakEpoch:  # it leaves out what probes are fitted on, and so all of them
        pass
    except BreakAllEpochs:
        is_enough = True
    except BaseException:
        # An interruption, say: what is saved then is what trains, not what a hook has put in its place.
        wish(method.after_eval)
        raise
    return metrics, heed(method, "after_eval", group) == BREAK_ALL or is_enough


def check_finite(features_ND: Tensor, data: str) -> None:
    """Raise NonFiniteLossError for features of which a probe would make some number all the same."""
    if not bool(features_ND.isfinite().all()):
        count = int((~features_ND.isfinite().all(dim=1)).sum())
        raise NonFiniteLossError(f"the features of {count} of {len(features_ND)} samples of {data} became nan or inf")


def check_numbers(probe: str, found: Mapping[str, object]) -> None:
    """Raise TypeError for what a probe gives that is no number: results are tables of numbers."""
    for metric, value in found.items():
        if not is_number(value):
            raise TypeError(f"evaluation {probe}: {metric} is {value!r}; must be a number")


def heed(method: Method, hook: str, group: Group, *index: int) -> int:
    """Call a hook of an evaluation; what any rank wishes then, the same on all. A collective call."""
    if getattr(type(method), hook) is getattr(Method, hook):
        return 0
    request = wish(getattr(method, hook), *index)
    if method.may_break_off:
        request = group.agree_max(request)
    elif request:
        check_request(method)
    return request


def obey(request: int) -> None:
    """Raise what a wish was made from, on all ranks."""
    if request:
        raise BreakAllEpochs if request == BREAK_ALL else BreakEpoch


def check_probes(
    method: Method, probes: Mapping[str, Options], train: Split | None, tests: Mapping[str, Split], group: Group
) -> None:
    """Raise OptionError for a probe that could not work, by what the method gives of one sample; a collective call."""
    if not probes or not tests:
        return
    with torch.no_grad(), evaluating(method):
        outputs = tuple(method.embed(plain_batch(next(iter(tests.values())), torch.arange(1), group.device)))
    known = None if train is None else _facts(train, outputs)
    for data_name, test in tests.items():
        where = "" if data_name in ("test", "validation") else f" (evaluate.data.{data_name})"
        for name, config in probes.items():
            named.check_probe(name, config, known, _facts(test, outputs), where)


def _facts(data: Split, outputs: tuple[str, ...]) -> Facts:
    texts = tuple(data.texts) if isinstance(data, Records) else ()
    if data.labels is None:
        return Facts(outputs, "none", texts, data)
    return Facts(outputs, "one" if data.labels.ndim == 1 else "several", texts, data)


def _view_batch(
    data: Split, ids_B: Tensor, device: torch.device, *, views: ViewsConfig, seed: int, number: int
) -> Batch:
    """Random views of some samples, other ones for each `number`."""
    return train_batch(data, fetch(data, ids_B, device), views, seed, number)


def fits(probes: Iterable[str]) -> bool:
    """Whether any of the probes is fitted on training samples."""
    return any(getattr(named.load("evaluation", name), "FITS", True) for name in probes)


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
