"""new_name keeps the contract of its family; experiments/new_name/debug.yaml runs it."""

from runner.contract import check_method


def test_new_name_keeps_the_contract() -> None:
    check_method({"name": "new_name"})
