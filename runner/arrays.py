"""How many trials a submission sends now, and as which job arrays: decided from values, nothing is asked here.

`parallel` bounds a submission and Slurm's %N a single array, so several arrays share it. Each gets trials in
proportion to its share, dealt in turn: arrays end at about the same time, and the first trials of a sweep start first.
Where there are more arrays than `parallel`, some wait for others to end (`afterany`), one trial at a time, so that
nothing is idle at the joints.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from runner.explain import counted


@dataclass(frozen=True)
class Bound:
    """A limit of the cluster on jobs that wait or run; each element of an array is one."""

    limit: int
    used: int
    words: str
    """Slurm's name for it, and whose it is: "MaxSubmitJobsPerUser of QOS small"."""

    @property
    def room(self) -> int:
        return max(self.limit - self.used, 0)


@dataclass(frozen=True)
class Array:
    """One job array of a submission."""

    members: tuple[int, ...]
    """Which trials, by their place in the submission; element i is the i-th of them."""

    at_once: int
    """How many of them run at a time."""

    after: int | None = None
    """The array, by its place among those of the submission, that must have ended before."""


def tightest(bounds: Sequence[Bound]) -> Bound | None:
    """The bound that leaves the least room."""
    return min(bounds, key=lambda bound: bound.room, default=None)


def tell_rest(count: int, bound: Bound, fitting: int | None = None) -> str | None:
    """One line about the trials of `count` that there is no room for; None when all fit.

    So many are `fitting`, of which a job may hold several; without it each takes a job.
    """
    fitting = bound.room if fitting is None else fitting
    if count <= fitting:
        return None
    sent = fitting or "none"
    there = f"{bound.words} is {bound.limit}, and {bound.used} jobs are there"
    rest = f"`runner submit` again, or with --wait, sends the other {count - fitting} once there is room"
    return f"{sent} of {counted(count, 'trial')} sent: {there}; {rest}"


def tell_arrays(arrays: Sequence[Array], array_size: int) -> str | None:
    """One line about how a submission was split; None for a single array."""
    if len(arrays) < 2:
        return None
    lanes = [array for array in arrays if array.after is None]
    sizes = [len(array.members) for array in arrays]
    least, most = min(sizes), max(sizes)
    words = (
        f"{counted(sum(sizes), 'trial')} go as {len(arrays)} arrays of {least if least == most else f'{least}-{most}'}"
    )
    chained = f", {len(arrays) - len(lanes)} of them after another" if len(lanes) < len(arrays) else ""
    at_once = sum(array.at_once for array in lanes)
    return f"{words} (the cluster takes {array_size} in one){chained}; {at_once} at a time in all"


def plan_arrays(kinds: Sequence[Hashable], parallel: int, array_size: int) -> list[Array]:
    """The arrays for trials of these kinds, in the order in which they are sent.

    All trials of an array are of one kind, as what they run on is; never more than `parallel` of all of them run at a
    time, and none has more than `array_size` elements.
    """
    assert parallel > 0 and array_size > 0, (parallel, array_size)
    groups: dict[Hashable, list[int]] = {}
    for index, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(index)
    if len(groups) > parallel:
        lanes = _deal(list(range(len(groups))), _split(len(groups), parallel))
        members = list(groups.values())
        chains = [[cut for group in lane for cut in _cut(members[group], array_size)] for lane in lanes]
        return _chain([(chain, 1) for chain in chains])
    shares = _share([len(group) for group in groups.values()], parallel)
    lanes_with_shares = []
    for group, share in zip(groups.values(), shares, strict=True):
        lanes_with_shares += _lanes(group, share, array_size)
    return _chain(lanes_with_shares)


def _share(sizes: list[int], parallel: int) -> list[int]:
    """`parallel` among groups: at least one each, and then whoever has the most trials for what it has."""
    if sum(sizes) <= parallel:
        return sizes
    total, spare = sum(sizes), parallel - len(sizes)
    shares = [1 + spare * size // total for size in sizes]
    for _ in range(parallel - sum(shares)):
        neediest = max(range(len(sizes)), key=lambda group: sizes[group] / shares[group])
        shares[neediest] += 1
    return [min(share, size) for share, size in zip(shares, sizes, strict=True)]


def _lanes(members: list[int], parallel: int, array_size: int) -> list[tuple[list[list[int]], int]]:
    """Chains of arrays of one kind, with what each may run at a time."""
    largest_share = array_size * parallel // len(members)
    if largest_share == 0:
        lanes = _deal(members, _split(len(members), parallel))
        return [(_cut(lane, array_size), 1) for lane in lanes]
    shares = _split(parallel, -(-parallel // largest_share))
    # Rounded together, so that each is its due or one trial off.
    ends = [len(members) * end // parallel for end in accumulate(shares)]
    sizes = [end - begin for begin, end in pairwise([0, *ends])]
    return [([lane], share) for lane, share in zip(_deal(members, sizes), shares, strict=True)]


def _chain(lanes: list[tuple[list[list[int]], int]]) -> list[Array]:
    """Array by array, so that all lanes begin before any goes on."""
    arrays: list[Array] = []
    last: dict[int, int] = {}
    for place in range(max((len(chain) for chain, _ in lanes), default=0)):
        for lane, (chain, share) in enumerate(lanes):
            if place < len(chain):
                arrays.append(Array(tuple(chain[place]), min(share, len(chain[place])), last.get(lane)))
                last[lane] = len(arrays) - 1
    return arrays


def _split(count: int, parts: int) -> list[int]:
    """A number as a sum of `parts` that differ by one at most."""
    return [count // parts + (part < count % parts) for part in range(parts)]


def _cut(members: list[int], array_size: int) -> list[list[int]]:
    """In order, as few pieces as there must be, of nearly equal size."""
    ends = list(accumulate(_split(len(members), -(-len(members) // array_size)), initial=0))
    return [members[begin:end] for begin, end in pairwise(ends)]


def _deal(members: list[int], sizes: list[int]) -> list[list[int]]:
    """Members in turn to hands of these sizes, so that each fills evenly from the first to the last."""
    assert sum(sizes) == len(members), (sizes, len(members))
    turns = sorted(((place + 0.5) / size, hand) for hand, size in enumerate(sizes) for place in range(size))
    hands: list[list[int]] = [[] for _ in sizes]
    for member, (_, hand) in zip(members, turns, strict=True):
        hands[hand].append(member)
    return hands
