"""What every plug-in must keep, as functions for tests: of this package's own and of yours.

    from runner.contract import check_method

    def test_my_method_keeps_the_contract():
        check_method({"name": "my_method", "width": 16})

Each takes a group as it stands in an experiment file, by name and options, and raises an AssertionError that says what
does not hold. The random generators, and what torch was set to, are as before afterwards.
"""

from runner.contract.dataset import check_dataset
from runner.contract.encoder import check_encoder
from runner.contract.method import check_method
from runner.contract.schedule import check_schedule

__all__ = ["check_dataset", "check_encoder", "check_method", "check_schedule"]
