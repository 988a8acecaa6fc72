"""One rank of a launch, from meeting the others to the word it leaves behind."""

import contextlib
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch
from torch._C._distributed_c10d import Store

from runner import peers
from runner.attempt import Attempt, SupersededError
from runner.config import Trial
from runner.decision import Decision
from runner.errors import ConfigError
from runner.evidence import attempt_of
from runner.experiment import check_machine, load_trial
from runner.faults import NO_PROOF, Faults, Proof
from runner.files import append_row
from runner.group import Group, joined
from runner.heartbeat import Pulse
from runner.journal import Journal
from runner.preemption import LATENCY_SECONDS, Interrupted, Preemption, Verdict, heeding, outlived_by, watching
from runner.provenance import package_versions
from runner.rendezvous import Place, meet
from runner.requeue import allow, write_failure
from runner.rundir import RunDir
from runner.search import tell
from runner.search_trial import settle_parameters
from runner.signs import classify
from runner.time_limit import TimeLimit, keeping, of_job
from runner.trainer import Outcome, launch
from runner.verdict import settle_verdict
from runner.watchdog import Limits, guarding


def run_rank(
    run: RunDir,
    place: Place,
    *,
    stop_after: int | None = None,
    redirect: bool = True,
    proof: Proof = NO_PROOF,
    limits: Limits | None = None,
) -> tuple[Outcome, Preemption]:
    """Train as one rank of a launch; what ends it is written into the run folder before this returns or raises.

    `stop_after` ends the run early (debugging, rehearsals); `redirect` sends output to the attempt's own log file;
    `proof` is for those that interrupt a run on purpose. Without `limits` nothing is taken for a hang.
    """
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
    place: Place,
    preemption: Preemption,
    stop_after: int | None,
    redirect: bool,
    proof: Proof,
    limits: Limits | None,
) -> Outcome:
    faults = Faults(proof.faults, place.rank, lambda: preemption.first_signal is not None)
    faults.at("start")

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
    with guarding(attempt, place.world, preemption, limits, place.launched) as pulse:
        return _train(attempt, store, place, preemption, pulse, stop_after, proof, faults)


def _train(
    attempt: Attempt,
    store: Store | None,
    place: Place,
    preemption: Preemption,
    pulse: Pulse,
    stop_after: int | None,
    proof: Proof,
    faults: Faults,
) -> Outcome:
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
            trial, pruning = settle_parameters(trial, run, group, faults)
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
                pruning=pruning,
            )
            pulse.at("leave")
            if trial.search is not None and group.is_main and run.search.exists() and not outcome.verdict:
                tell(trial.search, run.path.parent, faults)
            verdict = outcome.verdict
            if verdict is Verdict.LEAVE:
                raise SupersededError(f"attempt {attempt.number} of {run.trial}: a newer attempt has taken over")
            if verdict:
                verdict = settle_leaving(outcome, attempt, group, preemption, place, pulse)
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


def settle_leaving(
    outcome: Outcome, attempt: Attempt, group: Group, preemption: Preemption, place: Place, pulse: Pulse
) -> Verdict:
    """What follows now that all ranks have saved: rank 0 asks, all are told, an end row says so; a collective call."""
    facts = outcome.verdict, ""
    if group.is_main:
        facts = settle_verdict(outcome.verdict, place, attempt.run, preemption.time_is_up)
        if facts[0] is Verdict.REQUEUE:
            facts = heed_budget(attempt.run, place, facts[1], outcome.step), facts[1]
    number, cause = group.broadcast_json([int(facts[0]), facts[1]])
    verdict = Verdict(number)
    # The rank that heard it first counts.
    own_seconds = outcome.saved_at - (preemption.first_signal or outcome.saved_at)
    delay_seconds = group.agree_max(round(1000 * own_seconds)) / 1000
    if group.is_main:
        requeue = verdict is Verdict.REQUEUE
        attempt.record_end(
            step=outcome.step,
            cause=cause,
            requeue=requeue,
            signal_to_saved_seconds=delay_seconds,
            reading=pulse.read(),
        )
        print(f"runner: {cause}: saved at step {outcome.step}, {delay_seconds} s after the signal", flush=True)
    return verdict


def check_ranks(trial: Trial, place: Place) -> None:
    """Raise ConfigError where the launch has another number of ranks than the trial, whose batches are split by it."""
    if place.world != trial.resources.ranks:
        has = f"this launch has {place.world}, as SLURM_NTASKS says in a job"
        raise ConfigError(f"resources.ranks: {trial.resources.ranks} is not allowed; {has}")


def check_alike(trial: Trial, group: Group) -> None:
    """Raise ConfigError on all ranks unless they have one config and one version of everything that counts."""
    if group.world == 1:
        return
    facts = json.dumps([trial.model_dump(mode="json"), platform.python_version(), package_versions()])
    if others := group.differing(facts):
        ranks = ", ".join(map(str, others))
        raise ConfigError(
            f"config.yaml or the installed packages of ranks {ranks} are not those of rank 0; make them so"
        )


def heed_budget(run: RunDir, place: Place, cause: str, step: int | None) -> Verdict:
    """REQUEUE, or SAVE where the trial has come back too often without getting on; then it has failed."""
    why_not = allow(run, place.launch, cause, step)
    if why_not is None:
        return Verdict.REQUEUE
    print(f"runner: {cause}: not requeued: {why_not}", flush=True)
    write_failure(run, Decision("fail", cause, why_not), None, None)
    return Verdict.SAVE


def record_unbegun(run: RunDir, place: Place, cause: str, requeue: bool) -> None:
    """An end row for a launch that was told to leave before its attempt began."""
    row = {"event": "end", "attempt": attempt_of(run, place.launch) or 0, "launch": place.launch, "time": time.time()}
    append_row(run.attempts, {**row, "end_step": None, "cause": cause, "requeue": requeue})


def send_output_to(log: Path) -> None:
    """Send this process's output, from C++ too, to a file of its own."""
    log.parent.mkdir(exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
