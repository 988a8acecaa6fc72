"""Which limits hold for a job, from what `sacctmgr` and `scontrol` print."""

import pytest

from runner import slurm
from runner.arrays import Bound
from runner.limits import Accounts, Cap, Cluster, Job, Longest, find_longest, list_caps, next_job, parse_table
from runner.profile import Profile

QOS = {
    "normal": {"Flags": ""},
    "small": {"Flags": "DenyOnLimit", "MaxWall": "00:30:00", "MaxSubmitJobsPerUser": "3", "GrpSubmitJobs": "50"},
    "big": {"Flags": "OverPartQOS", "MaxSubmitJobsPerUser": "900"},
    "of_gpu": {"Flags": "", "MaxSubmitJobsPerUser": "20", "MaxSubmitJobsPerAccount": "40"},
}
ME = {"DefaultAccount": "lab", "Partition": "", "QOS": "normal,small,big", "DefaultQOS": "", "MaxSubmitJobs": ""}
ACCOUNTS = Accounts(
    (
        {**ME, "Account": "lab", "MaxSubmitJobs": "100"},
        {**ME, "Account": "lab", "Partition": "gpu", "MaxSubmitJobs": "7"},
        {**ME, "Account": "course", "QOS": "small", "MaxWall": "1-00:00:00"},
        {**ME, "Account": "guests", "DefaultQOS": "big"},
    ),
    {
        "root": {"ParentName": "", "GrpSubmitJobs": ""},
        "physics": {"ParentName": "root", "GrpSubmitJobs": "200"},
        "lab": {"ParentName": "root", "GrpSubmitJobs": ""},
        "course": {"ParentName": "physics", "GrpSubmitJobs": "30"},
        "seminar": {"ParentName": "course", "GrpSubmitJobs": ""},
    },
    QOS,
)
CLUSTER = Cluster(
    {"MaxArraySize": "1001"}, {"cpu": {"Default": "YES", "QoS": "N/A"}, "gpu": {"Default": "NO", "QoS": "of_gpu"}}
)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"MaxArraySize": "1001"}, 1001),  # indices 0 to 1000
        ({"MaxArraySize": "5", "SchedulerParameters": "defer,max_array_tasks=3"}, 3),
        ({"MaxArraySize": "1001", "SchedulerParameters": "max_array_tasks=5000"}, 1001),
        ({"MaxArraySize": "0"}, 1),  # no arrays at all
        ({}, 1001),
    ],
)
def test_an_array_has_as_many_elements_as_indices_below_the_limit(config, size):
    assert Cluster(config, {}).array_size == size


@pytest.mark.parametrize(
    ("keys", "account", "qos", "partition"),
    [
        ({}, "lab", "normal", "cpu"),
        ({"partition": "gpu,cpu"}, "lab", "normal", "gpu"),
        ({"account": "course"}, "course", "small", "cpu"),  # the only one that it may use
        ({"account": "guests"}, "guests", "big", "cpu"),
        ({"account": "guests", "qos": "small"}, "guests", "small", "cpu"),
        ({"account": "unknown"}, "unknown", "normal", "cpu"),
    ],
)
def test_what_is_left_out_of_a_profile_has_the_defaults_of_the_accounts(keys, account, qos, partition):
    job = next_job(Profile(cluster="slurm", **keys), ACCOUNTS, CLUSTER)
    assert job == Job(slurm.user_name(), account, qos, partition)


def caps(account: str, qos: str, partition: str) -> dict[str, tuple[int, set[str]]]:
    found = list_caps(Job("me", account, qos, partition), ACCOUNTS, CLUSTER)
    return {cap.words: (cap.limit, set(cap.same)) for cap in found}


def test_of_each_kind_the_first_limit_that_is_set_holds():
    assert caps("lab", "normal", "cpu") == {"MaxSubmitJobsPerUser of account lab": (100, {"account", "user"})}
    assert caps("course", "small", "cpu") == {
        "MaxSubmitJobsPerUser of QOS small": (3, {"qos", "user"}),
        "GrpSubmitJobs of QOS small": (50, {"qos"}),
    }
    assert caps("course", "normal", "cpu") == {
        "GrpSubmitJobs of account course": (30, {"account"}),
        "GrpSubmitJobs of account physics": (200, {"account"}),
    }


def test_an_account_counts_the_jobs_of_all_that_are_part_of_it():
    jobs = [Job("you", account, "normal", "cpu") for account in ("seminar", "course", "physics", "lab", "unknown")]
    found = list_caps(Job("me", "seminar", "normal", "cpu"), ACCOUNTS, CLUSTER)
    assert [cap.bound(jobs) for cap in found] == [
        Bound(30, 2, "GrpSubmitJobs of account course"),
        Bound(200, 3, "GrpSubmitJobs of account physics"),
    ]


def test_the_qos_of_a_partition_comes_first_unless_the_job_s_own_is_over_it():
    of_gpu = {"MaxSubmitJobsPerAccount of QOS of_gpu": (40, {"partition", "account"})}
    assert caps("lab", "small", "gpu") == {
        "MaxSubmitJobsPerUser of QOS of_gpu": (20, {"partition", "user"}),
        "GrpSubmitJobs of QOS small": (50, {"qos"}),
        **of_gpu,
    }
    assert caps("lab", "big", "gpu") == {"MaxSubmitJobsPerUser of QOS big": (900, {"qos", "user"}), **of_gpu}


@pytest.mark.parametrize(
    ("account", "qos", "longest"),
    [
        ("lab", "normal", None),
        ("course", "small", Longest(1800, "MaxWall of QOS small")),
        ("course", "normal", Longest(86400, "MaxWall of account course")),
    ],
)
def test_the_longest_time_is_that_of_the_first_who_says(account, qos, longest):
    assert find_longest(Job("me", account, qos, "cpu"), ACCOUNTS, CLUSTER) == longest


def test_only_jobs_that_agree_count():
    jobs = [Job("me", "lab", "small", "gpu"), Job("me", "lab", "normal", "gpu"), Job("you", "lab", "small", "gpu")]
    cap = Cap(3, "MaxSubmitJobsPerUser of QOS small", {"qos": ("small",), "user": ("me",)})
    assert cap.bound(jobs) == Bound(3, 1, cap.words)
    assert Cap(9, "GrpSubmitJobs of QOS small", {"qos": ("small",)}).bound(jobs).room == 7
    assert Bound(1, 4, "x").room == 0


def test_lines_that_are_none_are_left_out():
    assert parse_table("a|1|\nsacctmgr: warning\nb||\n", ("Name", "Limit", "Flags")) == [
        {"Name": "a", "Limit": "1", "Flags": ""},
        {"Name": "b", "Limit": "", "Flags": ""},
    ]
