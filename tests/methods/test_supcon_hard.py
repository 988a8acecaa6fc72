"""SupCon-Hard: which losses take part when, whom anchors are compared with, and no change by ranks or requeues."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from runner.batch import Batch
from runner.config import TrainConfig
from runner.data.protein_localisation import CLASSES
from runner.dataset import Records
from runner.encoders import esm2, kmer, sequence_cnn
from runner.errors import ConfigError, DataError
from runner.group import Group
from runner.method import Task
from runner.methods.supcon_hard import Config, build, check, check_warm_start
from runner.mining.distances import centre_distances, class_centres, hardness
from runner.mining.tuples import Tuples, draw_tuples, share_class
from runner.proteins.alphabet import VOCABULARY
from runner.proteins.kmers import kmer_features
from tests.experiments import fingerprint, prepare_run, train_here, train_on_ranks
from tests.ranks import run_ranks

N, L, C, STEPS_PER_EPOCH = 48, 30, 8, 4
SUPCON = {"n_pos": 2, "n_neg": 3, "hidden": 8, "width": 6, "dropout": 0.0}
POSITION = {"decoder": "cnn-linear", "kernel": 3, "hidden": 2, "dropout": 0.0}


def make_data(seed=0, samples=N):
    """Random proteins of one or two classes, each with a motif of its first class."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, L + 1, (samples,), generator=generator)
    sequence = torch.randint(1, 21, (samples, L), generator=generator, dtype=torch.uint8)
    sequence *= torch.arange(L) < lengths[:, None]
    first = torch.arange(samples) % C
    labels = F.one_hot(first, C).float()
    labels[::5] = labels[::5].maximum(F.one_hot((first + 1) % C, C).float()[::5])
    motif = torch.zeros(samples, L, C, dtype=torch.uint8)
    motif[torch.arange(samples), lengths - 2, first] = 1
    columns = {"sequence": sequence, "protein": torch.arange(samples), "start": torch.zeros(samples).long()}
    return Records({**columns, "motif": motif}, labels, CLASSES, VOCABULARY["standard"])


DATA = make_data()


def make(encoder="cnn", data=DATA, group=None, seed=0, **options):
    options["supcon"] = {**SUPCON, **options.get("supcon", {})}
    # As an experiment file gives them.
    config = Config.model_validate_json(json.dumps(options))
    torch.manual_seed(seed)
    network = {
        "cnn": lambda: sequence_cnn.SequenceCNN(
            sequence_cnn.Config(embedding=4, channels=3, kernel=3, first=20, last=8, dropout=0.0), data.vocabulary
        ),
        "kmer": lambda: kmer.Kmer(kmer.Config(hidden=8, width=5, dropout=0.0)),
        "esm2": lambda: esm2.build(esm2.Config(random=True, layers=1, width=8, heads=2, mode="full"), data.vocabulary),
    }[encoder]()
    task = Task(12, group or Group(), STEPS_PER_EPOCH, data.classes, seed=3, data=data)
    return build(config, network, task)


def make_batch(ids, data=DATA):
    ids = torch.as_tensor(ids)
    return Batch(labels=data.labels[ids], ids=ids, columns=data.take(ids))


def trained(method, step, batch=None):
    """The parts that have a gradient after this step, by the first word of their names."""
    method.zero_grad()
    method(batch or make_batch(range(12)), step).loss.backward()
    return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum()}


def test_each_loss_is_its_formula():
    method = make(classes={"weighting": "none"}, position=POSITION, supcon={"hard_neg": False, "weight": 0.5})
    batch, step = make_batch(range(10, 22)), 6
    found, _ = method.compute_loss(batch, step)
    tuples = draw_tuples(DATA.labels.numpy() > 0, batch.ids.numpy(), 2, 3, seed=3, epoch=1)
    total = 0.0
    for anchor, positives, negatives in zip(*tuples[:3], strict=True):
        rows = DATA.take(torch.tensor([anchor, *positives, *negatives]))["sequence"]
        z = F.normalize(method.pairs.projection(method.encoder(rows)), dim=1)
        s = z[1:] @ z[0] / 0.1
        total += (s.exp().sum().log() - s[:2].mean()).item()
    assert found["supcon_loss"].item() == pytest.approx(0.5 * total / 12, rel=1e-5)

    tokens = batch.columns["sequence"]
    logits = method.classifier(method.encoder(tokens))
    expected = F.binary_cross_entropy_with_logits(logits, batch.labels)
    torch.testing.assert_close(found["class_loss"], expected)

    logits, motif = method.decoder(method.encoder.residues(tokens)), batch.columns["motif"].float()
    errors = [
        F.binary_cross_entropy_with_logits(logits[row, place], motif[row, place], pos_weight=torch.tensor(35.0)).item()
        for row, place in (tokens > 0).nonzero().tolist()
    ]
    assert found["position_loss"].item() == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("after", [True, False])
def test_the_warm_start_ends_before_the_epoch_it_names(after):
    """Epochs 0 .. warm_start - 1 train by the contrastive loss alone."""
    method = make(supcon={"warm_start": 2, "after_warm_start": after}, position=POSITION)
    method.before_fit_epoch(0)
    last, first = 2 * STEPS_PER_EPOCH - 1, 2 * STEPS_PER_EPOCH
    assert method(make_batch(range(12)), last).measurements.keys() == {"loss", "supcon_loss"}
    assert trained(method, last) == {"encoder", "pairs"}
    expected = {"loss", "class_loss", "position_loss"} | ({"supcon_loss"} if after else set())
    assert method(make_batch(range(12)), first).measurements.keys() == expected
    assert trained(method, first) == {"encoder", "classifier", "decoder"} | ({"pairs"} if after else set())
    assert not method.uses_all_parameters


def test_without_supcon_nothing_of_it_is_there():
    method = make(supcon={"apply": False})
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"encoder", "classifier"}
    assert trained(method, 0) == {"encoder", "classifier"} and method.uses_all_parameters
    assert method(make_batch(range(12)), 0).measurements.keys() - {"loss"} == {"class_loss"}
    assert set(method.embed(make_batch(range(3)))) == {"features", "scores"}


def test_without_heads_only_supcon_is_there():
    method = make(classes=None)
    assert trained(method, 0) == {"encoder", "pairs"}
    assert set(method.embed(make_batch(range(3)))) == {"features", "projections"}


@pytest.mark.parametrize("weighting", ["sample", "balanced"])
def test_weights_make_up_for_rare_classes(weighting):
    method = make(classes={"weighting": weighting}, supcon={"apply": False})
    ids = torch.arange(N)
    batch, labels = make_batch(ids), DATA.labels
    logits = method.classifier(method.encoder(batch.columns["sequence"]))
    plain = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    counts = labels.sum(0)
    if weighting == "sample":
        rows = torch.stack([max(counts.min() / counts[c] for c in row.nonzero()) for row in labels]).ravel()
        expected = (rows / rows.mean() * plain.mean(1)).mean()
    else:
        expected = (torch.where(labels > 0, N / (2 * counts), N / (2 * (N - counts))) * plain).mean()
    torch.testing.assert_close(method.compute_loss(batch, 0)[0]["class_loss"], expected)


def test_hard_negatives_are_of_the_nearest_class_and_share_none():
    method = make(supcon={"n_neg": 4}, classes=None)
    method.before_fit_epoch(0)
    tuples = method.pairs.draw(np.arange(N), 0)
    labels = DATA.labels.numpy() > 0
    near = hardness(method.pairs.distances.numpy(), 1) > 0
    for anchor, negatives in zip(tuples.anchors, tuples.negatives, strict=True):
        assert not (labels[negatives] & labels[anchor]).any()
        wanted = near[labels[anchor]].any(0) & ~labels[anchor]
        hard = labels[:, wanted].any(1) & ~share_class(labels, np.array([anchor]))[0]
        assert hard[negatives].sum() == min(4, hard.sum())


def test_the_map_is_of_the_embeddings_in_evaluation_mode_and_draws_nothing():
    method = make(supcon={"dropout": 0.5, "refresh_every_epochs": 2})
    assert (method.pairs.distances == 0).all(), "unknown before the first epoch"
    state = torch.get_rng_state()
    method.before_fit_epoch(0)
    assert torch.equal(torch.get_rng_state(), state) and method.training and method.pairs.projection.dropout.training
    first = method.pairs.distances.clone()
    method.eval()
    with torch.no_grad():
        z = method.pairs.projection(method.encoder(DATA.columns["sequence"]))
    torch.testing.assert_close(first, centre_distances(class_centres(z, DATA.labels)))
    with torch.no_grad():
        method.pairs.projection.fc3.weight.mul_(2).add_(0.1)
    method.before_fit_epoch(1)
    assert torch.equal(method.pairs.distances, first), "not due"
    before = method.pairs.hardness()
    method.before_fit_epoch(2)
    assert not torch.equal(method.pairs.distances, first) and method.pairs.hardness() is not before


def test_distances_from_files(tmp_path):
    shipped = make(supcon={"distance_map": "shipped"})
    row = shipped.pairs.distances[CLASSES.index("Nucleus")]
    assert row.argsort()[1] == CLASSES.index("Nucleus_export")
    shipped.before_fit_epoch(0)
    assert torch.equal(shipped.pairs.distances[CLASSES.index("Nucleus")], row), "a file is never refreshed"
    path = tmp_path / "map.json"
    path.write_text(json.dumps({a: {b: float(a != b) for b in CLASSES} for a in CLASSES}))
    assert (make(supcon={"distance_map": str(path)}).pairs.distances == 1 - torch.eye(C)).all()
    with pytest.raises(DataError, match="no distance from Nucleus"):
        path.write_text("{}")
        make(supcon={"distance_map": str(path)})


def test_weighted_negatives_go_by_class_and_distance():
    """As CLEAN: first a near class by 1 / distance, then any of its members."""
    method = make(supcon={"knn": 100, "weighted_negatives": True})
    method.before_fit_epoch(0)
    sizes, inverse = DATA.labels.sum(0).numpy(), 1 / method.pairs.distances.numpy()[2][np.arange(C) != 2]
    expected = inverse / inverse.sum() / sizes[np.arange(C) != 2]
    assert method.pairs.hardness()[2][np.arange(C) != 2] == pytest.approx(expected)


def test_an_anchor_without_negatives_is_left_out():
    data = make_data()
    data.labels[7] = 1
    batch = make_batch([4, 7, 9], data)
    method = make(data=data, classes=None, supcon={"hard_neg": False})
    alone = make(data=data, classes=None, supcon={"hard_neg": False})
    torch.testing.assert_close(method(batch, 0).loss, alone(make_batch([4, 9], data), 0).loss)
    triplet = {"loss": "triplet", "n_pos": 1, "n_neg": 1, "hard_neg": False}
    losses = [make(data=data, classes=None, supcon=triplet)(make_batch(ids, data), 0).loss for ids in ([4, 7], [4])]
    torch.testing.assert_close(*losses)


def test_the_only_member_of_a_class_is_compared_with_masked_copies_of_itself():
    data = make_data()
    data.labels[:, 0] = 0
    data.labels[5], data.labels[5, 0] = 0, 1
    seen = []
    method = make(data=data, classes=None, supcon={"copy_rate": 0.5})
    method.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    method(make_batch([5, 6], data), 0)
    copies = seen[-1]
    original = data.columns["sequence"][5].long()
    assert copies.shape == (2, L) and not torch.equal(*copies)
    for copy_L in copies:
        changed = copy_L != original
        assert 0 < changed.sum() < (original > 0).sum() and (copy_L[changed] == VOCABULARY["standard"] - 1).all()


def test_triplets_are_of_the_margin_loss():
    method = make(classes=None, supcon={"loss": "triplet", "n_pos": 1, "n_neg": 1, "margin": 2.0})
    batch = make_batch(range(12))
    tuples = method.pairs.draw(batch.ids.numpy(), 0)
    rows = [tuples.anchors, tuples.positives[:, 0], tuples.negatives[:, 0]]
    z = [method.pairs.projection(method.encoder(DATA.columns["sequence"][torch.from_numpy(r)])) for r in rows]
    torch.testing.assert_close(method(batch, 0).loss, F.triplet_margin_loss(*z, margin=2.0))


def test_balanced_anchors_change_every_step_and_do_not_need_the_batch():
    method = make(supcon={"balanced_anchors": True})
    drawn = [method.pairs.draw(np.arange(12), step).anchors for step in range(30)]
    assert len({tuple(anchors) for anchors in drawn}) == 30
    assert (DATA.labels[np.concatenate(drawn)] > 0).any(0).all()
    assert np.array_equal(method.pairs.draw(np.arange(6, 12), 4).anchors, drawn[4][6:])
    assert trained(method, 0) == {"encoder", "pairs", "classifier"}


@pytest.mark.parametrize("encoder", ["cnn", "esm2"])
def test_memory_can_be_saved_without_changing_anything(encoder):
    whole, parts = make(encoder), make(encoder, supcon={"chunk": 5})
    for method in (whole, parts):
        method.before_fit_epoch(0)
        method(make_batch(range(12)), 0).loss.backward()
    for mine, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_draws_do_not_depend_on_the_batch():
    method = make(supcon={"hard_neg": False})
    whole, part = method.pairs.draw(np.arange(12), 5), method.pairs.draw(np.arange(4, 8), 6)
    assert all(np.array_equal(mine[4:8], theirs) for mine, theirs in zip(whole, part, strict=True))
    assert not np.array_equal(method.pairs.draw(np.arange(12), 8).negatives, whole.negatives), "another epoch"
    assert isinstance(whole, Tuples)


def test_an_encoder_that_standardises_takes_the_training_set():
    method = make("kmer")
    features = kmer_features(DATA.columns["sequence"]).double()
    torch.testing.assert_close(method.encoder.mean, features.mean(0).float())
    assert trained(method, 0) == {"encoder", "pairs", "classifier"}


@pytest.mark.parametrize("decoder", ["linear", "cnn", "cnn-linear"])
@pytest.mark.parametrize("encoder", ["cnn", "esm2"])
def test_embeddings_depend_on_the_sequence_alone(encoder, decoder):
    """Neither on padding nor on the rest of the batch; with the maximum of the residues as classes."""
    method = make(encoder, position={**POSITION, "decoder": decoder}, classes={"head": "max"}).eval()
    assert method.classifier is None
    with torch.no_grad():
        found = method.embed(make_batch(range(6)))
        assert found["motif_scores"].shape == (6, L, C) and found["scores"].shape == (6, C)
        length = int((DATA.columns["sequence"][2] > 0).sum())
        torch.testing.assert_close(found["scores"][2], found["motif_scores"][2, :length].amax(0))
        alone = method.embed(Batch(columns={"sequence": DATA.columns["sequence"][2:3, :length].long()}))
        torch.testing.assert_close(alone["motif_scores"][0], found["motif_scores"][2, :length], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone["features"][0], found["features"][2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["features"], method.encoder(DATA.columns["sequence"][:6].long()))
    assert trained(method.train(), 0) == {"encoder", "pairs", "decoder"}


def test_every_class_has_a_decoder_of_its_own():
    decoder = make(position=POSITION).decoder
    x = torch.randn(2, 9, 6)
    decoder(x)[..., 3].sum().backward()
    of_class = decoder.linear.weight.grad.abs().sum((1, 2)) > 0
    channels = decoder.convolution.weight.grad.abs().sum((1, 2)).reshape(C, 2).sum(1) > 0
    assert of_class.nonzero().tolist() == [[3]] and channels.nonzero().tolist() in ([[3]], [])


def test_mutations_change_what_is_trained_on_each_epoch():
    plain, mutated = make(), make(mutation={"rate": 0.3})
    seen = []
    mutated.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = make_batch(range(12))
    for step in (0, 1, STEPS_PER_EPOCH):
        mutated(batch, step)
    first, same, other = seen[::2]
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(first > 0, batch.columns["sequence"] > 0)
    assert not torch.equal(plain(batch, 0).loss, mutated(batch, 0).loss)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"classes": None, "supcon": {"apply": False}}, "supcon.apply"),
        ({"classes": None, "supcon": {"warm_start": 1}}, "supcon.warm_start"),
        ({"supcon": {"apply": False, "warm_start": 1}}, "warm_start"),
        ({"supcon": {"after_warm_start": False}}, "after_warm_start"),
        ({"supcon": {"loss": "triplet"}}, "n_pos"),
        ({"supcon": {"n_pos": 0}}, "n_pos"),
        ({"supcon": {"temperature": 0.0}}, "temperature"),
        ({"classes": {"head": "max"}}, "classes.head"),
        ({"position": {"kernel": 4}}, "kernel"),
        ({"supcon": {"hard_negatives": True}}, "hard_negatives"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, named):
    with pytest.raises(ValidationError, match=named):
        Config(**options)


def test_a_warm_start_ends_within_the_training():
    with pytest.raises(
        ConfigError, match=r"method\.supcon\.warm_start: 2 is not allowed; must be less than 2, the epo"
    ):
        check(Config(supcon={"warm_start": 2}), TrainConfig(epochs=2, batch_size=4))
    check(Config(supcon={"warm_start": 1}), TrainConfig(epochs=2, batch_size=4))
    with pytest.raises(
        ConfigError, match=r"method\.supcon\.warm_start: 3 is not allowed; must be less than 3, the epo"
    ):
        check_warm_start(Config(supcon={"warm_start": 3}), 3)


def test_data_and_encoders_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"method\.position: this encoder"):
        make("kmer", position=POSITION)
    without = Records({"sequence": DATA.columns["sequence"]}, DATA.labels, CLASSES, DATA.vocabulary)
    with pytest.raises(ConfigError, match=r"data\.motif"):
        make(data=without, position=POSITION)
    with pytest.raises(ConfigError, match="classes"):
        make(data=dataclasses.replace(DATA, classes=()))
    with pytest.raises(ConfigError, match="sequences with labels"):
        make(data=dataclasses.replace(DATA, labels=None))


def test_an_evaluation_needs_no_training_data():
    config = Config(supcon=SUPCON)
    encoder = kmer.Kmer(kmer.Config(hidden=8, width=5))
    method = build(config, encoder, Task(0, classes=CLASSES))
    trained_one = make("kmer")
    method.load_state_dict(trained_one.state_dict())
    batch = make_batch(range(4))
    torch.testing.assert_close(method.eval().embed(batch), trained_one.eval().embed(batch))


def test_half_precision_steps_are_finite():
    for dtype in (torch.bfloat16, torch.float16):
        method = make(position=POSITION, supcon={"temperature": 0.01})
        method.before_fit_epoch(0)
        with torch.autocast("cpu", dtype=dtype):
            output = method(make_batch(range(12)), 0)
        output.loss.backward()
        assert output.loss.dtype == torch.float32
        assert all(p.grad.isfinite().all() for p in method.parameters())


OPTIONS = {"position": POSITION, "supcon": {"warm_start": 1, "hard_neg": True, "refresh_every_epochs": 1}}


def train_by_ddp(group):
    """Two epochs, around the end of the warm start, on this rank's rows of each batch, in float64."""
    method = make(group=group, **copy.deepcopy(OPTIONS)).double()
    model = method
    if group.world > 1:
        model = DistributedDataParallel(method, find_unused_parameters=not method.uses_all_parameters)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    losses = []
    for step in range(2 * STEPS_PER_EPOCH):
        if step % STEPS_PER_EPOCH == 0:
            method.before_fit_epoch(step // STEPS_PER_EPOCH)
        ids = torch.arange(12) + 12 * (step % STEPS_PER_EPOCH)
        own = ids[group.rank * 12 // group.world : (group.rank + 1) * 12 // group.world]
        optimizer.zero_grad()
        output = model(make_batch(own), step)
        output.loss.backward()
        optimizer.step()
        losses.append(group.all_reduce_sum(output.loss) / group.world)
    return torch.stack(losses), method.state_dict()


@pytest.mark.ddp
def test_ranks_train_like_one_process():
    losses, weights = train_by_ddp(Group())
    for rank_losses, rank_weights in run_ranks(2, train_by_ddp):
        # The losses of the heads are computed in float32.
        torch.testing.assert_close(rank_losses, losses, rtol=1e-5, atol=0)
        for name, weight in weights.items():
            torch.testing.assert_close(rank_weights[name], weight, rtol=1e-4, atol=1e-6)


GROUPS = {
    "without": ("views", "schedule", "train", "encoder", "method", "data"),
    "method": {"name": "supcon_hard", "supcon": {**SUPCON, "dropout": 0.1, "warm_start": 1}, "position": POSITION},
    "encoder": {"name": "sequence_cnn", "embedding": 4, "channels": 4},
    "data": {"name": "protein_localisation", "limit": 48, "max_length": 600, "overlap": 100, "motif": "span"},
    "train": {"epochs": 3, "batch_size": 16},
    "tracking": {"every_steps": 2},
    "evaluate": {"probes": [{"name": "multilabel"}, {"name": "class_calls", "space": "projections"}]},
}


def prepare(folder, **groups):
    """A run on the first shipped proteins: three epochs, warm until the second, the map refreshed before each."""
    settings = {**GROUPS, **groups}
    return prepare_run(folder, **settings)


@pytest.mark.parametrize("step", [3, 4, 8])
def test_interrupted_equals_uninterrupted(tmp_path, step):
    """In and at the end of the warm start, and where the map is refreshed."""
    straight = prepare(tmp_path / "straight")
    assert train_here(straight) == 1
    run = prepare(tmp_path / "cut", rehearse={"at_step": step, "signal": "USR2"})
    assert train_here(run) == 2
    assert fingerprint(run) == fingerprint(straight)


@pytest.mark.ddp
@pytest.mark.slow
def test_interrupted_equals_uninterrupted_on_ranks(tmp_path):
    straight, run = prepare(tmp_path / "straight"), prepare(tmp_path / "cut")
    assert train_on_ranks(straight, 2) == ["GO_ON"]
    assert train_on_ranks(run, 2, {2: 1, 5: 0}) == ["REQUEUE", "REQUEUE", "GO_ON"]
    assert fingerprint(run) == fingerprint(straight)
