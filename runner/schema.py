"""Base class of every option model; the strict YAML loader joins it here."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Frozen, strict about unknown keys, with a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
