"""What a checkpoint records of the machine, and what a resume says of it."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from threadpoolctl import threadpool_info

from runner.exactness import gather_facts, library_versions, why_inexact
from runner.group import Group

FACTS = """
from runner.exactness import gather_facts
from runner.group import Group
print(gather_facts(Group(), True)["blas"])
"""


def test_the_same_process_is_exact_and_another_library_is_not():
    facts = gather_facts(Group(), deterministic=True)
    assert why_inexact(facts, facts) == []
    assert why_inexact({**facts, "torch": "1"}, facts) == [f"torch was 1, is {facts['torch']}"]
    assert why_inexact({key: facts[key] for key in facts if key != "blas"}, facts)[0].startswith(
        "blas was not recorded"
    )


def test_the_library_that_a_model_is_from_is_recorded():
    import transformers

    part = transformers.BertModel(transformers.BertConfig(vocab_size=8, hidden_size=8, num_attention_heads=1))
    assert library_versions(torch.nn.Sequential(part, torch.nn.Linear(8, 8))) == {
        "transformers": transformers.__version__
    }


def test_kernels_of_a_gpu_are_exact_only_where_they_are_told_to_be():
    facts = {"device": "H100", "deterministic": False, "processor": "A"}
    assert "train.deterministic: true" in why_inexact(facts, facts)[0]
    assert why_inexact({**facts, "deterministic": True, "processor": "B"}, {**facts, "deterministic": True}) == []


def test_kernels_that_a_variable_chooses_are_told_apart():
    """A linear probe by scikit-learn ends elsewhere with other kernels of OpenBLAS, on the same processor."""
    if platform.machine() != "x86_64" or not any(each["internal_api"] == "openblas" for each in threadpool_info()):
        pytest.skip("numpy's BLAS is another one")
    told = []
    for kernels in ("Haswell", "Nehalem"):
        environment = {**os.environ, "OPENBLAS_CORETYPE": kernels}
        done = subprocess.run(
            [sys.executable, "-c", FACTS], env=environment, capture_output=True, text=True, check=True
        )
        told.append(done.stdout.strip())
    assert told == ["Haswell", "Nehalem"]
