"""Slurm's command-line tools, called in one place: what they may take and print, and when they are asked again.

A controller that restarts, fails over or drowns in requests answers again in seconds or minutes. Such an answer is
worth another try, after a pause that grows and is drawn at random, so that many who wait do not all come back at once;
every other answer is final.
"""

import itertools
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

from runner.errors import SubmissionError

TIMEOUT_SECONDS = 30
"""For one call. Slurm's own MessageTimeout is 10 by default, and its tools give up after that."""

QUESTION_PATIENCE_SECONDS = 5.0
"""Somebody is waiting for the answer."""

MOST_LINES = 3
"""Of what a tool says that fails: the last says that it failed, those before why."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0

_TRANSIENT = re.compile(
    "socket timed out|unable to contact slurm controller|zero bytes were transmitted"
    "|connection (refused|reset|timed out)|transport endpoint is not connected|controller in standby|try again later"
    "|unable to connect to database|problem talking to the database|persistent connection",
    re.IGNORECASE,
)


_UNCONFIGURED = re.compile("could not establish a configuration source|_establish_config_source", re.IGNORECASE)


class UnknownJobError(SubmissionError):
    """Slurm has no such job; it forgets ended ones after MinJobAge, five minutes by default."""


class UnconfiguredError(SubmissionError):
    """Slurm's tools are installed, and nothing tells them of a cluster."""


class UnansweredError(SubmissionError):
    """Slurm did not answer; what was ordered may be done all the same."""


def ask(tool: str, *arguments: str, patience_seconds: float = QUESTION_PATIENCE_SECONDS) -> str:
    """What a tool of Slurm prints; no new try begins after `patience_seconds`.

    Raises: SubmissionError, one line; of these UnknownJobError, UnconfiguredError and UnansweredError.
    """
    deadline = time.monotonic() + patience_seconds
    for pause in pauses():
        try:
            return call(tool, *arguments).stdout
        except UnansweredError:
            if time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
    raise AssertionError("pauses do not end")


def pauses(draw: random.Random | None = None) -> Iterator[float]:
    """Seconds to wait before the second try, the third and so on: twice as long each time, less up to half of it."""
    draw = draw or random.Random()
    for number in itertools.count():
        yield min(FIRST_PAUSE_SECONDS * 2 ** min(number, 16), LONGEST_PAUSE_SECONDS) * draw.uniform(0.5, 1)


def is_transient(said: str) -> bool:
    """Whether what a tool said means that Slurm may answer the same question in a moment."""
    return _TRANSIENT.search(said) is not None


def call(tool: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """One try, with `text` on stdin; raises as `ask` does."""
    path = shutil.which(tool)
    if path is None:
        raise SubmissionError(f"{tool} not found: this machine has no Slurm, or PATH does not reach it")
    try:
        done = subprocess.run(
            [path, *arguments],
            env=_environment(tool),
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        words = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        said = f", and said: {words[-1]}" if words else ""
        raise UnansweredError(f"{tool} did not answer within {TIMEOUT_SECONDS} seconds{said}") from None
    if done.returncode:
        everything = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        said = "; ".join(dict.fromkeys(map(_strip, everything.splitlines()[-MOST_LINES:])))
        if "Invalid job id specified" in said:
            raise UnknownJobError(f"{tool}: {said}")
        if _UNCONFIGURED.search(everything):
            raise UnconfiguredError(f"{tool}: Slurm is installed here, but has no slurm.conf and finds none by DNS")
        raise (UnansweredError if is_transient(everything) else SubmissionError)(f"{tool}: {said}")
    return done


def _strip(line: str) -> str:
    """What a line says, without who says it and that it is an error."""
    return re.sub(
        r"^(\w+: )?(error: )?(batch job submission failed: |allocation failure: )?", "", line, flags=re.IGNORECASE
    )


def _environment(tool: str) -> dict[str, str]:
    """Without variables that change what the tools print, with times in unix seconds and lists in full.

    sbatch hands its own on to the job, so it gets what there is.
    """
    if tool == "sbatch":
        return dict(os.environ)
    changes = ("SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changes)}
    return kept | {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
