"""What Slurm says of a job that it does not take, and the keys of the profile that it is about."""

import re
from dataclasses import dataclass

from runner.profile import Profile
from runner.strict_yaml import show


@dataclass(frozen=True)
class Refusal:
    """A pattern of what sbatch says, and what it is about."""

    pattern: str
    keys: tuple[str, ...]
    """Of the profile; a job that is asked for without any of them has its defaults."""

    is_final: bool = True
    """False where a node that is down for now makes the same words, and sbatch itself knows better."""


REFUSALS = (
    Refusal("invalid partition", ("partition",)),
    Refusal("invalid account|account/partition combination", ("account", "partition")),
    Refusal("invalid qos", ("qos", "account")),
    Refusal("time limit is invalid|TimeLimit", ("time_minutes",)),
    Refusal("invalid feature", ("constraint",)),
    Refusal("invalid node name", ("nodelist", "exclude")),
    Refusal("generic resource|gres", ("gpus_per_node",)),
    Refusal("memory|MaxMemPer", ("memory_gb",)),
    # Of the number of jobs, which is cut to what there is room for.
    Refusal("MaxSubmitJob|GrpSubmitJob", ("qos", "account"), is_final=False),
    Refusal("accounting/QOS policy", ("qos", "account", "time_minutes")),
    Refusal("not permitted to use|access/permission", ("partition", "account", "qos")),
    Refusal("node count|more processors|cpu count", ("cpus_per_task", "gpus_per_node", "partition")),
    Refusal(
        "node configuration is not available|partition not available|partition configuration",
        ("constraint", "gpus_per_node", "cpus_per_task", "memory_gb", "nodelist", "partition"),
        is_final=False,
    ),
)


def find_refusal(said: str) -> Refusal | None:
    """Which of the known ones it is."""
    return next((each for each in REFUSALS if re.search(each.pattern, said, re.IGNORECASE)), None)


def blame(refusal: Refusal, site: Profile) -> tuple[str, object]:
    """The key of the profile that is most likely at fault, and its value; None where the profile has none."""
    given = [key for key in refusal.keys if getattr(site, key) is not None]
    key = (given or refusal.keys)[0]
    return key, getattr(site, key)


def hint(said: str, site: Profile) -> str:
    """The keys that what sbatch says may be about, as more words to it; empty for what is not known."""
    refusal = find_refusal(said)
    if refusal is None:
        return ""
    given = [f"{key}: {show(value)}" for key in refusal.keys if (value := getattr(site, key)) is not None]
    return f"; the profile has {', '.join(given) or f'no {refusal.keys[0]}'}"
