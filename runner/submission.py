"""Every path inside the folder of a submission, ROOT/<experiment>/.submissions/<submission>/."""

from dataclasses import dataclass
from pathlib import Path

from runner.local_queue import MANIFEST
from runner.rundir import RunDir

SUBMISSIONS = ".submissions"
"""Folder, in that of an experiment, with a folder for each array: profile, list of trials, job files."""

GIVEN_UP = "0"
"""In place of a number, of a submission that Slurm never got, as far as it said."""


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
        """A run folder a line, element by element of the array."""
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
    def others(self) -> Path:
        """Where they run after others: a run folder a line, each of which must have a result."""
        return self.path / "after.txt"

    def read_number(self) -> str | None:
        """The number of the array; None before it is known."""
        try:
            return self.number.read_text().strip() or None
        except FileNotFoundError:
            return None

    def members(self) -> list[RunDir]:
        """The trials, by their index in the array; none before they are known."""
        try:
            return [RunDir(Path(line)) for line in self.manifest.read_text().splitlines()]
        except FileNotFoundError:
            return []
