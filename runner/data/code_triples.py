"""Functions in C as token ids of their comment, their source and a binary, from files of triples.

`runner data build-triples` writes such files. Train and test are different packages, so that nothing is
recognised by the style of its authors or by code of its own; validation is held out of the training packages
by a hash of the function, the same one whatever else the files hold.

Shapes: N rows, L tokens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator

from runner.code.strip import strip_asm, strip_ir
from runner.code.triple import Triple, read_triples
from runner.dataset import Records
from runner.errors import DataError
from runner.explain import OptionError, did_you_mean
from runner.schema import Options
from runner.tokenizers.choice import TokenizerOptions, build_tokenizer
from runner.tokenizers.tokenizer import PADDING, Kind, encode_all

KIND = "records"
SPLITS = ("train", "validation", "test")
TOKENIZES = True
LABELS = "one"
FIRST_CHARACTERS = 60
"""Of a comment that is shown."""

TEXTS = ("name", "comment", "function", "package", "level", "compiler")

Split = Literal["train", "validation", "test"]
Form = Literal["O0", "O1", "O2", "O3", "ir"]
Length = Annotated[int, Field(ge=1)]

SHIPPED = Path(__file__).parents[2] / "experiments" / "samples" / "code" / "triples.jsonl.gz"


class Config(Options):
    paths: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Files of triples, .jsonl or .jsonl.gz. None: the sample in experiments/samples/code."""

    test_packages: tuple[str, ...] = Field(min_length=1)
    """Packages of the test split."""

    train_packages: tuple[str, ...] = ()
    """Packages of the training and validation splits; none: all that are not tested on."""

    validation_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the functions of the training packages that validation holds out."""

    binaries: tuple[Form, ...] = Field(default=("O2",), min_length=1)
    """What a binary is: disassembly at an optimisation level, or ir. A function has a row for each it has."""

    names: Literal["kept", "stripped"] = "kept"
    """stripped: without the names of functions and variables that relocations leave in a binary."""

    label: Literal["function", "package", "level"] = "function"
    """What makes rows belong together; level is the entry of `binaries`."""

    source_length: Length = 512
    """Tokens of a source at most; what is longer is cut."""

    binary_length: Length = 512
    """Tokens of a binary at most."""

    comment_length: Length = 64
    """Tokens of a comment at most."""

    tokenizer: TokenizerOptions = TokenizerOptions()
    """One for all three texts. bpe is trained on the training texts; data that are evaluated beside them, and
    weights that start from `init_from`, keep the ids of the model's own training."""

    limit: Length | None = None
    """At most this many rows of a split, the first ones. None: all."""

    @property
    def trains_tokenizer(self) -> bool:
        """Whether token ids depend on these training texts."""
        return self.tokenizer.is_trained

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if both := sorted(set(self.train_packages) & set(self.test_packages)):
            raise OptionError("train_packages", f"{both[0]!r} is not allowed; it is one of test_packages")
        if len(set(self.binaries)) < len(self.binaries):
            raise OptionError("binaries", f"{list(self.binaries)} names one twice")
        return self


class Example(NamedTuple):
    """A row before it is tokens."""

    triple: Triple
    form: Form
    binary: str

    @property
    def kind(self) -> Kind:
        return "ir" if self.form == "ir" else "asm"


def sources(config: Config) -> list[Path]:
    """What must be there before; the model behind a pretrained tokenizer may be in a cache."""
    return [Path(path).expanduser() for path in config.paths or [str(SHIPPED)]]


def build(config: Config, split: Split, tokenizer: str | None = None) -> Records:
    """Columns `source`, `binary` and `comment`, each (N, L) int64 with 0 for padding.

    `tokenizer` describes the one of the model; a tokenizer that would be trained on this config's own training texts
    is that one instead, so that other data have the ids that the model knows.

    Texts: `name`, `comment`, `function` (unique, unlike its name), `package`, `level` (as in `binaries`), `compiler`.

    Raises DataError if a file is missing or broken or the split is empty, ConfigError for an unknown package.
    """
    triples = read_all(config)
    rows = choose_examples(config, split, triples)
    encoder = build_tokenizer(config.tokenizer, lambda: _texts(choose_examples(config, "train", triples)), tokenizer)
    columns = {
        "source": encode_all(encoder, [("source", row.triple.source) for row in rows], config.source_length),
        "binary": encode_all(encoder, [(row.kind, row.binary) for row in rows], config.binary_length),
        "comment": encode_all(encoder, [("comment", row.triple.comment) for row in rows], config.comment_length),
    }
    classes = list_classes(config, triples)
    place = {name: index for index, name in enumerate(classes)}
    labels_N = torch.tensor([place[_label(config, row)] for row in rows], dtype=torch.int64)
    return Records(
        columns,
        labels_N,
        classes,
        encoder.vocabulary,
        lengths={name: (column != PADDING).sum(dim=1) for name, column in columns.items()},
        texts={
            "name": tuple(row.triple.name for row in rows),
            "comment": tuple(row.triple.comment for row in rows),
            "function": tuple(_identify(row.triple) for row in rows),
            "package": tuple(row.triple.package for row in rows),
            "level": tuple(row.form for row in rows),
            "compiler": tuple("clang" if row.form == "ir" else "gcc" for row in rows),
        },
        tokenizer=encoder.describe(),
    )


def read_all(config: Config) -> list[Triple]:
    """The functions of all files, in order; of equal ones the first, so that none is on both sides of a split."""
    found: dict[str, Triple] = {}
    for path in sources(config):
        triples = list(read_triples(path))
        if not triples:
            raise DataError(f"{path}: holds no triples; `runner data build-triples` writes such a file")
        for triple in triples:
            found.setdefault(triple.key, triple)
    return list(found.values())


def choose_examples(config: Config, split: Split, triples: Sequence[Triple]) -> list[Example]:
    """The rows of a split before they are tokens.

    Raises DataError if there are none, ConfigError for a package that the files do not hold.
    """
    there = sorted({triple.package for triple in triples})
    for key in ("train_packages", "test_packages"):
        if unknown := [name for name in getattr(config, key) if name not in there]:
            raise OptionError(f"data.{key}", f"{unknown[0]!r} is not in the files; {did_you_mean(unknown[0], there)}")
    chosen = [triple for triple in triples if split_of(config, triple) == split]
    rows = [row for triple in chosen for row in _binaries(config, triple)][: config.limit]
    if not rows:
        raise DataError(f"code triples: the {split} split has no function with {' or '.join(config.binaries)}")
    return rows


def split_of(config: Config, triple: Triple) -> Split | None:
    """The split of a function, by its package and then by its hash; None if its package is in neither."""
    if triple.package in config.test_packages:
        return "test"
    if config.train_packages and triple.package not in config.train_packages:
        return None
    return "validation" if int(triple.key[:8], 16) < config.validation_share * 2**32 else "train"


def list_classes(config: Config, triples: Sequence[Triple]) -> tuple[str, ...]:
    """The classes of the label, the same ones for every split."""
    if config.label == "level":
        return tuple(config.binaries)
    if config.label == "package":
        return tuple(sorted({triple.package for triple in triples}))
    return tuple(dict.fromkeys(map(_identify, triples)))


def _label(config: Config, row: Example) -> str:
    if config.label == "level":
        return row.form
    return row.triple.package if config.label == "package" else _identify(row.triple)


def _identify(triple: Triple) -> str:
    """Also apart from other functions of the same name, which #if puts into one file."""
    return f"{triple.package}/{triple.file}:{triple.name}:{triple.key[:8]}"


def _binaries(config: Config, triple: Triple) -> Iterator[Example]:
    for form in config.binaries:
        if text := triple.ir if form == "ir" else triple.asm.get(form, ""):
            strip = strip_ir if form == "ir" else strip_asm
            yield Example(triple, form, strip(text) if config.names == "stripped" else text)


def _texts(rows: Sequence[Example]) -> Iterator[str]:
    for row in rows:
        yield from (row.triple.source, row.binary, row.triple.comment)


def describe(data: Records, row: int) -> str:
    """A function by its package, name and form, with the beginning of its comment."""
    package, name, level, comment = (data.texts[text][row] for text in ("package", "name", "level", "comment"))
    return f"{package} {name}, {level}: {' '.join(comment.split())[:FIRST_CHARACTERS]}"
