"""Whether a site would take the jobs of a profile, asked on the login node: hours in the queue tell the same later."""

import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from runner.client import UnansweredError, call
from runner.config import ResourcesConfig
from runner.errors import SubmissionError
from runner.explain import OptionError, counted, did_you_mean, listed
from runner.layout import layout
from runner.limits import Cluster, Longest
from runner.packing import count_cpus, count_gpus
from runner.profile import NODE_LOCAL, Profile
from runner.refusals import blame, find_refusal
from runner.slurm_text import Node, parse_duration
from runner.strict_yaml import show

SHELL_SECONDS = 20
"""For a login shell to start and load what a profile loads."""

IMAGES = (".sif", ".sqsh", ".simg", ".img")
_TOO_OLD = 'case "$(module --version 2>&1)" in *"Release 3."* | *VERSION=3.*) exit 0 ;; esac'
_MODULE = re.compile(r"[\w.+/-]+")


def check_modules(site: Profile) -> None:
    """Raise OptionError for a `module load` of the profile that names what is not there.

    Asks a login shell, as a job has one, and loads them in order, since some show others. Where no shell knows
    `module`, or one too old to say what there is (3.2), nothing is asked.
    """
    wanted = list_modules(site.setup)
    if not wanted or shutil.which("bash") is None:
        return
    lines = [
        f"module is-avail {name} >&2 && module load {name} >&2 || echo {name}" for name in map(shlex.quote, wanted)
    ]
    script = "\n".join(["type module >/dev/null 2>&1 || exit 0", _TOO_OLD, *lines])
    try:
        words = ["bash", "-l", "-c", script]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SHELL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return
    if missing := [line for line in done.stdout.splitlines() if line in wanted]:
        problem = "is not allowed; there is no such module on this machine"
        elsewhere = f"where nodes have others, write: module load {missing[0]} || exit 1"
        raise OptionError("setup", f"module load {missing[0]} {problem}; {elsewhere}")


def check_container(site: Profile) -> None:
    """Raise OptionError for a container whose command or image is not there, where this machine would have it too."""
    words = shlex.split(site.container or "")
    if not words:
        return
    # Lines of setup may bring the command, and only the job knows what a variable holds.
    if not site.setup and "$" not in words[0] and shutil.which(words[0]) is None:
        problem = "is not allowed; there is no such command on this machine, and no setup that loads it"
        raise OptionError("container", f"{words[0]} {problem}")
    for word in words:
        image = Path(word).expanduser()
        is_known = image.suffix in IMAGES and image.is_absolute() and "$" not in word
        if is_known and not image.exists() and not any(map(image.is_relative_to, NODE_LOCAL)):
            raise OptionError("container", f"{word} is not allowed; there is no such image")


def list_modules(setup: Iterable[str]) -> list[str]:
    """The modules that lines `module load A B` of a profile name, in order; a line that does more is left alone."""
    found = []
    for line in setup:
        words = line.split()
        if words[:2] in (["module", "load"], ["module", "add"], ["ml", "load"]) and all(
            map(_MODULE.fullmatch, words[2:])
        ):
            found += words[2:]
    return found


def check_cluster(
    site: Profile,
    cluster: Cluster,
    kinds: Mapping[ResourcesConfig, str],
    trials: Mapping[ResourcesConfig, int] = MappingProxyType({}),
) -> None:
    """Raise OptionError, with the profile's key where that can be told, for jobs that would never run.

    `kinds` has an sbatch script for each kind of resources, and Slurm says of each whether it would take it; `trials`
    says how many such a job holds, where that is not one.
    """
    for name in [] if site.partition is None else site.partition.split(","):
        if cluster.partitions and name not in cluster.partitions:
            raise OptionError("partition", f"{show(name)} is not allowed; {did_you_mean(name, cluster.partitions)}")
    partitions = cluster.partitions_of(site)
    limits = {name: parse_duration(facts.get("MaxTime", "")) for name, facts in partitions.items()}
    longest = max((limit if limit is not None else math.inf for limit in limits.values()), default=math.inf)
    if site.time_minutes * 60 > longest:
        which = listed([f"partition {name}" for name in limits])
        problem = f"{site.time_minutes} is not allowed; {which} has a limit of {longest / 60:.0f}"
        raise OptionError("time_minutes", problem)
    own = [node for node in cluster.nodes if node.partition in partitions]
    for resources, script in kinds.items():
        check_nodes(site, resources, own, trials.get(resources, 1))
        check_accepted(site, script)


def check_time(site: Profile, longest: Longest | None) -> None:
    """Raise OptionError for a time limit above what the user's account or QOS allows."""
    if longest is not None and site.time_minutes * 60 > longest.seconds:
        problem = f"{site.time_minutes} is not allowed; {longest.words} is {longest.seconds / 60:.0f}"
        raise OptionError("time_minutes", problem)


def check_nodes(site: Profile, resources: ResourcesConfig, nodes: Sequence[Node], trials: int = 1) -> None:
    """Raise OptionError where no node is large enough, whether it is up or not: Slurm lets such jobs wait for ever."""
    count, tasks = layout(resources.ranks, site.gpus_per_node)
    cpus, gpus = tasks * (site.cpus_per_task or resources.cpus_per_rank), tasks if site.gpus_per_node else 0
    what = "trial"
    if site.is_packed:
        cpus, gpus = count_cpus(site, resources, trials), count_gpus(site, resources, trials)
        what = f"job of {counted(trials, 'trial')}"
    needs: dict[str, tuple[str, float, list[float]]] = {
        "cpus_per_task": ("CPUs", cpus, [node.cpus for node in nodes]),
        "memory_gb": ("GB", site.memory_gb or 0, [node.memory_gb for node in nodes]),
        "gpus_per_node": ("GPUs", gpus, [node.gpus for node in nodes]),
    }
    if not nodes:
        return
    for key, (unit, needed, there) in needs.items():
        if needed > max(there):
            problem = f"{needed:g} {unit} on a node, and the largest has {max(there):g}"
            raise OptionError(key, f"{show(getattr(site, key))} is not allowed; a {what} takes {problem}")
    fitting = sum(all(there[place] >= needed for _, needed, there in needs.values()) for place in range(len(nodes)))
    if fitting < count:
        needed_of_each = ", ".join(f"{needed:g} {unit}" for unit, needed, _ in needs.values() if needed)
        problem = f"a trial takes {counted(count, 'node')} with {needed_of_each}, and there are {fitting} of them"
        raise OptionError("resources.ranks", f"{resources.ranks} is not allowed; {problem}")


def check_accepted(site: Profile, script: str) -> None:
    """Raise OptionError for a script that sbatch says it would refuse; asked once, and not at all costs."""
    try:
        call("sbatch", "--test-only", text=script)
    except UnansweredError:
        return
    except SubmissionError as error:
        said = str(error).removeprefix("sbatch: ")
        refusal = find_refusal(said)
        if refusal is not None and refusal.is_final:
            key, value = blame(refusal, site)
            raise OptionError(key, f"{show(value)} is not allowed; Slurm says: {said}") from error
