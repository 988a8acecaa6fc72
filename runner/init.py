"""`runner init`: a profile of this site from four questions, with what Slurm tells as the answers to begin with."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from runner import site
from runner.client import UnconfiguredError
from runner.errors import ConfigError
from runner.explain import OptionError
from runner.files import replacing
from runner.onebox import onebox_hint
from runner.profile import Profile, load_profile
from runner.schema import build
from runner.site import Answers, Cluster, Line

T = TypeVar("T")
Ask = Callable[[str, str, str], str]
"""(question, answer to begin with, why that) -> answer."""

PARALLEL_HERE = 2


def init(out: Path | None, ask: Ask) -> tuple[Path, str]:
    """Write a profile, and give its path and text; raises ConfigError for a file that is there.

    Raises: SubmissionError when there is a cluster and it does not answer.
    """
    if shutil.which("scontrol") is None:
        return _write_local(out, "no scontrol on PATH")
    try:
        cluster = site.read_cluster()
    except UnconfiguredError:
        print(f"runner: no slurm.conf, so this is a profile of this machine alone{onebox_hint()}", file=sys.stderr)
        return _write_local(out, "no slurm.conf")
    path = _place(out, cluster.name)
    lines = site.choose(cluster, interview(cluster, ask))
    return path, _write(path, lines, f"Cluster {cluster.name}, as `runner init` found it.")


def _write_local(out: Path | None, why: str) -> tuple[Path, str]:
    path = _place(out, "local")
    return path, _write(path, _here(), f"This machine, without a scheduler: {why}.")


def interview(cluster: Cluster, ask: Ask) -> Answers:
    """The four questions; a wrong answer is asked for again where somebody is there to hear it."""
    names = ", ".join(partition.name for partition in cluster.partitions)
    name, why = site.suggest_partition(cluster)
    partition = _ask(ask, f"partition ({names})", name, why, cluster.partition)
    first, why = next(iter(cluster.accounts), ""), "your default" if cluster.accounts else "the site's default"
    more = f" ({', '.join(cluster.accounts)})" if len(cluster.accounts) > 1 else ""
    account = _ask(ask, f"account, or account/QOS{more}", first or "-", why, _account)
    gpus = str(partition.node.gpus)
    gpus_per_node = _ask(ask, "GPUs per node", gpus, "by sinfo", lambda text: site.parse_gpus(text, partition))
    minutes, why = str(site.suggest_minutes(partition)), "shorter jobs start sooner; a longer trial is requeued"
    limit = _ask(ask, "time limit in minutes", minutes, why, lambda text: site.parse_minutes(text, partition))
    return Answers(partition.name, account, gpus_per_node, limit)


def _ask(ask: Ask, question: str, default: str, why: str, parse: Callable[[str], T]) -> T:
    while True:
        answer = ask(question, default, why).strip()
        try:
            return parse(answer)
        except ConfigError as error:
            if not sys.stdin.isatty():
                raise
            print(f"runner: {error}", file=sys.stderr)


def _account(text: str) -> str:
    if text == "-":
        return ""
    account, slash, qos = text.partition("/")
    for key, value in (("account", account), ("qos", qos)):
        if value or slash:
            try:
                build(Profile, {"cluster": "slurm", key: value})
            except OptionError as error:
                raise ConfigError(str(error)) from None
    return text


def _here() -> list[Line]:
    return [
        Line("cluster", "local", "no scheduler"),
        Line("parallel", PARALLEL_HERE, "trials at the same time; each has as many processes as ranks"),
        Line("max_failures", 3, "crashes of one trial"),
    ]


def _place(out: Path | None, name: str) -> Path:
    path = out or Path("slurm") / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}.yaml"
    if path.exists():
        raise ConfigError(f"{path}: is there already; give another with --out")
    return path


def _write(path: Path, lines: list[Line], title: str) -> str:
    text = site.render(lines, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())
    load_profile(path.absolute())
    return text
