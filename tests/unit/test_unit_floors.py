"""build/unit.py: two processes share the unit tests. A package below its floor of executed lines fails the check."""

from __future__ import annotations

import json
import tomllib

import pytest
from unit import FLOORS, TOP, Lines, by_package, complaints, risen, split, table

PACKAGES = {"cni": Lines(200, 190), "cni/host": Lines(10, 5)}


def test_files_are_shared_out_by_their_sizes_and_none_is_left_out():
    sizes = {"a": 50, "b": 30, "c": 20, "d": 10}
    assert split(sizes, 2) == [["a"], ["b", "c", "d"]] or split(sizes, 2) == [["a", "d"], ["b", "c"]]
    assert sorted(name for part in split(sizes, 3) for name in part) == ["a", "b", "c", "d"]


def test_a_package_is_its_own_files_without_those_of_the_packages_in_it():
    files = {"cni/log.py": Lines(10, 5), "cni/pci.py": Lines(30, 30), "cni/host/acl.py": Lines(4, 0)}
    assert by_package(files) == {"cni": Lines(40, 35), "cni/host": Lines(4, 0)}


@pytest.mark.parametrize(
    ("floors", "words"),
    [
        ({"cni": 95, "cni/host": 50}, []),
        ({"cni": 96, "cni/host": 50}, ["cni: the unit tests execute 95.0 % of its lines, the floor is 96 %"]),
        ({"cni": 95}, ["cni/host has no floor"]),
        ({"cni": 95, "cni/host": 50, "gone": 1}, ["gone is no package any more"]),
    ],
)
def test_a_package_below_its_floor_and_one_without_a_floor_are_named(floors, words):
    found = complaints(PACKAGES, floors)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


def test_floors_rise_to_just_below_what_is_reached_and_never_fall():
    assert risen(PACKAGES, {"cni": 90, "cni/host": 60}) == {"cni": 94, "cni/host": 60}
    assert risen(PACKAGES, {}) == {"cni": 94, "cni/host": 49}


def test_a_package_without_code_lacks_nothing():
    assert risen({"cni": Lines(0, 0)}, {}) == {"cni": 99}


def test_the_table_shows_each_package_and_all_together():
    assert table(PACKAGES, {"cni": 90}).splitlines()[1:] == [
        "cni                         200   95.0%     90",
        "cni/host                     10   50.0%       ",
        "total                       210   92.9%       ",
    ]


def test_each_package_of_the_product_has_a_floor_and_nothing_else_has():
    """`make coverage RAISE=--raise` writes the floor of a new package."""
    source = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["coverage"]["run"]["source"]
    packages = {str(path.parent.relative_to(TOP)) for name in source for path in (TOP / name).rglob("*.py")}
    assert set(json.loads(FLOORS.read_text())) == packages


def test_the_packages_of_the_userspace_plugin_are_tested_without_open_vswitch():
    floors = json.loads(FLOORS.read_text())
    named = ("cni/userspace", "cni/userspace/sockets", "cni/userspace/vswitch")
    assert {name: floors[name] for name in named if floors[name] < 90} == {}
