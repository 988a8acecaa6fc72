"""Probes of frozen features, one file each: `Config` and `run(config, train, test, device, seed) -> metrics`.

A file may have `check(config, train, test)` of `Facts`, too, which raises OptionError, with keys relative to the
probe, for what cannot work; it is asked before anything is trained, as soon as something is known.

`evaluate.probes` in an experiment names the files; those that begin with an underscore are shared by them.
"""

from runner.features import FrozenFeatures

__all__ = ["FrozenFeatures"]
