"""What submitit pickles: which trial; and what one rank of it does from its first line to its exit code.

Kept light: unpickling happens inside the start-up window, so torch and the trainer are imported when called.
"""

import contextlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil
import submitit

from runner import launcher, slurm
from runner.decision import Decision
from runner.errors import ConfigError, SubmissionError
from runner.evidence import attempt_of, mark
from runner.faults import NO_PROOF, Faults, Proof
from runner.masking import format_error
from runner.processes import EXIT_TERMINATED, EXIT_TRY_AGAIN, die_with
from runner.provenance import package_versions
from runner.requeue import allow, write_failure
from runner.rundir import RunDir, append_row
from runner.signs import classify

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from runner.attempt import Attempt
    from runner.config import Trial
    from runner.group import Group
    from runner.heartbeat import Pulse
    from runner.preemption import Preemption, Verdict
    from runner.rendezvous import Place
    from runner.trainer import Outcome
    from runner.watchdog import Limits

EXIT_FAILED = 1
WAIT_FOR_THE_END_SECONDS = 300
NO_MORE_TIMEOUTS = 1_000_000
"""submitit's own countdown of time-outs must never end a run; budgets are in runner.requeue."""


def python_command() -> str:
    """How a job starts python: with the signals of a preemption blocked until somebody listens."""
    return f"{shlex.quote(sys.executable)} -S -E {shlex.quote(str(launcher.__file__))}"


@dataclass(frozen=True)
class TrainJob:
    """A trial as a job: nothing but its folder, since a requeue by Slurm reads the pickle of the submission."""

    folder: str
    stop_after: int | None = None
    """Ends the trial early, for rehearsals."""

    def __call__(self) -> None:
        run = RunDir(Path(self.folder))
        if run.result.exists() or run.failure.exists() or run.cancelled.exists():
            return
        from runner.watchdog import Limits

        place = place_in_job(submitit.JobEnvironment())
        # What this launch prints begins here: the file may hold what an earlier launch of the job printed.
        print(mark(place.launch), file=sys.stderr, flush=True)
        if place.supervisor is not None:
            die_with(os.getppid())
        try:
            outcome, preemption = run_rank(run, place, stop_after=self.stop_after, limits=Limits())
        except Exception as error:
            # Not further: submitit would pickle and print the message, with the secrets that may be in it.
            print(format_error(error), file=sys.stderr, flush=True)
            sys.exit(EXIT_FAILED)
        if outcome.verdict:
            leave(outcome.verdict, place, preemption)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit on rank 0 when we requeue: the state is on disk already, so only the folder goes along."""
        return submitit.helpers.DelayedSubmission(self)


def place_in_job(environment: Any) -> "Place":
    """This process among the ranks of a submitit job."""
    from runner.rendezvous import Place

    hosts = environment.hostnames
    launch = f"{environment.job_id}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return Place(
        rank=environment.global_rank,
        world=environment.num_tasks,
        local_rank=environment.local_rank,
        job_id=environment.job_id,
        launch=launch,
        address=hosts[0],
        nodes=tuple(hosts[rank * len(hosts) // environment.num_tasks] for rank in range(environment.num_tasks)),
        one_host=len(hosts) == 1 or all(host.startswith("127.") for host in hosts),
        supervisor=find_queue(),
    )


def find_queue() -> int | None:
    """The local queue of this trial, if it is of one: it leads the session of all its processes."""
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(os.getsid(0))
        if "runner.local_queue" in leader.cmdline():
            return leader.pid
    return None


def run_rank(
    run: RunDir,
    place: "Place",
    *,
    stop_after: int | None = None,
    redirect: bool = True,
    proof: Proof = NO_PROOF,
    limits: "Limits | None" = None,
) -> tuple["Outcome", "Preemption"]:
    """Train as one rank of a launch; what ends it is written into the run folder before this returns or raises.

    `stop_after` ends the run early (debugging, rehearsals); `redirect` sends output to the attempt's own log file;
    `proof` is for those that interrupt a run on purpose. Without `limits` nothing is taken for a hang.
    """
    from runner.preemption import LATENCY_SECONDS, heeding, outlived_by, watching

    os.umask(run.umask())
    with (
        watching(0.0 if proof.prompt else LATENCY_SECONDS) as preemption,
        heeding(run.cancelled, preemption) if place.rank == 0 else contextlib.nullcontext(),
        outlived_by(place.supervisor, preemption) if place.supervisor else contextlib.nullcontext(),
    ):
        outcome = _attend(run, place, preemption, stop_after, redirect, proof, limits)
    return outcome, preemption


def _attend(
    run: RunDir,
    place: "Place",
    preemption: "Preemption",
    stop_after: int | None,
    redirect: bool,
    proof: Proof,
    limits: "Limits | None",
) -> "Outcome":
    faults = Faults(proof.faults, place.rank)
    faults.at("start")
    from runner.preemption import Interrupted
    from runner.rendezvous import meet
    from runner.trainer import Outcome
    from runner.watchdog import guarding

    def check() -> None:
        # Nobody has begun, so a rank may leave alone; the requeue ends the others.
        if preemption.flag:
            raise Interrupted(preemption.flag)

    try:
        faults.at("meet")
        check()
        attempt, store = meet(run, place, check)
    except Interrupted as interruption:
        verdict, cause = settle_verdict(interruption.verdict, place, run)
        if place.rank == 0 and verdict is Verdict.REQUEUE:
            verdict = heed_budget(run, place, cause, None)
            record_unbegun(run, place, cause, verdict is Verdict.REQUEUE)
        return Outcome(verdict, 0, time.time())
    if redirect:
        send_output_to(run.log(attempt.number, place.rank))
    attempt = type(attempt)(run, attempt.number, place.rank)
    print(
        f"runner: {run.experiment}/{run.trial} attempt {attempt.number} rank {place.rank} of {place.world}",
        flush=True,
    )
    with guarding(attempt, place.world, preemption, limits) as pulse:
        return _train(attempt, store, place, preemption, pulse, stop_after, proof, faults)


def _train(
    attempt: "Attempt",
    store: "Store | None",
    place: "Place",
    preemption: "Preemption",
    pulse: "Pulse",
    stop_after: int | None,
    proof: Proof,
    faults: Faults,
) -> "Outcome":
    import torch

    from runner import peers
    from runner.attempt import SupersededError
    from runner.config import check_machine, load_trial
    from runner.group import joined
    from runner.journal import Journal
    from runner.preemption import Verdict
    from runner.time_limit import TimeLimit, keeping, of_job
    from runner.trainer import Outcome, launch

    run, verdict = attempt.run, Verdict.GO_ON
    try:
        trial = load_trial(run.config)
        check_ranks(trial, place)
        check_machine(trial, torch.cuda.is_available())
        torch.set_num_threads(trial.resources.cpus_per_rank)
        if place.one_host:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        faults.at("join")
        limit = of_job(place.job_id) if place.rank == 0 else TimeLimit()
        with (
            joined(place.rank, place.world, place.local_rank, store, trial.train.backend) as group,
            keeping(limit, preemption),
        ):
            check_alike(trial, group)
            journal = Journal(proof.journal, place.rank) if proof.journal else None
            outcome = launch(
                trial,
                attempt,
                group,
                preemption,
                place=place,
                stop_after=stop_after,
                faults=faults,
                journal=journal,
                limit=limit,
                pulse=pulse,
            )
            pulse.at("leave")
            verdict = outcome.verdict
            if verdict is Verdict.LEAVE:
                raise SupersededError(f"attempt {attempt.number} of {run.trial}: a newer attempt has taken over")
            if verdict:
                facts = (outcome.verdict, "")
                if group.is_main:
                    facts = settle_verdict(outcome.verdict, place, run, preemption.time_is_up)
                    if facts[0] is Verdict.REQUEUE:
                        facts = heed_budget(run, place, facts[1], outcome.step), facts[1]
                number, cause = group.broadcast_json([int(facts[0]), facts[1]])
                verdict = Verdict(number)
                # The rank that heard it first counts.
                own = outcome.saved_at - (preemption.first_signal or outcome.saved_at)
                delay = group.agree_max(round(1000 * own)) / 1000
                if group.is_main:
                    requeue = verdict is Verdict.REQUEUE
                    attempt.record_end(step=outcome.step, cause=cause, requeue=requeue, signal_to_saved_seconds=delay)
                    print(f"runner: {cause}: saved at step {outcome.step}, {delay} s after the signal", flush=True)
            group.barrier()
    except SupersededError as error:
        attempt.record_crash(error, "superseded", pulse.last.step)
        print(f"runner: {error}; this one leaves", flush=True)
        return Outcome(Verdict.LEAVE, pulse.last.step, time.time())
    except Exception as error:
        cause = classify(error)
        if cause != "peer crash":
            attempt.record_crash(error, cause, pulse.last.step)
            raise
        lost = peers.explain(attempt, place.world, error)
        attempt.record_crash(lost, cause, pulse.last.step)
        raise lost from None
    return Outcome(verdict, outcome.step, outcome.saved_at)


def check_ranks(trial: "Trial", place: "Place") -> None:
    """Raise ConfigError where the launch has another number of ranks than the trial, whose batches are split by it."""
    if place.world != trial.resources.ranks:
        has = f"this launch has {place.world}, as SLURM_NTASKS says in a job"
        raise ConfigError(f"resources.ranks: {trial.resources.ranks} is not allowed; {has}")


def check_alike(trial: "Trial", group: "Group") -> None:
    """Raise ConfigError on all ranks unless they have one config and one version of everything that counts."""
    if group.world == 1:
        return
    facts = json.dumps([trial.model_dump(mode="json"), platform.python_version(), package_versions()])
    if others := group.differing(facts):
        ranks = ", ".join(map(str, others))
        raise ConfigError(
            f"config.yaml or the installed packages of ranks {ranks} are not those of rank 0; make them so"
        )


def heed_budget(run: RunDir, place: "Place", cause: str, step: int | None) -> "Verdict":
    """REQUEUE, or SAVE where the trial has come back too often without getting on; then it has failed."""
    from runner.preemption import Verdict

    why_not = allow(run, place.launch, cause, step)
    if why_not is None:
        return Verdict.REQUEUE
    print(f"runner: {cause}: not requeued: {why_not}", flush=True)
    write_failure(run, Decision("fail", cause, why_not), None, None)
    return Verdict.SAVE


def record_unbegun(run: RunDir, place: "Place", cause: str, requeue: bool) -> None:
    """An end row for a launch that was told to leave before its attempt began."""
    row = {"event": "end", "attempt": attempt_of(run, place.launch) or 0, "launch": place.launch, "time": time.time()}
    append_row(run.attempts, {**row, "end_step": None, "cause": cause, "requeue": requeue})


def settle_verdict(verdict: "Verdict", place: "Place", run: RunDir, time_is_up: bool = False) -> tuple["Verdict", str]:
    """What a signal meant, by asking the scheduler: TERM alone may be a preemption, a requeue or a scancel.

    Returns the verdict to act on and the cause in words. Rank 0 asks; without Slurm the signal is taken at its word.
    `time_is_up`: no signal came, it was our own clock.
    """
    from runner.preemption import Verdict

    if run.cancelled.exists():
        return Verdict.SAVE, "cancelled"

    unasked = "time limit" if time_is_up else "preempted" if verdict is Verdict.REQUEUE else "terminated"
    if "SLURM_JOB_ID" not in os.environ or place.job_id == "debug":
        return verdict, unasked
    try:
        job = slurm.show_job(place.job_id)
    except SubmissionError as error:
        print(f"runner: scontrol did not answer: {error}", flush=True)
        return verdict, unasked
    return interpret(verdict, job, time.time(), time_is_up)


def interpret(verdict: "Verdict", job: dict[str, str], now: float, time_is_up: bool = False) -> tuple["Verdict", str]:
    """The decision of `settle_verdict` from `slurm.show_job`, whose times are unix seconds like `now`."""
    from runner.preemption import Verdict

    state = job.get("JobState", "")
    if state not in ("RUNNING", "SIGNALING"):
        # COMPLETING: a scancel, or a requeue that Slurm carries out; requeueing now could resurrect a cancelled job.
        return Verdict.SAVE, "terminated"
    if job.get("PreemptTime", "").isdigit():
        return Verdict.REQUEUE, "preempted"
    # Slurm warns up to a minute early on top of the lead that was asked for.
    lead_seconds = 60 + int(os.environ.get("RUNNER_SIGNAL_LEAD_SECONDS", "120"))
    end = job.get("EndTime", "")
    if time_is_up or (end.isdigit() and int(end) - now <= lead_seconds):
        return Verdict.REQUEUE, "time limit"
    return Verdict.REQUEUE, "preempted" if verdict is Verdict.REQUEUE else "terminated"


def leave(verdict: "Verdict", place: "Place", preemption: "Preemption") -> NoReturn:
    """End this process in the order that keeps the job alive: one requeue, by rank 0, before anybody fails."""
    from runner.preemption import Verdict

    if verdict in (Verdict.SAVE, Verdict.LEAVE):
        sys.exit(EXIT_TERMINATED)
    if place.rank == 0:
        requeue(preemption)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if "SLURM_JOB_ID" in os.environ:
        # The requeue ends us. Exiting 0 would read as COMPLETED, exiting non-zero now would kill rank 0.
        time.sleep(WAIT_FOR_THE_END_SECONDS)
    sys.exit(EXIT_TRY_AGAIN)


def requeue(preemption: "Preemption") -> NoReturn:
    """Hand over to submitit's own handler: it calls checkpoint(), rewrites the pickle, requeues, and exits."""
    handler = preemption.previous_usr2
    assert callable(handler), "inside a submitit job its handler is installed before ours"
    paths = submitit.JobEnvironment().paths
    # A kill in the middle of an earlier dump leaves this, and submitit asserts that it is absent.
    paths.submitted_pickle.with_suffix(".pkl.save_tmp").unlink(missing_ok=True)
    try:
        handler(signal.SIGUSR2, None)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"runner: requeue failed ({error}); the batch script tries again", flush=True)
    sys.exit(EXIT_TRY_AGAIN)


def send_output_to(log: Path) -> None:
    """Send this process's output, from C++ too, to a file of its own."""
    log.parent.mkdir(exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
