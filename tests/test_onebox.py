"""The one-machine Slurm: it starts, preempts like a real one, stays on loopback, and leaves nothing."""

import contextlib
import multiprocessing
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from runner import onebox
from runner.errors import ConfigError, SubmissionError
from runner.onebox import cluster as cluster_files
from runner.onebox import debian
from runner.onebox.daemon import start_daemon, wait_until
from runner.onebox.daemons import job_processes
from runner.onebox.ports import claimed_ports
from runner.slurm import cancel, show_job
from tests.slurm_cluster import environment_of, own_cluster, sbatch, skip_without_slurm, state, wait_for

COLD_START_LIMIT_SECONDS = 15


def printed(folder: Path, *options: str) -> list[str]:
    """The lines that a batch job prints."""
    out = folder / "out"
    job = sbatch(f"--output={out}", *options)
    wait_for(lambda: state(job), 20, "the end of a job", until="COMPLETED".__eq__)
    return out.read_text().splitlines()


def names_of(processes: list[psutil.Process]) -> dict[int, str]:
    """By pid, of those that have not ended meanwhile."""
    names = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            names[process.pid] = process.name()
    return names


def processes_of(cluster: onebox.Cluster) -> dict[int, str]:
    """pid and name of all that belongs to the cluster by environment, working folder or open folder."""
    found = {}
    for process in psutil.process_iter():
        try:
            ours = str(cluster.slurm_conf) == process.environ().get("SLURM_CONF")
            if (ours or Path(process.cwd()).is_relative_to(cluster.folder)) and process.status() != "zombie":
                found[process.pid] = process.name()
        except psutil.Error:
            continue
    return found


def listening(pids: list[int]) -> dict[tuple[str, int], int]:
    """Address and port on which the processes listen or receive, and which process it is."""
    return {
        tuple(connection.laddr): connection.pid
        for connection in psutil.net_connections("inet")
        if connection.pid in pids and connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
    }


def test_cold_start_is_short(slurm, capsys):
    seconds = float((slurm.folder / "cold_start_seconds").read_text())
    with capsys.disabled():
        print(f"\ncold start of {slurm.settings.nodes} nodes with accounts: {seconds:.1f} s")
    assert seconds < COLD_START_LIMIT_SECONDS


def test_second_up_changes_nothing(slurm):
    before = onebox.status(slurm.folder)
    assert onebox.up(slurm.folder, nodes=slurm.settings.nodes) == slurm
    after = onebox.status(slurm.folder)
    assert after.running
    assert after.daemons == before.daemons
    assert set(after.nodes) == set(slurm.nodes)


def test_other_settings_need_a_restart(slurm):
    with pytest.raises(SubmissionError, match=r"runs with .*nodes=8.* runner onebox down"):
        onebox.up(slurm.folder, nodes=2)


def test_folder_is_private(slurm):
    assert stat.S_IMODE(slurm.folder.stat().st_mode) == 0o700


def test_nothing_listens_beyond_loopback(slurm):
    """Neither daemons nor the srun of a job that runs."""
    node = slurm.nodes[5]
    job = sbatch("-w", node, "-n2", "--wrap", "srun sleep 60")
    wait_for(
        lambda: sorted(names_of(job_processes(slurm, [node])).values()),
        15,
        "a step of two tasks",
        until=lambda names: (names.count("sleep"), names.count("slurmstepd")) == (2, 2),
    )
    steps = job_processes(slurm, [node])
    daemons = [pid for pid in onebox.status(slurm.folder).daemons.values() if pid]
    found = listening([*processes_of(slurm), *daemons, *(process.pid for process in steps)])
    assert {address for address, _ in found} == {"127.0.0.1"}
    first = slurm.settings.port0
    assert {port for _, port in found} >= set(range(first, first + 2 + slurm.settings.nodes))
    assert {pid for pid, name in names_of(steps).items() if name == "srun"} & set(found.values())
    cancel([job])


def test_tasks_see_their_node_and_their_gpus(slurm, tmp_path):
    node = slurm.nodes[4]
    show = "srun --overlap sh -c 'echo $SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'"
    assert sorted(printed(tmp_path, "-w", node, "-n3", "--gres=gpu:2", "--wrap", show)) == [
        f"{rank} {node} 0,1" for rank in range(3)
    ]
    ranks = printed(tmp_path, "-w", node, "-n2", "--gpus-per-task=1", "--wrap", show)
    assert sorted(line.split()[2] for line in ranks) == ["0", "1"]


def test_node_has_the_cpus_and_gpus_it_was_given(slurm, tmp_path):
    node = slurm.nodes[4]
    assert printed(tmp_path, "-w", node, "-c8", "--wrap", "echo $SLURM_CPUS_ON_NODE") == ["8"]
    words = ["sbatch", "-w", node, "--gres=gpu:5", "--wrap", "true"]
    refused = subprocess.run(words, capture_output=True, text=True)
    assert "Requested node configuration is not available" in refused.stderr


def watcher(folder: Path) -> str:
    """A command that writes to `folder`/told which of Slurm's signals reaches it first, and ends."""
    script = folder / "watcher.sh"
    told = folder / "told"
    traps = "".join(f"trap 'echo {name} >> {told}; exit' {name}\n" for name in ("TERM", "USR2"))
    script.write_text(f"{traps}echo ready > {told}\nfor i in $(seq 600); do sleep 0.1; done\n")
    return f"srun bash {script}"


def told(folder: Path) -> list[str]:
    file = folder / "told"
    return file.read_text().split() if file.exists() else []


def preempted_with(node: str, folder: Path) -> str:
    """The signal a job in `low` gets when one in `high` wants its node."""
    folder.mkdir()
    low = sbatch("--exclusive", "-w", node, "--signal=USR2@30", "--wrap", watcher(folder))
    wait_for(lambda: told(folder), 15, "the start")
    high = sbatch("-p", "high", "--exclusive", "-w", node, "--wrap", "sleep 60")
    signals = wait_for(lambda: told(folder)[1:], 15, "a signal")
    job = show_job(low)
    assert 0 <= float(job["EndTime"]) - float(job["PreemptTime"]) <= 8
    cancel([low, high])
    wait_for(lambda: {state(low), state(high)}, 15, "the end", until=lambda found: "COMPLETING" not in found)
    return signals[0]


def test_cancelled_job_is_told_and_ends(slurm, tmp_path):
    job = sbatch("-w", slurm.nodes[5], "--wrap", watcher(tmp_path))
    wait_for(lambda: told(tmp_path), 15, "the start")
    cancel([job])
    wait_for(lambda: state(job), 15, "the end", until="CANCELLED".__eq__)
    assert told(tmp_path) == ["ready", "TERM"]


def test_preemption_warns_with_the_users_signal_or_with_term(bare_slurm, tmp_path):
    [node] = bare_slurm.nodes
    assert preempted_with(node, tmp_path / "on") == "USR2"
    changed = onebox.set_user_signal(bare_slurm, False)
    assert onebox.load(bare_slurm.folder) == changed
    assert preempted_with(node, tmp_path / "off") == "TERM"


def test_killed_node_comes_back_and_its_job_is_queued_again(bare_slurm, tmp_path):
    [node] = bare_slurm.nodes
    job = sbatch("-w", node, "--wrap", watcher(tmp_path))
    wait_for(lambda: told(tmp_path), 15, "the start")
    names = {"slurmstepd", "bash", "srun"}
    wait_for(
        lambda: set(names_of(job_processes(bare_slurm, [node])).values()),
        15,
        "its processes",
        until=lambda found: found >= names,
    )
    onebox.kill_node(bare_slurm, node, noticed=True)
    assert not job_processes(bare_slurm, [node])
    assert onebox.status(bare_slurm.folder).daemons[f"slurmd-{node}"] is None
    assert not onebox.status(bare_slurm.folder).running
    assert (state(job), show_job(job)["Restarts"]) == ("PENDING", "1")
    onebox.revive_node(bare_slurm, node)
    assert printed(tmp_path, "-w", node, "--wrap", "srun printenv SLURMD_NODENAME") == [node]


@pytest.mark.slurm
def test_down_leaves_nothing(tmp_path):
    """Not even a task that left its session and forgot its environment."""
    skip_without_slurm()
    with own_cluster(nodes=1, accounting=False) as cluster, environment_of(cluster):
        sbatch("--wrap", f"srun setsid env -i bash -c 'touch {tmp_path}/up; cd /; exec sleep 300'")
        wait_for((tmp_path / "up").exists, 15, "the task")
        steps = job_processes(cluster, cluster.nodes)
        pids = names_of(steps) | processes_of(cluster)
        assert {"munged", "slurmctld", "slurmd", "slurmstepd"} <= set(pids.values())
        before = [psutil.Process(pid) for pid in pids]
        onebox.down(cluster.folder, wipe=True)
        left = [process for process in before if process.is_running() and process.status() != "zombie"]
        assert left == []
        assert processes_of(cluster) == {}
        assert not cluster.folder.exists()


_STAY = """
import signal
from runner.onebox.private import private_cluster
with private_cluster(nodes=1, accounting=False) as cluster:
    print(cluster.folder, flush=True)
    signal.pause()
"""


@pytest.mark.slurm
def test_killed_owner_of_a_private_cluster_leaves_nothing():
    skip_without_slurm()
    with subprocess.Popen([sys.executable, "-c", _STAY], stdout=subprocess.PIPE, text=True) as owner:
        folder = Path(owner.stdout.readline().strip())
        cluster = onebox.load(folder)
        assert {"munged", "slurmctld", "slurmd"} <= set(processes_of(cluster).values())
        owner.kill()
    wait_for(lambda: not folder.exists(), 30, "the guard")
    assert processes_of(cluster) == {}


@pytest.mark.slurm
def test_down_without_wipe_keeps_job_numbers(tmp_path):
    skip_without_slurm()
    with own_cluster(nodes=1, accounting=False) as cluster, environment_of(cluster):
        first = sbatch("--wrap", "sleep 300")
        wait_for(lambda: state(first), 15, "the start", until="RUNNING".__eq__)
        onebox.down(cluster.folder)
        assert processes_of(cluster) == {}
        assert onebox.status(cluster.folder).jobs == 0
        onebox.down(cluster.folder)

        assert onebox.up(cluster.folder, nodes=1, accounting=False, gpus=0).settings.gpus == 0
        assert state(first) == "CANCELLED"
        assert int(sbatch("--wrap", "true")) == int(first) + 1


def test_plain_user_may_have_one():
    skip_without_slurm()
    if os.geteuid() != 0:
        pytest.skip("the other tests ran as a plain user")
    with tempfile.TemporaryDirectory() as folder:
        templates = Path(shutil.copytree(cluster_files.TEMPLATES, Path(folder) / "templates"))
        Path(folder).chmod(0o755)
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("spawn").Process(target=job_of_plain_user, args=(theirs, templates))
        child.start()
        theirs.close()
        child.join(60)
        assert child.exitcode == 0
    lines, left = ours.recv()
    assert lines == ["65534 0,1"]
    assert left == {}


def job_of_plain_user(answer: Connection, templates: Path) -> None:
    socket.gethostbyname("localhost")  # loads what the user may not be able to read
    os.chdir("/")
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    cluster_files.TEMPLATES = templates
    with own_cluster(nodes=1, accounting=False) as cluster, environment_of(cluster):
        folder = cluster.folder / "log"
        lines = printed(folder, "--gres=gpu:2", "--wrap", "srun sh -c 'echo $(id -u) $CUDA_VISIBLE_DEVICES'")
    answer.send((lines, processes_of(cluster)))


def test_name_of_the_machine_may_lead_elsewhere(tmp_path):
    """Debian writes 127.0.1.1 into /etc/hosts, others an address that the world can reach."""
    skip_without_slurm()
    there = ["unshare", "--uts", "--mount", "sh", "-c"]
    if subprocess.run([*there, "hostname otherbox"], capture_output=True).returncode:
        pytest.skip("may not give this process another host name")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 otherbox\n")
    code = f"""
from pathlib import Path
from tests.test_onebox import *
with own_cluster(nodes=1, accounting=False) as cluster, environment_of(cluster):
    folder = Path({str(tmp_path)!r})
    sbatch("--wrap", f"srun sh -c 'echo ready > {{folder}}/told; sleep 60'")
    wait_for(lambda: told(folder), 15, "the task")
    pids = [*processes_of(cluster), *(process.pid for process in job_processes(cluster, cluster.nodes))]
    print({{address for address, _ in listening(pids)}})
"""
    rename = f'hostname otherbox && mount --bind {hosts} /etc/hosts && exec "$@"'
    done = subprocess.run(
        [*there, rename, "sh", sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "{'127.0.0.1'}\n", done.stderr


def test_settings_out_of_range_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^onebox nodes: must be 1 to 254, got 0$"):
        onebox.up(tmp_path, nodes=0)
    with pytest.raises(ConfigError, match=r"^onebox port0: must be 1024 to 65530, got 80$"):
        onebox.up(tmp_path, port0=80)
    assert list(tmp_path.iterdir()) == []


def test_two_that_start_at_once_take_other_ports():
    """Between the choice of a port and the daemon that listens there pass seconds."""
    with claimed_ports(10) as first, claimed_ports(4, preferred=first + 9) as second:
        assert not set(range(first, first + 10)) & set(range(second, second + 4))
        with claimed_ports(4, preferred=second - 3) as third:
            assert not set(range(first, first + 10)) & set(range(third, third + 4))
            assert not set(range(second, second + 4)) & set(range(third, third + 4))
    with claimed_ports(4, preferred=first) as again:
        assert again == first


def test_ports_are_claimed_from_other_processes_as_long_as_one_lives():
    hold = """
import sys
from runner.onebox.ports import claimed_ports
with claimed_ports(4) as first:
    print(first, flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", hold],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        first = int(holder.stdout.readline())
        with claimed_ports(1, preferred=first + 3) as other:
            assert other != first + 3
        holder.kill()
    with claimed_ports(1, preferred=first + 3) as other:
        assert other == first + 3


def test_choice_of_ports_leaves_the_generator_of_experiments_alone():
    random.seed(7)
    before = random.getstate()
    with claimed_ports(4) as first:
        assert random.getstate() == before
    random.seed(7)
    with claimed_ports(4) as second:
        assert second != first


def test_what_keeps_a_daemon_from_starting_is_told():
    skip_without_slurm()
    with (
        socket.socket() as taken,
        pytest.raises(SubmissionError, match=r"^slurmctld ended, and said: .*Address already in use; see "),
    ):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with own_cluster(nodes=1, accounting=False, port0=taken.getsockname()[1]):
            pass


def test_what_a_daemon_said_before_is_not_told_of_it_again(tmp_path):
    skip_without_slurm()
    cluster = onebox.Cluster(tmp_path, onebox.Settings(nodes=1, accounting=False, port0=12345))
    cluster_files.write_files(cluster)
    (tmp_path / "log" / "slurmctld.log").write_text("error: Address already in use\n")
    start_daemon(cluster, "slurmctld", "--no-such-option")
    with pytest.raises(SubmissionError, match=r"^slurmctld ended") as caught:
        wait_until(cluster, "slurmctld", 20, lambda: False)
    assert "Address" not in str(caught.value)


def test_folder_with_other_things_is_left_alone():
    skip_without_slurm()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "thesis.tex").write_text("dear")
        folder.chmod(0o755)
        for verb in (onebox.up, onebox.down, onebox.status):
            with pytest.raises(SubmissionError, match=rf"^{folder}: no onebox there"):
                verb(folder)
        assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_down_refuses_an_environment_that_leads_elsewhere(bare_slurm):
    """scancel must never reach the cluster of somebody else."""
    env = bare_slurm.folder / "env"
    kept = env.read_text()
    env.write_text(kept.replace(str(bare_slurm.slurm_conf), "/etc/slurm/slurm.conf"))
    try:
        with pytest.raises(SubmissionError, match="SLURM_CONF does not point into this folder"):
            onebox.down(bare_slurm.folder)
    finally:
        env.write_text(kept)
    assert onebox.status(bare_slurm.folder).running


def test_recycled_pid_is_nobodys_daemon(bare_slurm):
    """The pid file of a daemon names a process that is not that daemon: this one."""
    file = bare_slurm.folder / "run" / "munged.pid"
    kept = file.read_text()
    file.write_text(str(os.getpid()))
    try:
        assert onebox.status(bare_slurm.folder).daemons["munged"] is None
    finally:
        file.write_text(kept)


def test_absent_slurm_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(debian, "TOOLS", ["no-such-slurmctld"])
    with pytest.raises(SubmissionError, match=r"^no-such-slurmctld not found; get it with: runner onebox install$"):
        onebox.up(tmp_path)


def test_installing_starts_no_service(tmp_path):
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    with debian._no_service_starts(policy):
        assert subprocess.run([policy, "munge", "start"]).returncode == 101
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    policy.unlink()
    with debian._no_service_starts(policy):
        assert policy.exists()
    assert list(tmp_path.iterdir()) == []
