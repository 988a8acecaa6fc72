"""What a plan says of each trial, decided from values, and when it is no longer the same."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config import Trial
from runner.experiment import Change, load_experiment
from runner.grouped_yaml import GroupTexts, split_text
from runner.plan import ALIVE, Found, Item, Plan, compare, decide, decide_gone, find_move
from runner.plan_file import PlanFile, read_plan_file, write_plan_file
from runner.rundir import RunDir
from runner.status import STATES
from runner.strict_yaml import dump_yaml
from runner.sweep import trials
from tests.experiments import write_experiment

SLOWER = (Change("tracking.every_steps", 5, 50),)
LONGER = (Change("profile.time_minutes", 60, 240),)
WORLDS = [
    (None, "+", "submit"),
    (Found("pending"), "+", "submit"),  # a killed submission has left its folder
    (Found("pending", changes=SLOWER), "+", "submit"),
    (Found("pending", job="7"), ">", "nothing"),
    (Found("running", job="7", settled=False), ">", "nothing"),
    (Found("requeued", job="7", settled=False), ">", "nothing"),
    (Found("pending", job="7", settled=False, changes=SLOWER), "~", "nothing"),
    (Found("running", job="7", settled=False, changes=SLOWER), "~", "nothing"),
    (Found("running", job="7", settled=False, site_changes=LONGER), "~", "nothing"),
    (Found("done", job="7"), "=", "nothing"),
    (Found("done", job="7", changes=SLOWER, strands=True), "=", "nothing"),
    (Found("failed", job="7"), "!", "nothing"),
    (Found("failed", job="7", changes=SLOWER), "~", "update"),
    (Found("cancelled", job="7", changes=SLOWER), "~", "update"),
    (Found("cancelled", job="7"), "!", "nothing"),
    (Found("failed", job="7", site_changes=LONGER), "!", "nothing"),  # `runner retry --on` says where
    (Found("unknown", job="7"), "!", "submit"),  # its job is gone
    (Found("unknown", job="7", changes=SLOWER), "~", "submit"),
    (Found("unknown", job="7", settled=False), "!", "nothing"),  # it may be alive where we cannot ask
    (Found("unknown", job="7", damaged=True), "!", "nothing"),  # it may hold a result
    (Found("failed", job="7", changes=SLOWER, strands=True), "~", "nothing"),
    (Found("unknown", job="7", changes=SLOWER, strands=True), "~", "nothing"),
]


@pytest.mark.parametrize(("found", "mark", "action"), WORLDS)
def test_what_is_done_about_a_trial_of_the_file(found, mark, action):
    assert decide(found)[:2] == (mark, action)


@pytest.mark.parametrize(
    ("found", "action"),
    [
        (Found("pending", job="7", settled=False), "cancel"),
        (Found("running", job="7", settled=False), "cancel"),
        (Found("requeued", job="7", settled=False), "cancel"),
        (Found("pending"), "nothing"),
        (Found("done", job="7"), "nothing"),
        (Found("failed", job="7"), "nothing"),
        (Found("cancelled", job="7"), "nothing"),
        (Found("unknown", job="7"), "nothing"),
        (Found("unknown", job="7", settled=False), "nothing"),
    ],
)
def test_what_is_done_about_a_trial_that_is_gone_from_the_file(found, action):
    assert decide_gone(found)[:2] == ("-", action)


FOUND = st.builds(
    Found,
    state=st.sampled_from(STATES),
    settled=st.booleans(),
    job=st.sampled_from([None, "7"]),
    changes=st.sampled_from([(), SLOWER]),
    site_changes=st.sampled_from([(), LONGER]),
    strands=st.booleans(),
)
DAMAGED = st.builds(Found, state=st.just("unknown"), damaged=st.just(True), settled=st.booleans(), job=st.just("7"))


@given(FOUND | DAMAGED)
def test_finished_work_is_never_touched_and_a_trial_of_the_file_never_cancelled(found):
    decided, gone = decide(found), decide_gone(found)
    assert decided.action != "cancel" and gone.action in ("cancel", "nothing")
    if found.state in ("done", "failed", "cancelled") or found.damaged:
        assert decided.action != "submit" and gone.action == "nothing"
    if found.state == "done":
        assert decided == ("=", "nothing", "", ())
    if found.job is not None and (found.state in ALIVE or (found.state == "unknown" and not found.settled)):
        assert decided.action == "nothing", "what may be alive keeps its config and is not submitted again"


def item(trial: str = "aa", state: str = "new", **told: object) -> Item:
    values = {"mark": "+", "action": "submit", **told}
    return Item(RunDir(Path("runs/exp") / trial), state=state, **values)


def left(state: str, trial: str = "aa", **told: object) -> Item:
    return item(trial, state, **{"mark": ">", "action": "nothing", "job": "7", **told})


GONE = item(state="running", mark="-", action="cancel", job="7")
MOVES = [
    (item(), item(), ""),
    (item(), left("pending"), "trial aa: was new (submit), is pending as job 7 (nothing)"),
    (item(), None, "trial aa: was new (submit), is not there"),
    (None, item(), "trial aa: was not there, is new (submit)"),
    (left("pending"), left("running"), ""),
    (left("running"), left("requeued", job="8"), ""),
    (left("running"), left("done", mark="="), ""),  # what is left alone goes its way
    (
        left("running"),
        left("failed", mark="!"),
        "trial aa: was running as job 7 (nothing), is failed as job 7 (nothing)",
    ),
    (left("running"), item(state="running", mark="-", action="cancel", job="7"), "gone from the file (cancel)"),
    (left("done", mark="="), item(), "is new (submit)"),
    (GONE, GONE, ""),
    (GONE, replace(GONE, job="8"), "is running as job 8 and gone from the file (cancel)"),
    (GONE, replace(GONE, state="pending"), "is pending as job 7"),
    (GONE, replace(GONE, state="done", action="nothing"), "is done as job 7 and gone from the file (nothing)"),
    (
        item(state="failed", mark="~", action="update", changes=SLOWER),
        item(state="failed", mark="~", action="update", changes=(Change("tracking.every_steps", 5, 9),)),
        "is failed with tracking.every_steps was 5, is 9 (update)",
    ),
]


def test_what_has_stopped_is_counted_by_how():
    items = [left(state, mark="!") for state in ("failed", "cancelled", "cancelled", "unknown")]
    summary = Plan("exp", (*items, left("done", mark="="), item())).summary()
    assert summary == "exp: 6 trials in the file: 1 new, 1 failed, 2 cancelled, 1 unknown, 1 done; 1 to submit"


@pytest.mark.parametrize(("shown", "now", "words"), MOVES)
def test_what_moved_is_named(shown, now, words):
    plans = [Plan("exp", (each,) if each else ()) for each in (shown, now)]
    move = find_move(*plans)
    assert bool(move) is bool(words) and words in move


def test_new_settings_for_what_is_submitted_are_a_move():
    plan = Plan("exp", (item(),), {"tracking": {"every_steps": 5}}, {"partition": "a", "parallel": 2})
    assert find_move(plan, plan) == ""
    slower = replace(plan, settings={"tracking": {"every_steps": 9}})
    assert find_move(plan, slower) == "file.tracking.every_steps was 5, is 9"
    mirrored = replace(plan, settings={"tracking": {"every_steps": 5, "tensorboard": {}}})
    assert find_move(plan, mirrored) == "file.tracking.tensorboard was null, is {}"
    assert find_move(mirrored, plan) == "file.tracking.tensorboard was {}, is null"
    own = replace(mirrored, settings={"tracking": {"every_steps": 5, "tensorboard": {"x": 1}}})
    assert find_move(mirrored, own) == "file.tracking.tensorboard.x was null, is 1"
    elsewhere = replace(slower, site={"partition": "b", "parallel": 2})
    assert find_move(plan, elsewhere) == "profile.partition was a, is b (+1 more)"


def test_a_plan_of_thousands_is_readable():
    states = ["done"] * 9000 + ["failed"] * 500 + ["running"] * 500
    found = {RunDir(Path("runs/exp") / f"{i:010x}"): Found(state, job="7") for i, state in enumerate(states)}
    named = {run: {"train.seed": i} for i, run in enumerate(found)}
    new = RunDir(Path("runs/exp/ffffffffff"))
    plan = Plan("exp", compare({**named, new: {"train.seed": 10_000}}, found, {}))
    lines = plan.lines()
    assert len(lines) < 30
    assert lines[0] == "+ ffffffffff  new        submit   train.seed=10000"
    assert "= ... and 8994 more done; --all shows them" in lines
    assert lines[-1] == "exp: 10001 trials in the file: 1 new, 500 failed, 500 alive, 9000 done; 1 to submit"
    assert len(plan.lines(every=True)) == 10_002
    assert len(replace(plan, items=plan.items[:40]).lines()) == 41, "a small plan is shown whole"


def test_a_plan_comes_back_from_its_file_and_an_edited_one_is_refused(tmp_path):
    plan = Plan("exp", (item(), replace(GONE, run=RunDir(Path("/r/exp/bb")), changes=SLOWER)), {"tracking": {}}, {})
    plan = replace(plan, items=tuple(replace(each, run=RunDir(Path("/r/exp") / each.trial)) for each in plan.items))
    # Names of files need not be text.
    file = PlanFile(Path("/e.yaml"), ["train.seed=1"], "/p.yaml", Path("/r"), plan, Path("/bad\udcff"))
    write_plan_file(path := tmp_path / "p.json", file)
    assert read_plan_file(path) == file
    path.write_text(path.read_text().replace('"cancel"', '"nothing"'))
    with pytest.raises(Exception, match="does not have its sha256"):
        read_plan_file(path)
    path.write_text(path.read_text()[:500])
    with pytest.raises(Exception, match="no whole plan"):
        read_plan_file(path)


def test_groups_dumped_one_by_one_are_the_whole(tmp_path):
    sweep = {"grid": {"optimizer.lr": [1e-3, 0.1], "evaluate.probes": [["knn"], []]}, "seeds": [0, 1]}
    texts = GroupTexts()
    for _, trial in trials(load_experiment(write_experiment(tmp_path, sweep=sweep, rehearse={"at_step": 3}))):
        whole = dump_yaml(trial.model_dump(mode="json"))
        assert "".join(texts.of(trial).values()) == whole
        assert split_text(whole) == texts.of(trial) and list(texts.of(trial)) == list(Trial.model_fields)
