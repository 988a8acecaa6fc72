"""What five other systems did under the events of bench_rivals, as measured; quoted, not run here.

Measured on the same kind of cluster: Slurm 22.05.8 on one host, KillWait 4 s, requeue delay 6 s, 2 gloo ranks, Python
3.11.7, torch 2.13.0+cpu; lightning 2.6.6, submitit 1.5.4, stable-pretraining 0.1.8, transformers 5.23.0 with
accelerate 1.15.0; one run a cell unless a count is given, on two cores with a load of 4 to 12. The work is the same:
400 steps of a tenth of a second, the events come at step 150, 50 steps after the last periodic save.

A cell says: back by itself / step it resumed after / steps lost and repeated / final weights.
"""

SYSTEMS = (
    "Lightning, USR1",
    'Lightning, USR2, ckpt_path="last"',
    "submitit's recipe",
    "stable-pretraining Manager",
    "transformers, JIT checkpoint",
)
"""Lightning as documented; as a careful user sets it; submitit's checkpointing recipe with its own step skip and a
save at each epoch; Manager in a submitit callable; Trainer(enable_jit_checkpoint=True) with --signal=TERM."""

CELLS: dict[str, tuple[str, str, str, str, str]] = {
    "a": (
        "4 runs: 2 yes / 154 / 1, with 46 batches of the epoch repeated and as many never seen; 1 hung unsaved, "
        "restarted at 0, 155 lost; 1 hung after the save; differs",
        "yes / 100 / 52 / differs",
        "yes / 156 / 0 / differs",
        "yes / 100 / 50 to 55 / differs",
        "yes, by luck (a30) / 176 / 1 / differs",
    ),
    "a30": ("not run", "not run", "not run", "not run", "LOST: COMPLETED at step 185"),
    "b": (
        "LOST: COMPLETED at step 151",
        "LOST: COMPLETED at step 151",
        "yes / 200 / 89 / differs",
        "see b30",
        "LOST: COMPLETED at step 187",
    ),
    "b30": (
        "LOST: COMPLETED at step 153",
        "LOST: COMPLETED at step 155",
        "finished within the grace",
        "yes / 100 / 55 / differs",
        "LOST: COMPLETED at step 178",
    ),
    "c": (
        "LOST: FAILED 138:0",
        "LOST: FAILED 140:0",
        "yes / 0 / 0 / bitwise",
        "hung > 210 s",
        "LOST: FAILED 143:0",
    ),
    "c0.2": ("not run", "not run", "LOST: FAILED 140:0", "LOST: FAILED 140:0", "not run"),
    "d": (
        "yes / 0 / 151 / bitwise",
        "yes / 100 / 52 / differs",
        "yes / 100 / 92 / differs",
        "yes / 100 / 51 / differs",
        "yes / 174 / 1 / differs",
    ),
    "e": (
        "LOST: FAILED 137:0",
        "LOST: FAILED 137:0",
        "LOST: FAILED 137:0",
        "LOST: FAILED 137:0",
        "LOST: FAILED 137:0; requeued by hand: 100, bitwise",
    ),
    "f": ("CANCELLED", "CANCELLED", "CANCELLED", "RESURRECTED, trains to the end", "CANCELLED"),
    "early": ("not run", "not run", "not run", 'FAILED: "Refusing to silently restart from scratch"', "not run"),
    "twice": ("the second time / 153 / 198", "not run", "not run", "not run", "not run"),
}
"""By the names of bench_rivals.CELLS."""
