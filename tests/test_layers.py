"""Imports point down, and what must answer at once imports nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "runner"

_ORDER = """
errors paths processes faults masking plugins launcher unpacking strict_yaml files lock rundir submission ownership
code_snapshot provenance explain schema distribution search_config views_config config sink wandb_note mirrors
experiment grouped_yaml sweep_config sweep_conditions sweep_points sweep interval ledger simulate profile layout
packing slurm_text client slurm cluster_name arrays limits reasons wording signs causes budgets decision nodes evidence
requeue group batch gather reduce queue meters dataset download decoded randomness identifiers code proteins mining
class_weights color filters view_draws jitter views preemption time_limit loader attempt heartbeat peers watchdog
rendezvous tracking ema online_probe canonical projection decoders interpolation curriculum tokenizers method losses
methods encoders data schedules lars optimizer precision facts features ranking text_metrics evaluation named mirror
sync evaluate state elastic exactness journal snapshot manifest lineage weights checkpoint export background progress
trial_data study search_journal search search_trial run resume saving trainer verdict rank job local_queue pack record
status pack_requeue after tables columns conditions differences record_cache selectors pace gpus live watch show logs
tracebacks results plot search_report goodput advice timeline forecast embed refusals orphans plan survey preflight
acceptance sbatch dispatch notify prepare request ahead shipment submit local_ranks reshape code_changes recode debug
verify contract templates cancel retry plan_file apply trial_environment reproduce version diff report code_store
json_schema onebox rehearsal sight stage rehearse doctor new listing site init completion cli_options cli_onebox
cli_data cli_plan cli_goodput cli_code cli_results cli_search cli_report cli_new cli_sync cli_run cli_trials
interruption cli __main__
"""
ORDER = _ORDER.split()
"""Each part imports only from parts to its left; a folder is one part. A total order has no circles."""

PLUG_INS = ["methods", "encoders", "data", "schedules", "evaluation", "mirrors"]
"""Families that `named` imports by name."""

HEAVY = ["torch", "wandb", "tensorboard", "sklearn", "matplotlib", "transformers", "optuna"]

_LIGHT = """
errors paths processes faults rundir config sweep interval profile layout slurm_text client slurm cluster_name arrays
limits wording signs causes budgets decision nodes evidence reasons record_cache conditions selectors pace gpus live
tracebacks notify requeue provenance record status tables watch show logs differences results plot cancel retry prepare
request ahead shipment submit job local_queue pack pack_requeue packing submission ownership json_schema onebox doctor
code_snapshot code_store diff reproduce report cli_results cli_search search_report search cli_report ledger simulate
goodput advice timeline forecast cli_goodput new listing completion site init sync version cli
"""
LIGHT = _LIGHT.split()


def part_of(path: Path) -> str:
    name = path.relative_to(PACKAGE).parts[0]
    return name.removesuffix(".py")


def imports() -> Iterator[tuple[Path, int, str]]:
    """(file, line, part) of every import of a part, inside functions too; read, not run."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}:{node.lineno}: a relative import"
                package, _, module = (node.module or "").partition(".")
                names = [module] if module else [alias.name for alias in node.names]
                found = names if package == "runner" else []
            elif isinstance(node, ast.Import):
                found = [alias.name.removeprefix("runner.") for alias in node.names if alias.name.startswith("runner.")]
            else:
                continue
            for name in found:
                yield path, node.lineno, name.partition(".")[0]


def test_every_module_has_its_place():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts - set(ORDER) == set(), "give it a place in ORDER"
    assert len(ORDER) == len(set(ORDER))


def test_imports_point_down():
    found = list(imports())
    assert len(found) > 100
    for path, line, imported in found:
        part = part_of(path)
        if part not in (imported, "__init__"):
            assert ORDER.index(imported) < ORDER.index(part), f"{path}:{line}: {part} imports {imported} from above"


def test_the_package_itself_imports_nothing():
    assert not any(part_of(path) == "__init__" for path, _, _ in imports())


def test_plug_ins_are_below_what_loads_them():
    assert all(ORDER.index(family) < ORDER.index("named") for family in PLUG_INS)


def test_the_launcher_imports_nothing_of_the_package():
    assert not any(part_of(path) == "launcher" for path, _, _ in imports())


def test_light_parts_import_nothing_heavy():
    code = f"""
import importlib, sys
for part in {LIGHT}:
    importlib.import_module(f"runner.{{part}}")
    for heavy in {HEAVY}:
        assert heavy not in sys.modules, f"runner.{{part}} imports {{heavy}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
