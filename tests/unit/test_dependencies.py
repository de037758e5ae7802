"""The lists of dependencies in pyproject.toml contain the packages that the code imports, and no others."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.sources import statements

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED = {
    line.partition("==")[0].lower().replace("_", "-")
    for line in (ROOT / "build/requirements.txt").read_text().splitlines()
    if "==" in line
}

DISTRIBUTIONS = {"google": "protobuf", "grpc": "grpcio", "grpc_tools": "grpcio-tools", "yaml": "pyyaml"}
"""Distributions whose modules have other names."""

TOOLS = {"codespell", "import-linter", "mypy", "pyinstaller", "pytest-randomly", "ruff"}
"""Programs of the developers' environment, which no module imports."""

OURS = {path.stem for path in (ROOT / "build").glob("*.py")} | {path.name for path in ROOT.iterdir()} | {"frames"}
"""Our modules; `frames` is a neighbour of the lab's agent, inside the guest."""


def names(requirements):
    return {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in requirements}


@functools.cache
def modules_in(folder):
    """The modules that the modules below a folder import, also inside functions."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / folder).rglob("*.py"))
    nodes = [node for tree in trees for node in statements(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return modules | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


def imported(*folders):
    """The distributions that the modules below some folders import."""
    modules = set().union(*map(modules_in, folders))
    tops = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names) - OURS
    return {DISTRIBUTIONS.get(top, top.replace("_", "-")) for top in tops}


def test_the_plugins_depend_on_what_they_import():
    assert names(PROJECT["dependencies"]) == imported("cni", "ipam")


@pytest.mark.parametrize(
    ("extra", "folders"), [("node", ["deviceplugin", "resident"]), ("kubevirt", ["kubevirt", "resident"])]
)
def test_an_extra_lists_what_its_program_imports_in_addition(extra, folders):
    assert names(EXTRAS[extra]) == imported(*folders) - names(PROJECT["dependencies"])


def test_the_developers_environment_lists_tools_and_what_tests_and_build_import():
    product = names(PROJECT["dependencies"]).union(*(names(EXTRAS[extra]) for extra in ("node", "kubevirt")))
    listed = {name for name in names(EXTRAS["dev"]) if not name.startswith(("barewire", "types-"))}
    assert listed == (imported("tests", "build") - product) | TOOLS


def test_every_dependency_has_a_pinned_version():
    everything = names(PROJECT["dependencies"]).union(*map(names, EXTRAS.values())) - {"barewire"}
    assert everything - PINNED == set()
