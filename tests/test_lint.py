"""Nothing in the package runs what lies on disk or comes over the network: a check of every line of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "runner"

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads"),
    *("marshal.load", "marshal.loads", "shelve.open", "joblib.load", "pandas.read_pickle", "torch.jit.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *(
        "torch.hub.load",
        "torch.distributed.rpc.init_rpc",
        "runpy.run_path",
        "runpy.run_module",
        "shutil.unpack_archive",
    ),
}
"""Calls, by the names that modules have everywhere."""

OBJECT_COLLECTIVES = {
    *("broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list"),
    *("send_object_list", "recv_object_list"),
}
"""They pickle what they send and unpickle what they get."""

ALIASES = {"np": "numpy", "dist": "torch.distributed"}
UNPICKLERS = {"runner/data/cifar10.py"}
"""Its unpickler finds the four names that an array needs, and no other."""


def name_of(node: ast.expr) -> str:
    """`a.b.c` of an expression that is such a name, else nothing."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([ALIASES.get(node.id, node.id), *reversed(parts)])


def literal(node: ast.expr) -> object:
    """The value that is written there; the node itself where it is none."""
    return node.value if isinstance(node, ast.Constant) else node


def offences(source: str, file: str = "") -> Iterator[str]:
    """What a text does that the package must not do."""
    for node in ast.walk(ast.parse(source)):
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom):
            # Under another name a call would not be recognised.
            for alias in node.names:
                if f"{node.module}.{alias.name}" in FORBIDDEN or alias.name in OBJECT_COLLECTIVES:
                    yield f"{where}: imports {node.module}.{alias.name}"
        if isinstance(node, ast.ClassDef) and any("Unpickler" in name_of(base) for base in node.bases):
            yield from () if file in UNPICKLERS else (f"{where}: an unpickler",)
        if not isinstance(node, ast.Call):
            continue
        name, options = name_of(node.func), {option.arg: literal(option.value) for option in node.keywords}
        last = name.rpartition(".")[2]
        if name in FORBIDDEN or last in OBJECT_COLLECTIVES:
            yield f"{where}: calls {name}"
        if name == "torch.load" and options.get("weights_only") is not True:
            yield f"{where}: torch.load without weights_only=True"
        if options.get("allow_pickle", False) is not False:
            yield f"{where}: {name} with allow_pickle"
        if options.get("shell", False) is not False:
            yield f"{where}: {name} with a shell"
        if last == "extractall" and name.startswith("tar") and options.get("filter") != "data":
            yield f"{where}: a tar archive unpacked without filter='data'"
        if last == "from_pretrained" and options.get("trust_remote_code") is not False:
            yield f"{where}: from_pretrained without trust_remote_code=False"
        if name == "Image.open" and "formats" not in options:
            yield f"{where}: Image.open of any format, PostScript among them"
        if last == "import_module" and file not in ("runner/named.py",):
            yield f"{where}: imports by a name"


def test_the_package_does_none_of_it():
    found = [
        offence
        for path in sorted(PACKAGE.rglob("*.py"))
        for offence in offences(path.read_text(), str(path.relative_to(PACKAGE.parent)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "from pickle import loads as read",
        "from torch.distributed import all_gather_object",
        "dist.broadcast_object_list([1], 0)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "eval(text)",
        "exec(text)",
        "class Mine(pickle.Unpickler): pass",
        "tar.extractall(folder)",
        "AutoModel.from_pretrained(name)",
        "Image.open(path)",
        "importlib.import_module(name)",
    ],
)
def test_each_would_be_found(line):
    assert list(offences(line))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "module.eval()",
        "re.compile(pattern)",
        "tar.extractall(folder, filter='data')",
        "subprocess.run(['ls'])",
    ],
)
def test_what_is_harmless_is_not(line):
    assert not list(offences(line))
