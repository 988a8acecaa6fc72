"""ContraBin: its losses and stages, what is frozen, what a requeue must keep, ranks that agree."""

import pytest
import torch
from pydantic import ValidationError

from runner.batch import Batch
from runner.config import OptimizerConfig, Selection
from runner.dataset import Records
from runner.encoders import bag_of_tokens, lsa
from runner.errors import ConfigError
from runner.experiment import load_experiment
from runner.files import read_rows
from runner.group import Group
from runner.losses.info_nce import info_nce
from runner.losses.soft_targets import soft_target_cross_entropy
from runner.method import Task
from runner.methods.contrabin import MODALITIES, Config, Curriculum, build
from runner.named import resolve_trials
from runner.optimizer import build_optimizer
from runner.sweep import trials
from tests.experiments import fingerprint, prepare_run, train_on_ranks, write_experiment
from tests.golden import cases, load_golden

VOCABULARY = 50
SMALL = {"embedding_width": 12, "hidden_width": 16, "width": 8, "dropout": 0.0, "token_dropout": 0.0}
STAGES = {"naive": 4, "linear": 2, "nonlinear": 2}
FEW_TOKENS = {"source_length": 32, "binary_length": 32, "comment_length": 8, "tokenizer": {"vocabulary": 256}}
RUN = {
    "without": ("method", "encoder", "data", "views"),
    "method": {"name": "contrabin", "freeze_anchor": False, "projection_width": 8, "curriculum": STAGES},
    "encoder": {"name": "bag_of_tokens", **SMALL},
    "data": {"name": "code_triples", "test_packages": ["lua"], "limit": 96, **FEW_TOKENS},
    "optimizer": {"groups": {"encoder": {"lr": 1e-2}}, "weight_decay": 1e-2},
    "train": {"steps": 8, "batch_size": 24},
    "schedule": {"warmup_steps": 2},
    "tracking": {"every_steps": 1},
}


def make_encoder(seed=0, **options):
    torch.manual_seed(seed)
    return bag_of_tokens.build(bag_of_tokens.Config(**{**SMALL, **options}), VOCABULARY)


def make(steps=8, task=None, **options):
    encoder = make_encoder()
    options = {"projection_width": 6, "dropout": 0.0, "curriculum": STAGES, **options}
    return build(Config(**options), encoder, task or Task(steps))


def make_batch(rows=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    columns = {name: torch.randint(1, VOCABULARY, (rows, 7), generator=generator) for name in MODALITIES}
    return Batch(columns=columns, ids=torch.arange(rows))


def prepare(folder, **groups):
    merged = {name: {**RUN.get(name, {}), **group} for name, group in groups.items()}
    return prepare_run(folder, **{**RUN, **merged})


def losses_of(run, name="train/loss"):
    return [row[name] for row in read_rows(run.metrics) if name in row]


def test_the_losses_of_each_stage_are_those_of_the_paper():
    method, batch = make(), make_batch()
    source, binary, comment = (method.embed(batch)[name] for name in MODALITIES)
    primary = [soft_target_cross_entropy(x, binary, 0.1, Group(), normalize=True) for x in (source, comment)]
    for step, stage in enumerate(["naive"] * 4 + ["linear"] * 2 + ["nonlinear"] * 2):
        found = method.compute_loss(batch, step)
        torch.testing.assert_close([found["source_binary"], found["comment_binary"]], primary)
        if stage == "naive":
            assert "intermediate" not in found
        else:
            between = method.interpolations[stage](source, comment)
            torch.testing.assert_close(found["intermediate"], info_nce(between, binary, 0.1, Group()))
        output = method(batch, step)
        torch.testing.assert_close(output.loss, sum(found.values()))


def test_the_primary_loss_of_the_original_code_can_be_asked_for():
    """Not normalised, second direction with transposed targets, one temperature: what upstream computes."""
    for case, temperature in zip(
        cases(golden := load_golden("contrabin_losses")), golden["temperature"].tolist(), strict=True
    ):
        options = {"normalize": False, "second_direction": "transposed", "primary_temperature": temperature}
        found = make(**options).compare(case["a"], case["b"])
        torch.testing.assert_close(found, case["primary"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"naive": 1, "linear": 0, "nonlinear": 0}, ["naive"] * 4),
        ({"naive": 1, "linear": 1, "nonlinear": 0}, ["naive"] * 2 + ["linear"] * 2),
        ({"naive": 0, "linear": 0, "nonlinear": 1}, ["nonlinear"] * 4),
        ({"naive": 10, "linear": 5, "nonlinear": 5}, ["naive"] * 2 + ["linear", "nonlinear"]),
    ],
)
def test_stages_can_be_left_out(shares, expected):
    assert [Curriculum(**shares).stage(step, 4) for step in range(4)] == expected


def test_the_published_curriculum_is_the_default():
    assert Curriculum() == Curriculum(naive=10, linear=5, nonlinear=5) == Config().curriculum


def test_interpolation_has_no_gradient_in_the_naive_stage():
    """18 tensors of a reference system: DDP must be told, and an optimizer must not decay them meanwhile."""
    method = make()
    assert not method.uses_all_parameters
    used = {}
    for step in (0, 4, 6):
        method.zero_grad()
        method(make_batch(), step).loss.backward()
        used[step] = {name for name, p in method.named_parameters() if p.requires_grad and p.grad is None}
    interpolations = {name for name, _ in method.named_parameters() if name.startswith("interpolations.")}
    assert len(interpolations) == 18 and used[0] == interpolations
    assert used[4] == {name for name in interpolations if ".nonlinear." in name}
    assert used[6] == {name for name in interpolations if ".linear." in name}


def test_a_frozen_anchor_stays_as_it_is():
    """In evaluation mode whatever mode is asked for, without gradients, while its copy for binary code trains."""
    method = make(task=Task(8)).train()
    assert not method.encoder.training and method.binary_encoder.training and method.heads.training
    method(make_batch(), 6).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.encoder.parameters())
    assert all(p.grad is not None for p in method.binary_encoder.parameters())
    assert not method.eval().binary_encoder.training and not method.train().encoder.training


def test_an_anchor_that_is_not_frozen_trains():
    """A reference system's switch for it has no effect: its parameters are frozen anyway."""
    method = make(freeze_anchor=False).train()
    assert method.encoder.training
    method(make_batch(), 0).loss.backward()
    assert all(p.grad is not None for p in method.encoder.parameters())


def test_the_binary_encoder_is_a_copy_or_one_of_its_own():
    method = make()
    assert method.binary_encoder is not method.encoder
    states = method.encoder.state_dict(), method.binary_encoder.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    heads = [method.heads[name].state_dict() for name in MODALITIES]
    assert all(torch.equal(heads[0][name], head[name]) for head in heads[1:] for name in head)
    task = Task(8, build_encoder=lambda selection: make_encoder(seed=1, **selection.options))
    own = Selection(name="bag_of_tokens", options={"width": 5})
    assert make(task=task, binary_encoder=own).embed(make_batch())["features"].shape == (10, 5)


def make_pairs(rows=60, seed=0):
    """Records whose three texts say one thing each in words of their own, and other things besides."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(0, 6, (rows, 1), generator=generator)
    columns = {}
    for place, name in enumerate(MODALITIES):
        noise = torch.randint(20, VOCABULARY, (rows, 6), generator=generator)
        columns[name] = torch.cat([1 + topic + 6 * place, noise], dim=1)
    return Records(columns, topic[:, 0], (), VOCABULARY)


def make_with_data(**options):
    torch.manual_seed(0)
    encoder = lsa.build(lsa.Config(width=30, token_dropout=0.0), VOCABULARY)
    options = {"projection_width": 6, "dropout": 0.0, "curriculum": STAGES, **options}
    return build(Config(**options), encoder, Task(8, data=make_pairs()))


def test_encoders_that_learn_from_texts_are_given_those_they_read():
    method, data = make_with_data(), make_pairs()
    anchor, binary = (lsa.build(lsa.Config(width=30), VOCABULARY) for _ in range(2))
    anchor.fit(data.columns["source"], data.columns["comment"])
    binary.fit(data.columns["binary"])
    for fitted, expected in ((method.encoder, anchor), (method.binary_encoder, binary)):
        assert all(torch.equal(a, b) for a, b in zip(fitted.buffers(), expected.buffers(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(fitted.parameters(), expected.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in method.encoder.parameters())


@pytest.mark.parametrize("head", ["linear", "nonlinear"])
def test_heads_may_begin_from_what_correlates(head):
    """What is new is told by its topic before any training, and not by random heads."""
    new, right = make_pairs(seed=1), {}
    for start in ("random", "canonical"):
        found = make_with_data(start=start, head=head).eval().embed(Batch(columns=new.columns))
        nearest = torch.cdist(found["comment"], found["binary"]).argmin(dim=1)
        right[start] = (new.labels[nearest] == new.labels).float().mean().item()
    assert right["canonical"] > 0.8 > 0.5 > right["random"]


def test_a_frozen_copy_is_refused():
    with pytest.raises(ConfigError, match=r"nothing to train; freeze by method\.freeze_anchor"):
        build(Config(), make_encoder().requires_grad_(False), Task(8))


def test_an_anchor_that_its_own_option_freezes_stays_frozen():
    config = Config(freeze_anchor=False, binary_encoder=Selection(name="bag_of_tokens"))
    method = build(config, make_encoder().requires_grad_(False), Task(8, build_encoder=lambda _: make_encoder(1)))
    assert not any(p.requires_grad for p in method.encoder.parameters())
    assert all(p.requires_grad for p in method.binary_encoder.parameters())


def test_embeddings_of_all_modalities():
    method, batch = make().eval(), make_batch()
    found = method.embed(batch)
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "features": (10, 8),
        "source": (10, 6),
        "binary": (10, 6),
        "comment": (10, 6),
    }
    assert torch.equal(found["features"], method.binary_encoder(batch.columns["binary"]))


def test_the_anchor_says_whose_share_the_weight_is():
    batch = make_batch()
    methods = [make(anchor=name) for name in ("source", "binary", "comment")]
    for method in methods:
        method.load_state_dict(methods[0].state_dict())
    source, binary, comment = (method(batch, 6).measurements["intermediate"] for method in methods)
    assert source == binary != comment


def test_groups_and_rates():
    method = make(freeze_anchor=False)
    config = OptimizerConfig(lr=1e-3, groups={"encoder": {"lr": 1e-5}})
    rates = {group["name"]: group["base_lr"] for group in build_optimizer(method, config).param_groups}
    assert rates == {"encoder": 1e-5, "head": 1e-3}
    groups = method.parameter_groups()
    assert sum(map(len, groups.values())) == len(list(method.parameters()))
    encoders = [*method.encoder.parameters(), *method.binary_encoder.parameters()]
    assert {id(p) for p in groups["encoder"]} == {id(p) for p in encoders}


DROPOUT = {"dropout": 0.1, "token_dropout": 0.1}


def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(tmp_path):
    """Interrupted where a stage begins and within the next; with dropout, under autocast."""
    groups = {"encoder": DROPOUT, "train": {"precision": "bf16"}}
    whole, cut = prepare(tmp_path / "whole", **groups), prepare(tmp_path / "cut", **groups)
    assert train_on_ranks(whole, 1) == ["GO_ON"]
    assert train_on_ranks(cut, 1, {4: 0, 7: 0}) == ["REQUEUE", "REQUEUE", "GO_ON"]
    assert fingerprint(whole) == fingerprint(cut) is not None
    assert losses_of(whole) == losses_of(cut) and len(set(losses_of(whole))) == 8
    assert losses_of(whole, "train/intermediate") == losses_of(cut, "train/intermediate")


def test_what_was_fitted_is_restored(tmp_path):
    groups = {
        "encoder": {"name": "lsa", "width": 20},
        "method": {"name": "contrabin", "start": "canonical", "projection_width": 8, "curriculum": STAGES},
        "without": (*RUN["without"], "encoder", "method"),
    }
    whole, cut = (prepare_run(tmp_path / name, **{**RUN, **groups}) for name in ("whole", "cut"))
    assert train_on_ranks(whole, 1) == ["GO_ON"]
    assert train_on_ranks(cut, 1, {4: 0}) == ["REQUEUE", "GO_ON"]
    assert fingerprint(whole) == fingerprint(cut) is not None


@pytest.mark.ddp
@pytest.mark.slow
def test_an_interrupted_run_on_ranks_goes_on_through_the_stages(tmp_path):
    """Two ranks compare their flags at intervals: they leave in the naive stage, and after that."""
    groups = {"encoder": DROPOUT, "train": {"steps": 120}, "resources": {"ranks": 2}}
    whole, cut = prepare(tmp_path / "whole", **groups), prepare(tmp_path / "cut", **groups)
    assert train_on_ranks(whole, 2) == ["GO_ON"]
    assert train_on_ranks(cut, 2, {3: 1, 61: 0}) == ["REQUEUE", "REQUEUE", "GO_ON"]
    assert fingerprint(whole) == fingerprint(cut) is not None
    assert losses_of(whole) == losses_of(cut)


@pytest.mark.ddp
@pytest.mark.parametrize("freeze", [True, False])
def test_two_ranks_train_what_one_does_through_all_stages(tmp_path, freeze):
    """Also weight decay, which an interpolation that has no gradient yet must be spared on any number of ranks."""
    losses = []
    for world in (1, 2):
        method = {"freeze_anchor": freeze, "dropout": 0.0}
        run = prepare(tmp_path / str(world), method=method, resources={"ranks": world})
        assert train_on_ranks(run, world) == ["GO_ON"]
        losses.append(losses_of(run))
        assert len(losses_of(run, "train/intermediate")) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_accumulation_ends_at_the_planned_rate(tmp_path):
    """A reference system plans in micro-batches: with two a step, its last rate is three quarters of the peak."""
    rates = []
    for accumulate in (1, 2):
        run = prepare(tmp_path / str(accumulate), train={"accumulate": accumulate})
        assert train_on_ranks(run, 1) == ["GO_ON"]
        rates.append(losses_of(run, "train/learning_rate"))
    assert rates[0] == rates[1] and len(rates[0]) == 8 and rates[0][-1] < 0.1 * max(rates[0])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"binary_encoder": {"name": "bag_of_token"}}, r"method\.binary_encoder\.name.*bag_of_tokens"),
        ({"binary_encoder": {"name": "resnet18"}}, r"method\.binary_encoder\.name.*no encoder of records"),
        ({"binary_encoder": {"name": "bag_of_tokens", "widht": 3}}, r"method\.binary_encoder\.widht.*width"),
        ({"curriculum": {"naive": 0, "linear": 0, "nonlinear": 0}}, "all 0"),
        ({"curriculum": {"primary": 3}}, r"method\.curriculum\.primary.*unknown key"),
        ({"anchor": "ir"}, r"method\.anchor"),
        ({"shrinkage": 2.0}, r"method\.shrinkage: 2\.0 needs start: canonical"),
    ],
)
def test_mistakes_are_found_at_submission(tmp_path, method, message):
    groups = {**RUN, "method": {**RUN["method"], **method}}
    experiment = load_experiment(write_experiment(tmp_path, **groups))
    with pytest.raises(ConfigError, match=message):
        resolve_trials(trials(experiment), experiment.document)


def test_data_without_the_columns_are_refused():
    with pytest.raises(ConfigError, match="these data have sequence"):
        make()(Batch(columns={"sequence": torch.ones(4, 3, dtype=torch.int64)}), 0)


@pytest.mark.parametrize("options", [{"primary_temperature": 0}, {"dropout": 1.0}, {"head": "deep"}], ids=str)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        Config(**options)
