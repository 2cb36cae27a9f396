"""The project as a whole: its metadata agree, its arrows point one way, and no file names a machine."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA_NAMES = {"torch": "pytorch"}


def _requirements(lines: list[str]) -> dict[str, str]:
    return dict(re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", line).groups() for line in lines)


def _tracked(pattern: str = "") -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", pattern or "."],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: the list of tracked files is git's")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_environment_yml_asks_for_what_pyproject_asks_for():
    wanted = _requirements(PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["lab"])
    wanted = {CONDA_NAMES.get(name, name): versions for name, versions in wanted.items()}
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = _requirements(re.findall(r"^  - ([a-z0-9]+[a-z0-9_.-]*[^\s:]*)$", text, re.MULTILINE))
    for extra in ("conda-forge", "make", "pip"):
        listed.pop(extra)
    assert listed.pop("python") == PROJECT["project"]["requires-python"]
    assert listed == wanted


def test_every_constraint_is_one_exact_version_and_allowed_by_pyproject():
    from packaging.requirements import Requirement

    lines = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    pins = {}
    for line in lines:
        name, version = re.fullmatch(r"([A-Za-z0-9_.-]+)==([^\s+]+)", line).groups()
        pins[name.lower().replace("_", "-")] = version
    extras = PROJECT["project"]["optional-dependencies"]
    for text in PROJECT["project"]["dependencies"] + extras["lab"] + extras["dev"]:
        wanted = Requirement(text)
        assert pins[wanted.name.lower()] in wanted.specifier, (
            f"{wanted} is not met by the pin {pins[wanted.name.lower()]}"
        )
    assert "triton" not in pins, "torch's CUDA builds bring their own exactly pinned triton"


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


def _roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imports(path)}


def test_arrows_between_the_rooms_point_one_way():
    for path in (ROOT / "llmcore").rglob("*.py"):
        assert not _roots(path) & {"grader", "tools", "course", "tests"}, path
    for path in (ROOT / "grader").rglob("*.py"):
        assert not _roots(path) & {"llmcore", "tools", "tests"}, path
        if path.name not in ("bridge.py",):
            assert "nbgrader" not in _roots(path), f"{path}: only the bridge knows nbgrader"


# Each floor may import those below it and itself, never those above (docs/design.md).
FLOORS = [
    {"exercise", "wire"},
    {"policy", "calling", "compare", "course"},
    {"inner", "runner", "pipe", "sandbox", "intake", "ledger", "lateness", "pool", "fingerprint"},
    {"judge", "worker", "bridge", "exchange", "workspace"},
    {"checking", "mutation", "feedback", "lab", "archives"},
    {"grading", "task", "desk", "cluster", "audit", "item_statistics", "similarity"},
    {"cli", "cli_reports", "demo"},
]


def test_no_module_of_the_grader_imports_from_a_floor_above():
    level = {name: n for n, names in enumerate(FLOORS) for name in names}
    for path in (ROOT / "grader").glob("*.py"):
        if path.stem == "__init__":
            continue
        for name in _imports(path):
            module = name.removeprefix("grader.").split(".")[0] if name.startswith("grader.") else None
            if module in level:
                assert level[module] <= level[path.stem], f"{path.stem} imports {module} from a floor above"


def test_no_tracked_file_names_a_machine():
    suspicious = re.compile(r"(?<![\w.])/(?:root|home/\w+|Users/\w+|opt/(?:wheels|pypi))/")
    for path in _tracked():
        if path.suffix == ".png" or path.name in (
            Path(__file__).name,
            "test_lint.py",
        ):  # the last two hold bad examples
            continue
        found = suspicious.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{path.relative_to(ROOT)}: {found[0] if found else ''}"


def test_no_notebook_is_larger_than_a_megabyte():
    for path in _tracked("*.ipynb"):
        assert path.stat().st_size <= 1_000_000, path
