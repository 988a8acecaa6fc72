"""Strict YAML, overrides, and errors of one line that say where, what, and what is allowed."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from runner.errors import ConfigError
from runner.explain import OptionError
from runner.schema import (
    MAX_BYTES,
    Document,
    Options,
    build,
    canonical,
    get_key,
    load_yaml,
    override,
    set_key,
)
from runner.strict_yaml import dump_yaml, flow, is_secret, parse_yaml


class Head(Options):
    lr: float | None = Field(default=None, gt=0)


class Optimizer(Options):
    learning_rate: float = Field(default=0.1, gt=0)
    steps: int = Field(default=1, ge=1, le=2**63 - 1)
    nesterov: bool = False
    name: Literal["adam", "sgd"] = "sgd"
    every: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    betas: tuple[float, float] = (0.9, 0.999)
    label: str = ""
    root: Path | None = None
    groups: dict[str, Head] = Field(default_factory=dict)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "exp.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def message(function: Any, *args: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args)
    text = str(caught.value)
    assert text.isprintable(), f"more than one line: {text!r}"
    return text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3E5", 3e5),
        ("1.5", 1.5),
        (".5", 0.5),
        ("2.", 2.0),
        ("-1e-4", -1e-4),
        ("20_000", 20_000),
        ("010", 10),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        *[(text, text) for text in ("no", "yes", "on", "off", "y", "12:30:00", "2024-01-01", "0x1f", "0o17")],
        *[(text, text) for text in ("1_2", "1e", ".nan", "-.inf", "1.2.3", "=", "<<", "9" * 65)],
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("|\n  text\n", "text\n"),
    ],
)
def test_scalars_mean_what_they_look_like(text, value):
    parsed = parse_yaml(f"value: {text}", "exp.yaml")[0]["value"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_lines_are_known_for_every_dotted_key(tmp_path):
    text = "name: x\noptimizer:\n  lr: 1\n  betas:\n  - 0.9\n  - 0.95\nsweep:\n  grid: {method.gamma: [0, 1]}\n"
    document = load_yaml(write(tmp_path, text))
    lines = {
        "name": 1,
        "optimizer": 2,
        "optimizer.lr": 3,
        "optimizer.betas.1": 6,
        "sweep.grid.method.gamma": 8,
        "sweep.grid.method.gamma.1": 8,
    }
    assert lines.items() <= document.lines.items()
    assert document.where("optimizer.unheard.of").endswith("exp.yaml:2")
    assert document.where("train.epochs") == str(document.path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", r"exp\.yaml: is empty; a config is a mapping"),
        (b"# only a comment\n", r"exp\.yaml: is empty"),
        (b"name: caf\xe9\n", r"exp\.yaml:1: is not UTF-8"),
        ("name: x".encode("utf-16"), r"exp\.yaml:1: is not UTF-8"),
        ("name: x\nlr: [1, 2\nseed: 0\n", r"exp\.yaml:3: not YAML: .* at column \d+$"),
        ("name: x\n\tlr: 1\n", r"exp\.yaml:2: not YAML: a tab is no indentation; use spaces$"),
        ("name: \x07\n", r"exp\.yaml:1: not YAML: control character U\+0007"),
        ("- a\n- b\n", r"exp\.yaml: is a list; a config is a mapping"),
        ("just words\n", r"exp\.yaml: is a single value"),
        ("lr: 1\nname: x\nlr: 2\n", r"exp\.yaml:3: lr: duplicate key; it is on line 1 already$"),
        ("a: {lr: 1, lr: 2}\n", r"exp\.yaml:1: a\.lr: duplicate key; it is on line 1 already$"),
        (
            "a: !!python/object/apply:os.system [x]\n",
            r"exp\.yaml:1: a: tag \"tag:yaml.*system\" is not allowed",
        ),
        ("a: !!str 1\n", r"exp\.yaml:1: a: tag .* is not allowed; write a plain value"),
        ("a: &x [1]\nb: *x\n", r"exp\.yaml:1: a: anchors \(&\) and aliases \(\*\) are not allowed"),
        ("&k a: 1\n", r"exp\.yaml:1: anchors"),
        ("a: 1\n---\nb: 2\n", r"exp\.yaml:2: a second document starts"),
        ("? [1, 2]\n: 3\n", r"exp\.yaml:1: a key must be a string of printable characters"),
        ('"a\\nb": 3\n', r"exp\.yaml:1: a key must be a string of printable characters"),
        ("'': 3\n", r"exp\.yaml:1: a key must be a string of printable characters"),
        ("a: " + "[" * 40 + "]" * 40, r"exp\.yaml:1: a(\.0)+: nested more than 20 levels deep"),
        ("tracking:\n  api_key: abc123\n", r"exp\.yaml:2: tracking\.api_key: looks like a secret"),
        (
            "sweep: {grid: {a.token: [abc123]}}\n",
            r"exp\.yaml:1: sweep\.grid\.a\.token\.0: looks like a secret",
        ),
        (b"#" * (MAX_BYTES + 1), r"exp\.yaml: is 1000001 bytes long; a config has at most 1000000"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, expected):
    told = message(load_yaml, write(tmp_path, text))
    assert re.search(expected, told)
    assert "abc123" not in told


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path):
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9)]
    told = message(load_yaml, write(tmp_path, "l0: &l0 [x]\n" + "\n".join(levels)))
    assert "exp.yaml:1: l0: anchors" in told


def test_a_missing_file_and_a_folder(tmp_path):
    assert message(load_yaml, tmp_path / "no.yaml") == f"config not found: {tmp_path}/no.yaml"
    assert re.search(r"cannot be read: Is a directory", message(load_yaml, tmp_path))


def test_a_pipe_is_read_only_where_a_shell_made_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert message(load_yaml, tmp_path / "pipe") == f"{tmp_path}/pipe: is no regular file"
    assert message(load_yaml, "/dev/zero") == "/dev/zero: is no regular file"
    read_end, write_end = os.pipe()
    os.write(write_end, b"a: 1")
    os.close(write_end)
    assert load_yaml(f"/dev/fd/{read_end}").mapping == {"a": 1}
    os.close(read_end)


@pytest.mark.parametrize("key", ["key", "wandb.api_key", "apikey", "authToken", "hf-token", "PASSWORD", "a.secret.0"])
def test_secrets_are_recognised(key):
    assert is_secret(key)


@pytest.mark.parametrize(
    "key", ["monkey", "tokenizer", "keys", "keep", "key.name", "max_tokens", "turkey_x", "secretary"]
)
def test_words_that_only_contain_one_are_no_secrets(key):
    assert not is_secret(key)


def test_a_secret_word_with_a_number_is_allowed():
    assert parse_yaml("pad_token: 0\nkey: null\n", "x")[0] == {"pad_token": 0, "key": None}


BASE = Document({"a": {"b": 1, "c": {"d": 2}}, "sweep": {"grid": {"m.g": [1]}}}, {"a": 1, "a.b": 2}, Path("exp.yaml"))


def test_overrides_set_dotted_keys_by_the_same_rules():
    changed = override(BASE, ["a.b=1e-3", "a.c.e=no", "new.x={y: [1, true]}", "a.t=12:30:00", "sweep.grid.m.g=[2]"])
    changed = override(changed, ["sweep.grid.o.lr=[1]", "sweep.zip.o.wd=[0]"])
    assert changed.mapping == {
        "a": {"b": 1e-3, "c": {"d": 2, "e": "no"}, "t": "12:30:00"},
        "new": {"x": {"y": [1, True]}},
        "sweep": {"grid": {"m.g": [2], "o.lr": [1]}, "zip": {"o.wd": [0]}},
    }
    assert BASE.mapping["a"] == {"b": 1, "c": {"d": 2}}
    assert changed.where("a.b") == "override a.b=1e-3"
    assert changed.where("new") == "override new.x={y: [1, true]}"
    assert changed.where("a.x") == "exp.yaml:1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b", r"^override a\.b: has no `=`; write KEY=VALUE"),
        ("=1", r'^override =1: "" is not a dotted key'),
        ("a..b=1", r'^override a\.\.b=1: "a\.\.b" is not a dotted key'),
        ("a b=1", r'^override a b=1: "a b" is not a dotted key'),
        ("a.b=", r"^override a\.b=: has no value; write a\.b=null"),
        ("a.b.c=1", r'^override a\.b\.c=1: a\.b: 1 is not a mapping, so "c" cannot be set in it'),
        ("a.c.d.e=1", r'^override a\.c\.d\.e=1: a\.c\.d: 2 is not a mapping, so "e" cannot'),
        ("a.b=[1", r"^override a\.b=\[1: not YAML"),
        ("a.b=*x", r"^override a\.b=\*x: "),
        ("a.b={x: 1, x: 2}", r"^override .*: a\.b\.x: duplicate key$"),
        ("a.b=1\n2: 3\x07", r"^override a\.b=1\\u000a2: 3\\u0007: not YAML"),
        ("a.password=hunter2", r"^override a\.password=\.\.\.: a\.password: looks like a secret"),
    ],
)
def test_bad_overrides_name_the_override(text, expected):
    told = message(override, BASE, [text])
    assert re.search(expected, told)
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"leaning_rate": 1}, 'o.leaning_rate: unknown key; did you mean "learning_rate"?'),
        (
            {"xyz": 1},
            "o.xyz: unknown key; there is betas, every, groups, label, learning_rate, name, nesterov, ",
        ),
        ({"groups": {"head": {"lrr": 1}}}, 'o.groups.head.lrr: unknown key; did you mean "lr"?'),
        (
            {"learning_rate": "1e-3"},
            'o.learning_rate: "1e-3" is not allowed; must be a number without quotes',
        ),
        ({"learning_rate": True}, "o.learning_rate: true is not allowed; must be a number"),
        ({"learning_rate": -1}, "o.learning_rate: -1 is not allowed; must be greater than 0"),
        ({"learning_rate": float("nan")}, "o.learning_rate: NaN is not allowed; must be a finite number"),
        ({"learning_rate": 1e999}, "o.learning_rate: Infinity is not allowed; must be a finite number"),
        ({"learning_rate": None}, "o.learning_rate: null is not allowed; must be a number"),
        ({"steps": "yes"}, 'o.steps: "yes" is not allowed; must be a whole number'),
        ({"steps": True}, "o.steps: true is not allowed; must be a whole number"),
        ({"steps": 1.5}, "o.steps: 1.5 is not allowed; must be a whole number"),
        ({"steps": 2**63}, "o.steps: 9223372036854775808 is not allowed; must be at most"),
        ({"nesterov": "no"}, 'o.nesterov: "no" is not allowed; must be true or false'),
        ({"nesterov": 1}, "o.nesterov: 1 is not allowed; must be true or false"),
        ({"name": "adm"}, 'o.name: "adm" is not allowed; must be "adam" or "sgd"'),
        ({"every": -1}, 'o.every: -1 is not allowed; must be "auto" or greater than 0'),
        ({"every": "often"}, 'o.every: "often" is not allowed; must be "auto" or a number'),
        ({"label": 7}, "o.label: 7 is not allowed; must be a string (quote what looks like a number)"),
        ({"betas": 0.9}, "o.betas: 0.9 is not allowed; must be a list"),
        ({"betas": [0.9]}, "o.betas.1: is missing"),
        ({"betas": [0.9, "x"]}, 'o.betas.1: "x" is not allowed; must be a number'),
        ({"groups": {"head": 3}}, "o.groups.head: 3 is not allowed; must be a mapping of keys"),
        ([1], "o: [1] is not allowed; must be a mapping of keys"),
        (
            {"lable": 1, "steps": 0, "nesterov": 0},
            "o.steps: 0 is not allowed; must be at least 1 (also refused: o.nesterov, o.lable)",
        ),
        ({"lable": 1, "betas": [0.9]}, "o.betas.1: is missing (also refused: o.lable)"),
        ({"name": "b" * 300}, f'o.name: "{"b" * 74} ..." is not allowed; must be "adam"'),
        (
            {"label": "a\nb" * 99, "steps": "a\nb\u2028"},
            'o.steps: "a\\nb\\u2028" is not allowed; must be a whole',
        ),
    ],
)
def test_misfits_are_told_with_key_value_and_what_is_allowed(mapping, expected):
    assert message(build, Optimizer, mapping, "o").startswith(expected)


def test_what_fits_is_built():
    options = build(Optimizer, {"learning_rate": 1, "steps": 1e4, "betas": [0.5, 1], "root": "~/x", "every": 2})
    assert (options.learning_rate, options.steps, options.betas) == (1.0, 10_000, (0.5, 1.0))
    assert (options.root, options.every) == (Path("~/x"), 2.0)


def test_errors_are_located_in_the_file_the_override_or_the_sweep():
    error = OptionError("a.b", "is odd")
    assert str(BASE.locate(error)) == "exp.yaml:2: a.b: is odd"
    assert str(override(BASE, ["a.b=3"]).locate(error)) == "override a.b=3: a.b: is odd"
    swept = BASE.locate(OptionError("a.z", "is odd"), {"a.z": "a"})
    assert str(swept) == "exp.yaml:1: a.z: is odd (set by a)"


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TRICKY = st.sampled_from(
    ["1e-4", "no", "010", "12:30:00", "2024-01-01", "null", "~", "0x1f", "1_000", "=", "<<", "a: b"]
)
KEYS = st.text(min_size=1).filter(lambda key: key.isprintable() and not is_secret(key)) | TRICKY
VALUES = st.recursive(
    PLAIN | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1e-5, "1e-05"),
        (2.0, "2.0"),
        ("scl", "scl"),
        ("null", '"null"'),
        ("1e3", '"1e3"'),
        ("a: b", '"a: b"'),
        ({"name": "scl", "widths": [8, None], "x": {}}, "{name: scl, widths: [8, null], x: {}}"),
    ],
)
def test_a_value_is_shown_as_one_would_type_it(value, text):
    assert flow(value) == text


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner), max_leaves=5))
def test_what_is_shown_reads_back_under_yaml(value):
    text = flow(value)
    if text.isprintable():
        read = yaml.safe_load(text)
        assert read == value or canonical(parse_yaml(f"a: {text}", "x")[0]["a"]) == canonical(value)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_dumped_yaml_reads_back_as_it_was_here_and_under_yaml_1_1(mapping):
    text = dump_yaml(mapping)
    assert parse_yaml(text, "x")[0] == mapping
    assert canonical(parse_yaml(text, "x")[0]) == canonical(mapping)
    assert yaml.safe_load(text) == mapping


@given(st.text())
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        parse_yaml(text, "x")
    except ConfigError as error:
        assert str(error).isprintable()


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=2), min_size=1, max_size=3), VALUES)
def test_a_set_key_is_got_back_and_the_rest_is_shared(path, value):
    other = {"kept": [1]}
    before = {"other": other}
    after = set_key(before, ".".join(path), value)
    assert get_key(after, ".".join(path)) == value
    assert after["other"] is other
    assert before == {"other": {"kept": [1]}}


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_canonical_text_ignores_order_and_the_spelling_of_whole_numbers(mapping):
    reordered = dict(reversed(mapping.items()))
    assert canonical(reordered) == canonical(mapping)
    assert canonical({"x": 1.0, "y": True}) == canonical({"y": True, "x": 1}) != canonical({"y": 1, "x": 1})
