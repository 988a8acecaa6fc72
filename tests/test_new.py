"""`runner new`: what it writes works as it stands there, keeps the contracts, and replaces nothing."""

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import runner
from runner import named, new
from runner.cli import run
from runner.contract import check_dataset, check_encoder, check_method, check_schedule
from runner.errors import ConfigError
from runner.new import KINDS, add_entry_point, find_place, make, plan_files
from runner.profile import load_profile
from runner.verify import verify_resume
from tests.packages import install_project, lent

CHECKOUT = Path(runner.__file__).parents[1]
CHECKS = {"method": check_method, "dataset": check_dataset, "encoder": check_encoder, "schedule": check_schedule}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with one of each kind, as somebody would make it in an empty folder, and install."""
    root = tmp_path_factory.mktemp("project")
    for kind in KINDS:
        make(kind, f"first_{kind}", Path("my_lab"), root)
    install_project(root)
    with pytest.MonkeyPatch.context() as patch, lent(root, patch):
        patch.chdir(root)
        yield root


@pytest.fixture(autouse=True)
def restore_torch():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_its_contract(project, kind):
    CHECKS[kind]({"name": f"first_{kind}"})


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_debugged_from_the_file_beside_it(project, kind, capfd):
    assert run(["debug", f"experiments/first_{kind}/debug.yaml", "--steps", "6"]) == 0
    assert "done after 6 steps" in capfd.readouterr().out


@pytest.mark.parametrize("kind", ["dataset", "encoder", "schedule"])
def test_its_test_passes(project, kind):
    spec = importlib.util.spec_from_file_location("its_test", project / "tests" / f"test_first_{kind}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, f"test_first_{kind}_keeps_the_contract")()


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_documented_and_says_what_to_change(project, kind):
    module = named.load(KINDS[kind].family, f"first_{kind}")
    assert all(field.description for field in module.Config.model_fields.values())
    assert "Works as it is" in module.__doc__ and "What to change" in module.__doc__
    text = (project / "my_lab" / f"first_{kind}.py").read_text()
    assert "new_name" not in text and "NewName" not in text


def tool(name: str) -> str:
    path = shutil.which(name, path=Path(sys.executable).parent)
    if path is None:
        pytest.skip(f"{name} not found; get it with: pip install -e '.[dev]'")
    return path


def test_ruff_finds_nothing(project):
    for words in (["check"], ["format", "--check"]):
        command = [tool("ruff"), *words, "--no-cache", "--config", str(CHECKOUT / "pyproject.toml")]
        command += ["--config", 'lint.isort.known-first-party=["runner", "my_lab"]', str(project)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_every_template_is_shipped():
    patterns = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["runner"]
    for path in new.TEMPLATES.iterdir():
        shipped = path.suffix == ".py" or any(path.relative_to(new.PACKAGE).match(pattern) for pattern in patterns)
        assert shipped or path.name == "__pycache__", path


@pytest.mark.nightly
def test_mypy_finds_nothing(project, tmp_path):
    command = [tool("mypy"), "--config-file", str(CHECKOUT / "pyproject.toml"), "--cache-dir", str(tmp_path)]
    done = subprocess.run([*command, str(project / "my_lab")], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout


@pytest.mark.nightly
@pytest.mark.ddp
def test_a_new_method_is_verified_on_two_ranks(project, tmp_path):
    path = project / "experiments" / "first_method" / "debug.yaml"
    verdict = verify_resume(path, [], tmp_path, ranks=2, kills=2, steps=12)
    assert verdict.equal, verdict.difference


def test_in_a_checkout_each_file_has_its_place(tmp_path):
    place = find_place("methods", None, CHECKOUT / "tests")
    assert place.is_ours and place.module == "runner.methods"
    written = [str(path.relative_to(CHECKOUT)) for path in plan_files("method", "second", place)]
    assert written == [
        "runner/methods/second.py",
        "experiments/second/debug.yaml",
        "tests/methods/test_second.py",
    ]
    with pytest.raises(ConfigError, match=r"is in no checkout of runner; give a package .* --into my_lab"):
        find_place("methods", None, tmp_path)
    with pytest.raises(ConfigError, match="is in a checkout of runner; give a package beside it") as refused:
        find_place("methods", Path("my_lab"), CHECKOUT / "experiments")
    way = str(refused.value).rpartition("such as ")[2]
    place = find_place("methods", Path(way), CHECKOUT / "experiments")
    assert place.folder == CHECKOUT.parent / "my_lab" / "my_lab" and place.root == place.folder.parent


@pytest.mark.parametrize("into", [".", "full", "../above/new", "{tmp_path}", "{tmp_path}/above/new"])
def test_a_project_is_not_strewn_over_a_folder_of_other_things(tmp_path, monkeypatch, into):
    for folder in ("above", "here/full"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"pyproject\.toml lies beside the package's folder and would go to /"):
        make("method", "mine", Path(into.format(tmp_path=tmp_path)), tmp_path / "here")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("into", ["my_lab", "../new/my_lab", "../empty/my_lab"])
def test_a_project_begins_here_or_in_a_folder_of_its_own(tmp_path, into):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    made = make("method", "mine", Path(into), tmp_path / "here")
    assert (tmp_path / "here" / into).resolve().parent / "pyproject.toml" in made.written


def test_sources_under_src_and_projects_with_other_tests(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "my-lab"\nversion = "1"\n')
    made = make("encoder", "wide", Path("src/my_lab/parts"), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in made.written] == [
        "src/my_lab/parts/wide.py",
        "src/my_lab/parts/__init__.py",
        "experiments/wide/debug.yaml",
    ]
    assert made.changed == [tmp_path / "pyproject.toml"]
    points = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points == {"runner.encoders": {"wide": "my_lab.parts.wide"}}
    assert made.following == ["pip install -e .", "runner debug experiments/wide/debug.yaml"]


@pytest.mark.parametrize(
    "name", ["", "two-views", "Two", "2views", "class", "_hidden", "../up", "tab\t", "ünter", "a.b", "x" * 3 + "\n"]
)
def test_what_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"^new method: .* is not allowed; must be a small letter"):
        make("method", name, Path("my_lab"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("method", "simclr", "it is runner.methods.simclr of runner"),
        ("method", "config", "Config is another class in its file"),
        ("method", "x" * 59, "must be at most 58 letters"),
        ("metod", "x", "there is method, dataset, encoder, schedule, profile"),
        ("profile", "../x", "use letters, digits"),
    ],
)
def test_what_is_taken_is_refused(tmp_path, kind, name, problem):
    with pytest.raises(ConfigError, match=problem):
        make(kind, name, Path("my_lab"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["my_lab/mine.py", "experiments/mine/debug.yaml", "tests/test_mine.py"])
def test_nothing_is_overwritten_and_nothing_is_half_written(tmp_path, there):
    (tmp_path / there).parent.mkdir(parents=True)
    (tmp_path / there).write_text("mine")
    (tmp_path / "my_lab").mkdir(exist_ok=True)
    (tmp_path / "my_lab" / "__init__.py").write_text("mine")
    with pytest.raises(ConfigError, match=f"{there}: is there already; nothing is overwritten"):
        make("method", "mine", Path("my_lab"), tmp_path)
    there_still = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert there_still == {tmp_path / there, tmp_path / "my_lab" / "__init__.py"}


PROJECT = '[project]\nname = "x"  # mine\n'


@pytest.mark.parametrize(
    "before",
    [
        PROJECT,
        PROJECT + '\n[project.entry-points."runner.methods"]\nother = "x.other"\n\n[tool.x]\ny = 1\n',
        PROJECT + '[project.entry-points]\n"runner.data" = {d = "x.d"}\n',
        PROJECT.rstrip("\n"),
    ],
)
def test_a_line_is_added_to_a_project_and_nothing_else_changes(before):
    after = add_entry_point(before, "methods", "mine", "x.mine", "pyproject.toml")
    old, new_ = tomllib.loads(before), tomllib.loads(after)
    assert new_["project"]["entry-points"].get("runner.methods", {}).pop("mine") == "x.mine"
    if not new_["project"]["entry-points"]["runner.methods"]:
        del new_["project"]["entry-points"]["runner.methods"]
    if not new_["project"]["entry-points"]:
        del new_["project"]["entry-points"]
    assert new_ == old
    assert set(before.splitlines()) <= set(after.splitlines())


@pytest.mark.parametrize(
    "before",
    [
        "",
        "not = toml =",
        "[tool.poetry]\nname = 'x'\n",
        PROJECT + 'dynamic = ["entry-points"]\n',
        PROJECT + '[project.entry-points]\n"runner.methods" = {d = "x.d"}\n',
        PROJECT + '[project.entry-points."runner.methods"]\nmine = "x.other"\n',
    ],
)
def test_a_project_that_says_it_in_another_way_is_left_alone(before):
    with pytest.raises(ConfigError, match=r'^pyproject.toml: cannot be added to; write under .* by hand: mine = "x.m'):
        add_entry_point(before, "methods", "mine", "x.mine", "pyproject.toml")


def test_a_new_profile_loads_and_says_what_it_leaves_out(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["new", "profile", "a100-80gb"]) == 0
    assert "next: runner doctor --on slurm/a100-80gb.yaml" in capfd.readouterr().out
    site = load_profile("a100-80gb")
    assert (site.cluster, site.partition, site.time_minutes) == ("slurm", None, 240)
    assert run(["new", "profile", "a100-80gb"]) == 2
    assert "is there already; nothing is overwritten" in capfd.readouterr().err


def test_the_command_line_says_what_was_written_and_what_comes_next(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["new", "method", "two_views", "--into", "my_lab"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "wrote my_lab/two_views.py",
        "wrote my_lab/__init__.py",
        "wrote experiments/two_views/debug.yaml",
        "wrote tests/test_two_views.py",
        "wrote pyproject.toml",
        "package my_lab: pyproject.toml lies beside this folder",
        "next: pip install -e . && runner debug experiments/two_views/debug.yaml",
    ]
    assert new.class_name("two_views") == "TwoViews"
