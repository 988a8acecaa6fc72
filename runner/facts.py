"""What is known of data, and of what a method says of them, before anything is computed; what evaluations ask of it."""

from typing import TYPE_CHECKING, Literal, NamedTuple

from runner.explain import OptionError
from runner.strict_yaml import show

if TYPE_CHECKING:
    from runner.dataset import Split


class Facts(NamedTuple):
    """Of one split; None is what is not known yet, and refuses nothing."""

    outputs: tuple[str, ...] | None = None
    """Names that the method's `embed` gives, `features` first."""

    labels: Literal["none", "one", "several"] | None = None
    """How many a sample has."""

    texts: tuple[str, ...] | None = None
    """Names of the texts of the data set."""

    data: "Split | None" = None
    """The samples themselves."""

    def need_output(self, key: str, name: str) -> None:
        """Raise OptionError, with a key relative to the probe, where the method does not give `name`."""
        if self.outputs is not None and name not in self.outputs:
            raise OptionError(key, f'"{name}" is not allowed; the method gives {", ".join(self.outputs)}')

    def need_text(self, key: str, name: str) -> None:
        """Raise OptionError where the data set has no text of this name."""
        if self.texts is not None and name not in self.texts:
            raise OptionError(key, f'"{name}" is not allowed; the data set has {", ".join(self.texts) or "no texts"}')

    def need_one_label(self) -> None:
        """Raise OptionError where a sample has no label, or several."""
        if self.labels in ("none", "several"):
            remedy = "; choose multilabel or class_calls" if self.labels == "several" else ""
            raise OptionError("", f"needs one label a sample, and these have {self.labels}{remedy}")

    def need_classes_of(self, train: "Facts | None") -> None:
        """Raise OptionError where a label means another class than it does of the training samples."""
        if train is None or train.data is None or self.data is None:
            return
        had, has = train.data.classes, self.data.classes
        if had == has or not had or not has:  # what has no names says nothing
            return
        problem = f"these have {len(has)} classes, the training samples {len(had)}"
        for label, (one, other) in enumerate(zip(had, has, strict=False)):
            if one != other:
                problem = f"label {label} is {show(other)} here and {show(one)} of the training samples"
                break
        raise OptionError("", f"compares labels, and {problem}; choose data of the same classes")

    def need_labels(self) -> None:
        """Raise OptionError where samples have no labels."""
        if self.labels == "none":
            raise OptionError("", "needs labelled samples, and these have no labels")
