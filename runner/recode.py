"""Let trials go on with the code of today instead of that which they were submitted with."""

from pathlib import Path

from runner.code_changes import compare_code, summarize
from runner.code_snapshot import code_of, home_of, read_package
from runner.errors import ConfigError
from runner.explain import counted
from runner.files import read_json, set_aside
from runner.provenance import DIFF_FILE, FOLDER, NONCE, collect, write_origin
from runner.rundir import RunDir


def recode(runs: list[RunDir], root: Path, command: list[str]) -> list[str]:
    """Give trials of a run root a snapshot of today's code, and say for each code of theirs what changes.

    What they were made from so far is kept as provenance.1.json, or .2 and so on.
    """
    document, diff = collect(command, root)
    home = home_of(root, document["snapshot"]["code"])
    before: dict[Path | None, list[RunDir]] = {}
    for run in runs:
        before.setdefault(_known_code(run), []).append(run)
    before.pop(home, None)
    for members in before.values():
        for run in members:
            kept = {key: value for key, value in (read_json(run.provenance) or {}).items() if key in (NONCE, FOLDER)}
            for path in (run.provenance, run.path / DIFF_FILE):
                set_aside(path)
            write_origin(run, ({**document, NONCE: None, **kept}, diff))
    return [f"{counted(len(members), 'trial')}: {_tell(old, home)}" for old, members in before.items()]


def _known_code(run: RunDir) -> Path | None:
    try:
        return code_of(run)
    except ConfigError:
        return None


def _tell(old: Path | None, new: Path) -> str:
    if old is None:
        return f"code {new.name} from now on; there is no copy of what it was"
    changes = compare_code(read_package(old / "runner"), read_package(new / "runner"))
    return f"code {new.name} from now on, was {old.name}: {summarize(changes)}"
