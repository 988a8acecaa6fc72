"""Probes of frozen features, one file each: `Config` and `run(config, train, test, device, seed) -> metrics`.

`evaluate.probes` in an experiment names the files; those that begin with an underscore are shared by them.
"""

from runner.features import FrozenFeatures

__all__ = ["FrozenFeatures"]
