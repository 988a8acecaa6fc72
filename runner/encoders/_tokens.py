"""What encoders of sequences ask of the data."""

from runner.errors import ConfigError
from runner.proteins.alphabet import VOCABULARY


def check_tokens(encoder: str, vocabulary: int) -> None:
    """Raises ConfigError if the data hold no tokens."""
    if vocabulary == 0:
        raise ConfigError(f"encoder.name: {encoder} reads sequences of tokens, and the data hold none")


def check_amino_acids(encoder: str, vocabulary: int) -> None:
    """Raises ConfigError unless the tokens are of an alphabet of `runner.proteins.alphabet`."""
    check_tokens(encoder, vocabulary)
    if vocabulary not in VOCABULARY.values():
        sizes = " or ".join(map(str, VOCABULARY.values()))
        raise ConfigError(
            f"encoder.name: {encoder} reads the {sizes} tokens of proteins, and the data have {vocabulary}"
        )
