"""In which order lines stand: by their settings, numbers by size and words as they come."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from runner.strict_yaml import is_number
from runner.tables import same_text, varying_keys

Item = TypeVar("Item")


def sort_by_settings(items: Iterable[Item], settings_of: Callable[[Item], dict[str, Any]]) -> list[Item]:
    """The items by the first setting in which they differ, then by the next; what has none comes first."""
    items = list(items)
    settings = [settings_of(item) for item in items]
    keys = varying_keys(settings)
    ranks = [_ranks(settings, key) for key in keys]

    def place(item: Item) -> list[int]:
        own = settings_of(item)
        return [rank[same_text(own[key])] if key in own else -1 for key, rank in zip(keys, ranks, strict=True)]

    return sorted(items, key=place)


def sort_values(values: Iterable[Any]) -> list[Any]:
    """Each value once: numbers by size, if all are numbers."""
    known = list({same_text(value): value for value in values}.values())
    numbers = all(map(is_number, known))
    return sorted(known) if numbers else known


def _ranks(settings: list[dict[str, Any]], key: str) -> dict[str, int]:
    values = sort_values(each[key] for each in settings if key in each)
    return {same_text(value): place for place, value in enumerate(values)}
