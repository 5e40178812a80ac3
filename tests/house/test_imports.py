"""The import rule of the house, over the syntax trees: who may import whom, and who may import what."""

import ast
import importlib
import pkgutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fl_audit

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"fl_audit": "audit", "fl_audit.strategies": "strategies", "fl_audit.attacks": "attacks"}

MAY_IMPORT = {
    "core": set(),
    "data": {"core"},
    "models": {"core"},
    "attacks": {"core"},
    "semsim": {"core"},
    "metrics": {"core", "semsim"},
    "strategies": {"core"},
    "federation": {"core", "data", "models", "strategies"},
    "reports": {"core", "metrics"},
    "faithfulness": {"core", "metrics", "reports"},
    "run": {"core", "data", "models", "attacks", "metrics", "strategies", "federation", "reports"},
    "cli": {
        "core",
        "data",
        "models",
        "attacks",
        "metrics",
        "strategies",
        "federation",
        "reports",
        "faithfulness",
        "run",
        "semsim",
    },
}
FLOWER = {"strategies", "federation", "cli"}
TERMINAL = {"cli"}


def sources() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.glob("audit/*/**/*.py")):
        yield path.relative_to(ROOT / "audit").parts[0], path
    for part in ("strategies", "attacks"):
        for path in sorted((ROOT / part).rglob("*.py")):
            yield part, path


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize(
    ("part", "path"), list(sources()), ids=lambda value: str(value).removeprefix(f"{ROOT}/")
)
def test_a_file_imports_only_what_its_part_may(part: str, path: Path) -> None:
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "fl_audit":
            target = rest.split(".")[0]
            assert target in MAY_IMPORT[part] | {part, ""}, f"{part} imports {name}"
        if top == "flwr":
            assert part in FLOWER, f"{part} imports Flower"
        if top in {"typer", "rich", "click"}:
            assert part in TERMINAL, f"{part} imports {top}"
        assert top not in {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, f"{path} imports {name}"


def test_the_package_list_is_complete() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    expected = {"fl_audit"}
    for name, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            expected.add(".".join([name, *parts]))
    assert set(settings["packages"]) == expected


def test_every_public_name_exists_and_is_sorted() -> None:
    for module in pkgutil.walk_packages(fl_audit.__path__, "fl_audit."):
        if not module.ispkg:
            continue
        package = importlib.import_module(module.name)
        public = getattr(package, "__all__", [])
        assert public == sorted(public), module.name
        for name in public:
            assert getattr(package, name) is not None
