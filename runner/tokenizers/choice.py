"""Which tokenizer a config asks for."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from runner.explain import OptionError
from runner.schema import Options
from runner.tokenizers.bpe import load_bpe, parse_bpe, train_bpe
from runner.tokenizers.byte import ByteTokenizer
from runner.tokenizers.byte_hash import ByteHashTokenizer
from runner.tokenizers.pretrained import load_pretrained_tokenizer
from runner.tokenizers.tokenizer import Tokenizer
from runner.tokenizers.words import WordTokenizer

MINIMAL = {"words": 2, "byte_hash": 2, "bpe": 257}
"""Fewest ids: padding and one more, or all bytes."""


class TokenizerOptions(Options):
    name: Literal["words", "bytes", "byte_hash", "bpe", "pretrained"] = "words"
    """words: hashed words, identifiers taken apart. bytes: one id a byte. byte_hash: ContraBin's hashes of four
    bytes. bpe: trained on the training texts. pretrained: a model's own, by way of transformers."""

    vocabulary: int = Field(default=8192, ge=2)
    """Number of ids for words, byte_hash and bpe; the others bring their own."""

    source: str | None = None
    """pretrained: name or folder of the model. bpe: a saved tokenizer.json to use instead of training."""

    download: bool = False
    """pretrained: fetch it when it is not on this machine."""

    @property
    def is_trained(self) -> bool:
        """Whether its ids depend on the texts it is trained on."""
        return self.name == "bpe" and self.source is None

    @model_validator(mode="after")
    def _consistent(self) -> "TokenizerOptions":
        if self.name == "pretrained" and self.source is None:
            raise OptionError("source", "is missing; a pretrained tokenizer needs a name or a folder")
        if self.source is not None and self.name not in ("pretrained", "bpe"):
            raise OptionError("source", f"{self.source!r} is not allowed; tokenizer {self.name} has none")
        if self.vocabulary < (least := MINIMAL.get(self.name, 2)):
            raise OptionError("vocabulary", f"{self.vocabulary} is not allowed; {self.name} needs at least {least}")
        return self


def build_tokenizer(
    options: TokenizerOptions, training_texts: Callable[[], Iterable[str]], described: str | None = None
) -> Tokenizer:
    """`training_texts` is called only by a tokenizer that is to be trained.

    `described` is the tokenizer of the model at hand, by its `describe`: a trained one is taken over, not trained
    again on other texts.
    """
    if options.name == "bytes":
        return ByteTokenizer()
    if options.name == "byte_hash":
        return ByteHashTokenizer(options.vocabulary)
    if options.name == "words":
        return WordTokenizer(options.vocabulary)
    if options.source is None:
        if described is not None and name_of(described) == "bpe":
            return parse_bpe(described, "tokenizer of the model")
        return train_bpe(training_texts(), options.vocabulary)
    if options.name == "bpe":
        return load_bpe(Path(options.source).expanduser())
    return load_pretrained_tokenizer(options.source, options.download)


def name_of(described: str) -> str:
    """The `name` of a tokenizer by its `describe`; the file of a trained one has none, and is bpe."""
    return str(json.loads(described).get("name", "bpe"))
