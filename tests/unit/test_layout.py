"""The rules of the layout, read from the source of genesis_ds: who may import whom, and how large things grow.

Imports count wherever they stand, in functions and under `if TYPE_CHECKING` too. `ALLOWED` lists what breaks a rule
all the same, by its path; an entry that is not needed any more fails the test as well.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 399, 49
LAYERS = [
    {
        "genesis_ds",
        "disk",
        "environment",
        "errors",
        "extensions",
        "listing",
        "metrics",
        "pictures",
        "registry",
        "segments",
        "shipped",
        "stored",
        "user_files",
        "versions",
    },
    {"ds_config"},
    {"config"},
    {"analysis", "corpus", "data", "flops", "model", "tokenizer"},
    {"optimizers", "tasks"},
    {"engine", "memory"},
    {"checkpoint", "faults", "hooks", "supervision"},
    {"bench", "hosts", "inference", "report", "sweep", "training", "tuning"},
    {"__main__", "cli", "commands", "completion"},
]
"""Top-level packages and modules, the lowest first. Each imports what lies lower, or beside it without a circle."""
LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}
TRACKERS = {"tensorboard", "wandb", "mlflow", "comet_ml"}

ALLOWED: dict[str, set[str]] = {}


def _read() -> dict[str, ast.Module]:
    """{dotted module name: its syntax tree}"""
    trees = {}
    for path in sorted((ROOT / "genesis_ds").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


TREES = _read()


def _imported(tree: ast.Module) -> set[str]:
    """Dotted names of what a module imports: of ours the module, where one is named, and not what is in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            assert not node.level, "imports are absolute"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in TREES else node.module for name in full}
    return found


IMPORTS = {module: _imported(tree) - {module} for module, tree in TREES.items()}


def _path(module: str) -> str:
    path = ROOT.joinpath(*module.split("."))
    return str((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(ROOT))


def _package(module: str) -> str:
    if module.endswith(".registry"):
        return "registry"  # data that imports nothing of ours
    return (module.split(".")[1:2] or [module])[0]


def _packages_imported(module: str) -> set[str]:
    return {_package(name) for name in IMPORTS[module] if name in TREES} - {_package(module)}


def _libraries(module: str) -> set[str]:
    """Top-level names of what is imported and not ours; torch's own wrapper of TensorBoard is tensorboard."""
    others = IMPORTS[module] - TREES.keys()
    return {"tensorboard" if "tensorboard" in name else name.partition(".")[0] for name in others}


def _splatted_tuples(tree: ast.Module) -> set[int]:
    """Lines of calls f(*name) where the module has `name = a, b`: the reader cannot see what is passed, or how much."""
    tuples = {
        ast.unparse(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and len(node.value.elts) > 1
        for target in node.targets
        if isinstance(target, ast.Name | ast.Attribute)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    starred = [argument for call in calls for argument in call.args if isinstance(argument, ast.Starred)]
    return {argument.lineno for argument in starred if ast.unparse(argument.value) in tuples}


def _long_functions(tree: ast.Module) -> set[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f.name for f in functions if (f.end_lineno or 0) - f.lineno >= MOST_LINES_OF_A_FUNCTION}


def _imports_upwards(module: str) -> bool:
    return any(LAYER_OF[package] > LAYER_OF[_package(module)] for package in _packages_imported(module))


def _n_lines(module: str) -> int:
    return len((ROOT / _path(module)).read_text(encoding="utf-8").splitlines())


IS_BROKEN_BY = {
    "imports from a higher layer": _imports_upwards,
    "deepspeed outside its packages": lambda module: (
        "deepspeed" in _libraries(module) and _package(module) not in ("engine", "checkpoint", "hosts")
    ),
    "a tracker outside hooks/write": lambda module: (
        bool(_libraries(module) & TRACKERS) and not module.startswith("genesis_ds.hooks.write.")
    ),
    "a registry imports ours": lambda module: module.endswith(".registry") and bool(IMPORTS[module] & TREES.keys()),
    "a file is too long": lambda module: _n_lines(module) > MOST_LINES,
    "a function is too long": lambda module: bool(_long_functions(TREES[module])),
    "a call splats a tuple": lambda module: bool(_splatted_tuples(TREES[module])),
}
"""Rule -> whether a module breaks it."""


@pytest.mark.parametrize("rule", IS_BROKEN_BY)
def test_the_rule_is_broken_only_where_it_is_listed(rule):
    broken = {_path(module) for module in TREES if IS_BROKEN_BY[rule](module)}
    assert broken == ALLOWED.get(rule, set())


def test_every_package_has_a_layer():
    assert {_package(module) for module in TREES} <= LAYER_OF.keys()


def _circle(imports: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_modules_import_each_other_in_no_circle():
    assert _circle({module: IMPORTS[module] & TREES.keys() for module in TREES}) == []


def test_packages_of_one_layer_import_each_other_in_no_circle():
    beside: dict[str, set[str]] = {}
    for module in TREES:
        layer = LAYERS[LAYER_OF[_package(module)]]
        beside.setdefault(_package(module), set()).update(_packages_imported(module) & layer)
    assert _circle(beside) == []


def test_no_two_files_of_tests_have_one_name_which_pytest_cannot_collect():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
