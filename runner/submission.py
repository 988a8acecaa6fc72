"""Every path inside the folder of a submission, ROOT/<experiment>/.submissions/<submission>/."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.files import replacing
from runner.rundir import RunDir

MANIFEST = "trials.txt"
"""The list of a submission's trials; see `SubmissionDir.manifest`."""

SUBMISSIONS = ".submissions"
"""Folder, in that of an experiment, with a folder for each array: profile, list of trials, job files."""

GIVEN_UP = "0"
"""In place of a number, of a submission that Slurm never got, as far as it said."""

SLURM_CLUSTER = "slurm_cluster"
"""In a row of jobs.jsonl, the ClusterName of a Slurm job; where it is missing, that of the Slurm at hand is meant."""


@dataclass(frozen=True)
class SubmissionDir:
    """The folder of one job array, or of one local queue."""

    path: Path

    @property
    def profile(self) -> Path:
        return self.path / "profile.yaml"

    @property
    def resources(self) -> Path:
        return self.path / "resources.json"

    @property
    def manifest(self) -> Path:
        """A line for each element of the array, with the run folders of its trials, of several with tabs between.

        No run root has a tab in its path.
        """
        return self.path / MANIFEST

    @property
    def jobs(self) -> Path:
        """What submitit reads and writes, and where the jobs print."""
        return self.path / "jobs"

    @property
    def pickle(self) -> Path:
        """What every element of the array runs."""
        return self.jobs / "array.pkl"

    @property
    def script(self) -> Path:
        """What sbatch is given; Slurm knows the job by this path."""
        return self.jobs / "array.sh"

    @property
    def number(self) -> Path:
        """The number of the array, once Slurm has given it one. Another job with the same script ends at once."""
        return self.path / "number.txt"

    @property
    def cluster(self) -> Path:
        """The name of the cluster that it is sent to, as far as Slurm says it."""
        return self.path / "cluster.txt"

    @property
    def others(self) -> Path:
        """Where they run after others: a run folder a line, each of which must have a result."""
        return self.path / "after.txt"

    def read_number(self) -> str | None:
        """The number of the array; None before it is known."""
        return _read_word(self.number)

    def read_cluster(self) -> str | None:
        """The name of the cluster that it was sent to; None where nobody wrote it down."""
        return _read_word(self.cluster)

    def elements(self) -> list[list[RunDir]]:
        """The trials of each element, by its index in the array; none before they are known."""
        try:
            return read_elements(self.manifest)
        except FileNotFoundError:
            return []

    def members(self) -> list[RunDir]:
        """All trials."""
        return [run for element in self.elements() for run in element]

    def write_elements(self, elements: Iterable[Sequence[RunDir]]) -> None:
        lines = ["\t".join(str(run.path) for run in element) for element in elements]
        with replacing(self.manifest) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())


def read_elements(manifest: Path) -> list[list[RunDir]]:
    """What `SubmissionDir.elements` finds in a manifest. Raises: FileNotFoundError."""
    return [[RunDir(Path(path)) for path in line.split("\t")] for line in manifest.read_text().splitlines()]


def _read_word(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None


def describe_job(job_id: str, cluster: str | None, *, is_packed: bool) -> dict[str, Any]:
    """What a row of jobs.jsonl says of a job of Slurm: of which cluster, and whether it holds several trials."""
    named = {SLURM_CLUSTER: cluster} if cluster else {}
    packed = {"packed": True} if is_packed else {}
    return {"cluster": "slurm", "job_id": job_id, "host": os.uname().nodename, **named, **packed}


def is_row_of(row: Mapping[str, Any], submission: Path) -> bool:
    """Whether a row of jobs.jsonl is of this submission: by its name, which no other has.

    A run root may be reached by a link, and have been by another.
    """
    return Path(row["submission"]).name == submission.name


def index_of(job_id: str) -> int:
    """The place in its array of a job, `123_4`; a submission of one element is no array."""
    return int(job_id.partition("_")[2] or 0)
