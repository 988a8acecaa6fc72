"""Byte-pair encoding trained on the texts at hand, by way of `tokenizers`.

Source: byte-level BPE of GPT-2 (Radford et al. 2019). The same texts give the same file, byte for byte.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import DataError
from runner.files import replacing
from runner.tokenizers.tokenizer import Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD = "<pad>"
SPACE = " "
"""Stands in for an empty text, which would have no token at all."""


class BpeTokenizer:
    """Merges of bytes learnt from training texts."""

    def __init__(self, merges: "Tokenizer") -> None:
        self.merges = merges
        self.vocabulary: int = merges.get_vocab_size()

    def encode(self, text: str, kind: Kind, length: int) -> list[int]:
        """The ids of a text, `length` of them at most."""
        ids: list[int] = self.merges.encode(text or SPACE, add_special_tokens=False).ids
        return ids[:length]

    def describe(self) -> str:
        """What its ids mean: the JSON that `parse_bpe` reads."""
        text: str = self.merges.to_str(pretty=True)
        return text

    def save(self, path: Path) -> None:
        """Write the JSON file that `load_bpe` reads, whole or not at all."""
        with replacing(path) as file:
            file.write(self.describe().encode())


def train_bpe(texts: Iterable[str], vocabulary: int) -> BpeTokenizer:
    """At most `vocabulary` ids: padding, the 256 bytes, and the merges made most often in the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # heavy, and only needed here

    merges = Tokenizer(models.BPE())
    merges.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    merges.train_from_iterator(texts, trainer)
    # The library reads special tokens in a text, too; a text that says <pad> means the five characters.
    merges.encode_special_tokens = True
    return BpeTokenizer(merges)


def load_bpe(path: Path) -> BpeTokenizer:
    """What `save` wrote; raises DataError if the file is missing, broken, or its id 0 is not padding."""
    try:
        return parse_bpe(path.read_text(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a tokenizer file: it is not UTF-8") from None


def parse_bpe(text: str, place: str) -> BpeTokenizer:
    """What `describe` said; `place` is where the text is from, for the DataError of one that is broken."""
    from tokenizers import Tokenizer

    try:
        merges = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise DataError(f"{place}: not a tokenizer file: {error}") from None
    if merges.id_to_token(0) != PAD:
        raise DataError(f"{place}: its id 0 is {merges.id_to_token(0)!r}, should be {PAD!r}; let BPE train its own")
    merges.encode_special_tokens = True
    return BpeTokenizer(merges)
