"""The tokenizer that came with a pretrained model, by name or folder, by way of `transformers`.

Its ids go up by one, because id 0 is padding here and may be a token there; the `huggingface` encoder takes
them down again.
"""

import hashlib
import json
from typing import Any

from runner.errors import ConfigError
from runner.tokenizers.tokenizer import Kind


class PretrainedTokenizer:
    """The ids of the model's own tokenizer, special tokens included, each plus one."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = len(tokenizer) + 1

    def encode(self, text: str, kind: Kind, length: int) -> list[int]:
        """The ids of a text, `length` of them at most, special tokens among them."""
        ids = self.tokenizer(text, truncation=True, max_length=length)["input_ids"]
        # Below the number of special tokens, transformers does not cut.
        return [i + 1 for i in ids[:length]] or [self.vocabulary - 1]

    def describe(self) -> str:
        """What its ids mean, as JSON: a hash of its vocabulary, whatever folder it came from."""
        words = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return json.dumps({"name": "pretrained", "sha256": hashlib.sha256(words.encode()).hexdigest()})


def load_pretrained_tokenizer(source: str, download: bool = False) -> PretrainedTokenizer:
    """Raises ConfigError when there is no such tokenizer on this machine and it may not be downloaded."""
    from transformers import AutoTokenizer  # heavy, and only needed here

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=not download, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(not_found("tokenizer", source, download, error)) from None
    return PretrainedTokenizer(tokenizer)


def not_found(what: str, source: str, download: bool, error: Exception) -> str:
    """One line that says what could not be loaded, and what to do."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    remedy = "" if download else "; give a folder, or set download=true where there is a network"
    return f"no {what} {source!r} here{remedy} ({reason})"
