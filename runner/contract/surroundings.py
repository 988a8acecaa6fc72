"""What a check must leave as it found it, and what plug-ins must not touch."""

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from runner import named
from runner.config import Selection
from runner.schema import Options
from runner.state import rng_untouched


@contextmanager
def undisturbed() -> Iterator[None]:
    """Afterwards the random generators, torch's settings and the umask are as before."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    umask = os.umask(0o077)
    try:
        with rng_untouched():
            yield
    finally:
        os.umask(umask)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


@contextmanager
def no_global_draws(name: str, of_torch: bool = False) -> Iterator[None]:
    """Raise AssertionError if what is done inside draws from a generator that all share.

    torch's own may be drawn from while training, as dropout does: its state is saved, and each rank has its own.
    """
    before, torch_before = (random.getstate(), _numpy_state()), torch.get_rng_state()
    yield
    problem = f"{name}: draws from the global generator of %s: what it draws depends on what others have drawn before"
    assert random.getstate() == before[0], problem % "the module random"
    assert _numpy_state() == before[1], problem % "numpy"
    assert not of_torch or torch.equal(torch.get_rng_state(), torch_before), (
        problem % "torch; give it a torch.Generator"
    )


def _numpy_state() -> tuple[bytes, int]:
    state = np.random.get_state(legacy=False)["state"]
    return state["key"].tobytes(), int(state["pos"])


def resolve(family: str, config: Mapping[str, Any]) -> tuple[str, Options]:
    """Name and options of a plug-in, from the mapping in an experiment file; raises ConfigError."""
    selection = Selection.model_validate(dict(config))
    return selection.name, named.resolve(family, selection)
