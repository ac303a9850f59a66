"""Who may import whom (docs/architecture.md), read off the source; and what may not stand in it."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("jaxrl_prefs", "experiments", "benchmarks", "tests")

# Each unit of the library (a file or a folder) and the units that it may import besides itself.
FLOORS: dict[str, set[str]] = {
    "mapped_rows": set(),
    "types": {"mapped_rows"},
    "errors": set(),
    "validation": set(),
    "ops": {"types"},
    "keys": {"types"},
    "method": {"ops", "types"},
    "rows": {"mapped_rows", "types"},
    "learner": {"types"},
    "encoded": {"learner", "method", "nets", "ops", "types"},
    "nets": {"ops", "types"},
    "policies": {"learner", "nets", "ops", "types"},
    "behavior": {"learner", "nets", "ops", "policies", "types"},
    "values": {"behavior", "learner", "nets", "ops", "policies", "types", "validation"},
    "methods": {
        *("behavior", "learner", "method", "nets", "ops"),
        *("policies", "types", "validation", "values"),
    },
    "parallel": {"errors", "types"},
    "training": {"errors", "keys", "mapped_rows", "method", "parallel", "rows", "types"},
    "estimation": {"learner", "nets", "parallel", "types"},
    "environments": {"errors", "types"},
    "data": {"environments", "errors", "mapped_rows", "rows", "types"},
    "evaluation": {
        *("data", "environments", "errors", "keys", "method", "parallel", "rows", "types"),
    },
    "runs": {
        *("data", "encoded", "environments", "errors", "estimation", "evaluation", "keys"),
        *("mapped_rows", "method", "methods", "parallel", "training", "types"),
    },
    "page": {"errors"},
    "cli": {
        *("data", "environments", "errors", "evaluation", "keys", "method", "methods"),
        *("page", "parallel", "rows", "runs", "training", "types"),
    },
    "testing": {
        *("data", "encoded", "errors", "estimation", "keys", "method", "parallel", "rows"),
        *("runs", "training", "types"),
    },
    "toy": {
        *("behavior", "cli", "data", "errors", "learner", "method", "methods", "ops"),
        *("parallel", "policies", "runs", "training", "types", "values"),
    },
    "__init__": {"data", "environments", "errors", "method", "methods", "runs", "types"},
    "__main__": {"__init__", "cli"},  # the commands' modules are imported by name
}

# Packages that only these units may import.
CONFINED = {
    "flax.linen": {"nets"},
    "flax.struct": {
        *("learner", "encoded", "methods", "policies", "behavior", "values", "training"),
    },
    "orbax": {"runs", "parallel"},
    "diffrax": {"ops"},
    "gymnasium": {"data", "environments", "evaluation"},
    "gymnasium_robotics": {"environments"},
    "minari": {"data"},
    "h5py": {"data"},
    "ogbench": {"data", "environments"},
    "pyarrow": {"data"},
    "av": {"data"},
    "dm_control": {"environments"},
    "robosuite": {"environments"},
    "mujoco": {"data", "environments"},
    "absl": {"cli", "toy"},
    "ray": {"cli"},
    "onnx": {"runs"},
    "onnxruntime": {"runs"},
    "plotly": {"page"},
    "torch": set(),
    "tensorflow": set(),
}

# Slow to import or missing on some machines: only inside a function, or in a file that is itself
# imported only inside functions.
LAZY = (
    *("gymnasium", "gymnasium_robotics", "minari", "mujoco", "h5py", "ogbench", "robosuite"),
    *("dm_control", "distrax", "diffrax", "matplotlib", "onnx", "onnxruntime", "plotly", "pyarrow"),
    "av",
)


class Import(NamedTuple):
    source: str  # the importing module
    target: str  # the imported module, as far as it is one
    at_top: bool  # runs when the source is imported


def modules(*folders: str) -> dict[str, Path]:
    """All modules below `folders`, {dotted name: file}; a package is named by its folder."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


LIBRARY = modules("jaxrl_prefs")
EVERYTHING = modules(*OURS)


@functools.cache
def imports(name: str, path: Path) -> tuple[Import, ...]:
    """Every import of a module. `from a import b` imports a.b where that is a module of ours."""
    return tuple(_walk(name, ast.parse(path.read_text()), at_top=True))


def _walk(source: str, node: ast.AST, *, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        top = at_top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            top = False
        if isinstance(child, ast.Import):
            yield from (Import(source, alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{source} imports relatively: name the module"
            assert child.module is not None
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                submodule = whole in EVERYTHING or whole in CONFINED
                yield Import(source, whole if submodule else child.module, at_top)
        else:
            yield from _walk(source, child, at_top=top)


def unit(module: str) -> str:
    """The file or folder of the library that a module belongs to: jaxrl_prefs.ops.ddpm -> ops."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("name", LIBRARY)
def test_imports_point_down(name: str) -> None:
    here = unit(name)
    assert here in FLOORS, f"{name} has no place in FLOORS; give it one, and docs/architecture.md"
    for _, target, _ in imports(name, LIBRARY[name]):
        assert not any(within(target, package) for package in OURS[1:]), f"{name} -> {target}"
        if within(target, "jaxrl_prefs"):
            assert unit(target) in FLOORS[here] | {here}, f"{name} may not import {target}"


def test_every_floor_is_there() -> None:
    """A rule about a file that does not exist would hold for ever."""
    assert set(FLOORS) == {unit(name) for name in LIBRARY}


def test_the_floors_have_an_order() -> None:
    """No circle between units: repeatedly take away those that rest on nothing."""
    rest = dict(FLOORS)
    while rest:
        ground = {name for name, below in rest.items() if not below & rest.keys()}
        assert ground, f"a circle among {sorted(rest)}"
        rest = {name: below for name, below in rest.items() if name not in ground}


def test_no_circle_between_modules() -> None:
    """Imports inside functions count: a circle that is only postponed is still a circle."""
    rest = {
        name: {target for _, target, _ in imports(name, path) if target in EVERYTHING} - {name}
        for name, path in EVERYTHING.items()
    }
    while rest:
        ground = {name for name, below in rest.items() if not below & rest.keys()}
        assert ground, f"a circle among {sorted(rest)}"
        rest = {name: below for name, below in rest.items() if name not in ground}


@pytest.mark.parametrize("name", [name for name in LIBRARY if unit(name) == "methods"])
def test_a_method_never_imports_another(name: str) -> None:
    if name == "jaxrl_prefs.methods":  # the list of them
        return
    others = [t for _, t, _ in imports(name, LIBRARY[name]) if within(t, "jaxrl_prefs.methods")]
    assert not others, f"{name} imports {others}: what two methods need lives in parts/ or ops/"


def test_nothing_imports_programs() -> None:
    for name, path in EVERYTHING.items():
        if not name.startswith(("tests", "benchmarks")):
            assert not [t for _, t, _ in imports(name, path) if within(t, "benchmarks")], name
        if not name.startswith(("experiments", "tests", "benchmarks")):
            assert not [t for _, t, _ in imports(name, path) if within(t, "experiments")], name
        if not name.startswith("tests"):
            assert not [t for _, t, _ in imports(name, path) if within(t, "tests")], name


@pytest.mark.parametrize("package", CONFINED)
def test_confined_packages(package: str) -> None:
    users = {
        name
        for name, path in LIBRARY.items()
        if any(within(target, package) for _, target, _ in imports(name, path))
    }
    strangers = {name for name in users if unit(name) not in CONFINED[package]}
    assert not strangers, f"{package} is for {sorted(CONFINED[package])} alone, not {strangers}"


def test_flax_is_imported_by_its_parts() -> None:
    """`import flax` would hide which half is meant."""
    for name, path in LIBRARY.items():
        for _, target, _ in imports(name, path):
            if within(target, "flax"):
                assert target in ("flax.linen", "flax.struct"), f"{name} imports {target}"


def test_slow_packages_are_imported_where_they_are_used() -> None:
    everything = [i for name, path in LIBRARY.items() for i in imports(name, path)]
    heavy = {i.source for i in everything if i.at_top and i.target.split(".")[0] in LAZY}
    eager = {(i.source, i.target) for i in everything if i.at_top and i.target in heavy}
    assert not eager, f"imported at the top, with a slow package at its own top: {eager}"
    loaded = subprocess.run(
        [sys.executable, "-c", "import jaxrl_prefs, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()
    assert "jaxrl_prefs.methods" in loaded
    assert not {*LAZY, "orbax.checkpoint.v1"} & set(loaded)


def test_no_dated_jax() -> None:
    """Seeds are sharded by shard_map, and keys are typed."""
    for name, path in EVERYTHING.items():
        nodes = ast.walk(ast.parse(path.read_text()))
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not attributes & {"pmap", "PRNGKey"}, name


# A folder of one machine, or an address; the brackets keep these lines from finding themselves.
MACHINE = re.compile(
    r"(?<![\w.])/(?:wor[k]|roo[t]|hom[e]|User[s]|op[t]|mn[t]|scratc[h])/"
    r"|\bshare[d]/(?:data|design|spec)|\.librar[y]\b"
    r"|(?<![\d.])[1-9]\d{0,2}(?:\.\d{1,3}){3}\b"  # no address starts with 0, some versions do
    r"|\blocalhos[t]\b|\.interna[l]\b"
)
NAMED_ONCE = {".ci/run": 1}  # the one place that says where this checkout's datasets lie


def test_no_machine_in_the_tree() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout
    names = [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]
    assert "pyproject.toml" in names
    for name in names:
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:  # a picture
            continue
        found = MACHINE.findall(text)
        assert len(found) <= NAMED_ONCE.get(name, 0), f"{name} names a machine: {found}"
