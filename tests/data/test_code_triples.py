import gzip
import hashlib
import json
from collections import Counter

import pytest
import torch

from runner.code.strip import strip_asm, strip_ir
from runner.code.triple import read_triples
from runner.data import code_triples
from runner.errors import ConfigError, DataError
from runner.experiment import load_trial
from runner.export import export
from runner.files import read_json
from runner.named import resolve_trial
from runner.schema import build as build_config
from runner.trial_data import known_tokenizer
from tests.experiments import prepare_run, train_here

SHIPPED = code_triples.SHIPPED


def row(package="a", name="f", **values):
    levels = {"O0": f"push rbp\ncall <{name}_helper>\nret", "O2": "lea rax,[rip+0x0] <str>\nret"}
    return {
        "package": package,
        "file": "x.c",
        "name": name,
        "comment": f"Says what {name} does.",
        "source": f"int {name}(void) {{ return {name}_helper(); }}",
        "asm": levels,
        "ir": f"define i32 @{name}(%struct.s* %0) {{\n  call void @llvm.trap()\n}}",
        **values,
    }


def write(path, rows):
    text = "".join(json.dumps(r) + "\n" for r in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


@pytest.fixture
def path(tmp_path):
    rows = [row("train", f"f{i}") for i in range(60)] + [row("held", f"g{i}") for i in range(5)] + [row("other", "h")]
    return write(tmp_path / "triples.jsonl", rows)


def build(path, split="train", **options):
    options = {"test_packages": ["held"], "paths": [str(path)], **options}
    return code_triples.build(build_config(code_triples.Config, options, "data"), split)


def examples(path, split="train", **options):
    options = {"test_packages": ["held"], "paths": [str(path)], **options}
    config = build_config(code_triples.Config, options, "data")
    return code_triples.choose_examples(config, split, code_triples.read_all(config))


def test_columns_and_labels(path):
    records = build(path, "test", tokenizer={"vocabulary": 500})
    assert len(records) == 5 and records.vocabulary == 500
    assert set(records.columns) == {"source", "binary", "comment"}
    for column in records.columns.values():
        assert column.dtype == torch.int64 and len(column) == 5
        assert (column[:, 0] > 0).all() and (column < 500).all() and (column >= 0).all()
    names = [f"g{i}" for i in range(5)]
    assert [records.classes[label].split(":")[1] for label in records.labels] == names
    assert {key: texts[0] for key, texts in records.texts.items()} == {
        "name": "g0",
        "comment": "Says what g0 does.",
        "function": records.classes[records.labels[0]],
        "package": "held",
        "level": "O2",
        "compiler": "gcc",
    }
    assert all(len(texts) == 5 for texts in records.texts.values())
    for key, column in records.columns.items():
        lengths = records.lengths[key].tolist()
        assert all((row[:n] > 0).all() and (row[n:] == 0).all() for row, n in zip(column, lengths, strict=True))


@pytest.mark.parametrize("packed", ["triples.jsonl", "triples.jsonl.gz"])
def test_files_are_read_packed_and_plain(tmp_path, packed):
    triples = list(read_triples(write(tmp_path / packed, [row("a", "f", version="1.2"), row("b", "g")])))
    assert [(t.package, t.name, t.version, t.license) for t in triples] == [("a", "f", "1.2", ""), ("b", "g", "", "")]
    assert triples[0].asm == row()["asm"]


def test_splits_are_packages_and_validation_is_a_share_of_the_training_functions(path):
    names = {split: [e.triple.name for e in examples(path, split)] for split in ("train", "validation", "test")}
    assert names["test"] == [f"g{i}" for i in range(5)]
    assert sorted(names["train"] + names["validation"]) == sorted([f"f{i}" for i in range(60)] + ["h"])
    assert 1 <= len(names["validation"]) <= 15
    # The same functions are held out whatever else is in the files or trained on.
    only = [e.triple.name for e in examples(path, "validation", train_packages=["train"])]
    assert only == [name for name in names["validation"] if name != "h"]
    assert [e.triple.name for e in examples(path, validation_share=0)][-1] == "h"


def test_equal_functions_are_taken_once(tmp_path):
    twin = row("held", "f", comment="Another comment.", source="int f(void)\n{\n  return f_helper();\n}")
    path = write(tmp_path / "t.jsonl", [row("train", "f"), twin, row("held", "g")])
    assert [e.triple.name for e in examples(path, "test")] == ["g"]


def test_a_row_for_each_binary_there_is(tmp_path):
    lacking = row("held", "g", asm={"O0": "ret"}, ir="")
    path = write(tmp_path / "t.jsonl", [row("train", "f"), row("held", "h"), lacking])
    found = examples(path, "test", binaries=["O0", "O2", "ir"])
    assert [(e.triple.name, e.form) for e in found] == [("h", "O0"), ("h", "O2"), ("h", "ir"), ("g", "O0")]
    assert [e.kind for e in found] == ["asm", "asm", "ir", "asm"]
    records = build(path, "test", binaries=["O0", "O2", "ir"], label="level")
    assert records.classes == ("O0", "O2", "ir") and records.labels.tolist() == [0, 1, 2, 0]
    records = build(path, "test", binaries=["O0", "O2", "ir"])
    assert records.labels.tolist() == [1, 1, 1, 2]
    records = build(path, "test", label="package")
    assert records.classes == ("held", "train") and records.labels.tolist() == [0]


def test_stripped_binaries_hold_no_names(path):
    for e in examples(path, "test", binaries=["O0", "O2", "ir"], names="stripped"):
        assert e.triple.name not in e.binary and "<" not in e.binary
    kept = examples(path, "test", binaries=["O0"])[0]
    assert f"<{kept.triple.name}_helper>" in kept.binary


def test_strip():
    assert strip_asm("call <f>\nlea rax,[rip+0x0] <str>\nmov eax,0x1") == "call\nlea rax,[rip+0x0]\nmov eax,0x1"
    assert strip_ir('call i32 @f(%struct.a* %1, %union.b.c %2), @"x y" %"struct.q z"') == (
        "call i32 @(%struct* %1, %union %2), @ %struct"
    )
    assert strip_ir("call void @llvm.memcpy.p0(i64 %len)") == "call void @llvm.memcpy.p0(i64 %len)"


def test_texts_are_cut_and_rows_limited(path):
    records = build(path, "train", source_length=3, binary_length=2, comment_length=1, limit=4)
    assert {name: tuple(column.shape) for name, column in records.columns.items()} == {
        "source": (4, 3),
        "binary": (4, 2),
        "comment": (4, 1),
    }


@pytest.mark.parametrize("tokenizer", ["words", "bytes", "byte_hash", "bpe"])
def test_a_config_gives_the_same_rows_every_time(path, tokenizer):
    options = {"tokenizer": {"name": tokenizer, "vocabulary": 400}}
    first, second = build(path, **options), build(path, **options)
    assert all(torch.equal(first.columns[key], second.columns[key]) for key in first.columns)
    test = build(path, "test", **options)
    assert test.vocabulary == first.vocabulary and test.classes == first.classes


def test_bpe_learns_from_the_training_texts_only(tmp_path):
    rows = [row("train", "abcabcabc"), row("held", "zzyzzyzzy")]
    one = write(tmp_path / "one.jsonl", rows)
    two = write(tmp_path / "two.jsonl", [rows[0], row("held", "qqwqqwqqw")])
    options = {"tokenizer": {"name": "bpe", "vocabulary": 300}, "validation_share": 0}
    assert torch.equal(build(one, **options).columns["source"], build(two, **options).columns["source"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_packages": []}, "data.test_packages"),
        ({"test_packages": ["hel"]}, r"data.test_packages: 'hel' is not in the files; did you mean \"held\""),
        ({"train_packages": ["xyz"]}, "data.train_packages: 'xyz' is not in the files; there is held, other, train"),
        ({"train_packages": ["held"]}, "data.train_packages: 'held' is not allowed; it is one of test_packages"),
        ({"binaries": ["O2", "O2"]}, "data.binaries: .* names one twice"),
        ({"binaries": ["Os"]}, "data.binaries.0"),
        ({"validation_share": 1.0}, "data.validation_share"),
        ({"tokenizer": {"name": "word"}}, "data.tokenizer.name"),
    ],
)
def test_options_are_checked(path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(path, **options)


def test_an_empty_split_is_explained(tmp_path):
    path = write(tmp_path / "t.jsonl", [row("train"), row("held", "g", ir="")])
    with pytest.raises(DataError, match="the test split has no function with ir"):
        build(path, "test", binaries=["ir"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "row 2: not JSON"),
        (b"[]", "row 2: list instead of a mapping"),
        (b'{"package": "x"}', "row 2: has no 'file'"),
        (json.dumps(row(comment=None)).encode(), "row 2: 'comment' is None, should be a text"),
        (json.dumps(row(asm=["ret"])).encode(), "row 2: 'asm' should map levels to texts"),
        (json.dumps(row(asm={"O0": 1})).encode(), "row 2: 'asm' should map"),
        (b"\xff\xfe", "row 2: not JSON"),
    ],
)
def test_a_broken_row_is_named(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(row()).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=rf"{path}: {message}"):
        list(read_triples(path))


def test_a_missing_or_torn_file_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"no file of triples at {tmp_path}/none.jsonl"):
        build(tmp_path / "none.jsonl")
    path = write(tmp_path / "t.jsonl.gz", [row(), row("b", "g")])
    path.write_bytes(path.read_bytes()[:-15])
    with pytest.raises(DataError, match=rf"{path}: cannot be unpacked: "):
        list(read_triples(path))
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match=rf"{path}: cannot be unpacked: Not a gzipped file"):
        list(read_triples(path))


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz"])
def test_an_empty_file_is_named(tmp_path, path, name):
    empty = write(tmp_path / name, [])
    with pytest.raises(DataError, match=rf"{empty}: holds no triples"):
        build(path, paths=[str(path), str(empty)])


def test_the_shipped_sample_is_what_its_readme_says():
    readme = (SHIPPED.parent / "README.md").read_text()
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() in readme
    triples = list(read_triples(SHIPPED))
    assert Counter(t.package for t in triples) == {"lua": 238, "libpng": 153, "zlib": 37}
    for package, version, license_ in {(t.package, t.version, t.license) for t in triples}:
        of = [t for t in triples if t.package == package]
        levels = [sum(level in t.asm for t in of) for level in ("O0", "O1", "O2", "O3")]
        counts = [len(of), len({t.file for t in of}), *levels, sum(t.ir != "" for t in of)]
        assert " | ".join([f"| {package}", version, license_, *map(str, counts)]) in readme
    records = code_triples.build(code_triples.Config(test_packages=("libpng",)), "test")
    assert len(records) == 153


BPE = {"name": "bpe", "vocabulary": 300}


def test_other_data_have_the_token_ids_of_the_model(tmp_path):
    model = write(tmp_path / "model.jsonl", [row("train", "abcabcabc"), row("held", "g")])
    other = write(tmp_path / "other.jsonl", [row("train", "zyzyzyzyz"), row("held", "zyxabcabc")])
    options = {"tokenizer": BPE, "validation_share": 0}
    known = build(model, **options).tokenizer
    config = build_config(code_triples.Config, {"test_packages": ["held"], "paths": [str(other)], **options}, "data")
    (tmp_path / "saved.json").write_text(known)
    wanted = build(other, "test", **{**options, "tokenizer": {"name": "bpe", "source": str(tmp_path / "saved.json")}})
    found = code_triples.build(config, "test", known)
    assert torch.equal(found.columns["source"], wanted.columns["source"]) and found.tokenizer == known
    assert found.columns["source"].tolist() != build(other, "test", **options).columns["source"].tolist()


def code_trial(path, **groups):
    """A short ContraBin trial with the tokenizer that is trained."""
    return {
        "method": {"name": "contrabin", "freeze_anchor": False, "projection_width": 8},
        "encoder": {"name": "bag_of_tokens", "width": 8},
        "data": {"name": "code_triples", "test_packages": ["held"], "paths": [str(path)], "tokenizer": dict(BPE)},
        "train": {"steps": 2, "batch_size": 8},
        "schedule": {"warmup_steps": 0},
        "evaluate": {"probes": [{"name": "retrieval", "pairs": [["source", "binary"]]}]},
        "without": ("method", "encoder", "data", "views", "optimizer"),
        "optimizer": {"name": "adamw", "lr": 1e-3},
        **groups,
    }


def test_a_model_meets_the_token_ids_of_its_own_training_whatever_data_it_is_evaluated_on(tmp_path, path):
    """A trained tokenizer would make other ids of other texts: the ids are those of the training, and go on with it."""
    other = write(
        tmp_path / "other.jsonl",
        [row("t", f"zyzyz{i}") for i in range(20)] + [row("held", f"x{3**i}") for i in range(6)],
    )
    more = {**code_trial(other)["data"], "name": "code_triples"}
    evaluate = {"probes": ["rankme"], "data": {"more": more}}
    run = prepare_run(tmp_path / "first", **code_trial(path, evaluate=evaluate))
    train_here(run)
    assert run.tokenizer.read_text() == build(path, tokenizer=BPE).tokenizer
    # An attempt that goes on from a checkpoint asks for no other ids, whatever became of the texts meanwhile.
    trial = load_trial(run.config)
    assert known_tokenizer(trial, resolve_trial(trial), run) == run.tokenizer.read_text()
    export(run, tmp_path / "weights.pt")
    only = {"train": {"steps": 0, "batch_size": 2}, "init_from": str(tmp_path / "weights.pt")}
    again = prepare_run(tmp_path / "again", **code_trial(other, **only, evaluate={"probes": ["rankme"]}))
    train_here(again)
    found = read_json(again.result)["metrics"]["test/rankme_rankme"]
    assert found == read_json(run.result)["metrics"]["more/rankme_rankme"] > 1
    assert again.tokenizer.read_text() == run.tokenizer.read_text()
    words = prepare_run(tmp_path / "words", **code_trial(other, **only))
    words.config.write_text(words.config.read_text().replace("name: bpe", "name: words"))
    with pytest.raises(ConfigError, match=r'data\.tokenizer: "words" is not allowed; .* token ids of "bpe"'):
        train_here(words)
    silent = torch.load(tmp_path / "weights.pt", weights_only=True)
    del silent["tokenizer"]
    torch.save(silent, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r'data\.tokenizer\.name: "bpe" .* does not say what its token ids mean'):
        train_here(prepare_run(tmp_path / "silent", **code_trial(other, **only)))
