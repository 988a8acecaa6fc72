"""Where a parameter that nobody writes down comes from, and how a random one is drawn."""

import math
from hashlib import blake2b
from typing import Annotated, Any, Self

from pydantic import Field, model_serializer, model_validator

from runner.schema import Options, canonical

Values = Annotated[list[Any], Field(min_length=1)]


class Distribution(Options):
    """Where a random parameter comes from; one of these."""

    uniform: tuple[float, float] | None = None
    """[low, high]"""

    loguniform: tuple[float, float] | None = None
    """[low, high], both above 0; the logarithm is uniform."""

    whole: tuple[int, int] | None = Field(default=None, alias="int")
    """[low, high], both included."""

    choice: Values | None = None
    """Any of these values."""

    @model_validator(mode="after")
    def check(self) -> Self:
        given = [limits for limits in (self.uniform, self.loguniform, self.whole) if limits is not None]
        if len(given) + (self.choice is not None) != 1:
            raise ValueError("needs exactly one of uniform, loguniform, int and choice")
        if given and given[0][0] >= given[0][1]:
            raise ValueError(f"must go from low to high, got {list(given[0])}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform must start above 0, got {list(self.loguniform)}")
        return self

    @model_serializer
    def dump(self) -> dict[str, Any]:
        """As it is written, `{loguniform: [0.001, 0.1]}`; choices in an order of their own."""
        names = {name: field.alias or name for name, field in type(self).model_fields.items()}
        found = {names[name]: value for name, value in self if value is not None}
        return {"choice": self.ends} if "choice" in found else found

    @property
    def ends(self) -> list[Any]:
        """The lowest and the highest value, or all choices: what must be allowed for anything to be drawn."""
        if self.choice is not None:
            return sorted(self.choice, key=canonical)
        limits = self.uniform or self.loguniform or self.whole
        assert limits is not None
        return list(limits)


def draw(distribution: Distribution, seed: int, name: str, index: int) -> Any:
    """Sample number `index` of a parameter: a function of (seed, name, index), whatever else is drawn."""
    digest = blake2b(f"{seed}/{name}/{index}".encode(), digest_size=8).digest()
    share = (int.from_bytes(digest, "big") >> 11) / 2**53
    if distribution.choice is not None:
        choices = distribution.ends
        return choices[int(share * len(choices))]
    if distribution.whole is not None:
        low, high = distribution.whole
        return low + int(share * (high - low + 1))
    if distribution.uniform is not None:
        bottom, top = distribution.uniform
        value = bottom + share * (top - bottom)
    else:
        assert distribution.loguniform is not None
        bottom, top = distribution.loguniform
        value = math.exp(math.log(bottom) + share * (math.log(top) - math.log(bottom)))
    return round_within(value, bottom, top)


def round_within(value: float, bottom: float, top: float) -> float:
    """Six digits: readable, and the same where another libm rounds the last bit of exp another way."""
    return min(max(float(f"{value:.6g}"), bottom), top)
