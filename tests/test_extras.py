"""Optional packages: there, missing, too old."""

from __future__ import annotations

from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from textlora.extras import QLORA, Extra


def test_what_is_there_has_no_obstacle():
    assert QLORA.obstacle == ""
    assert QLORA.command == "pip install 'textlora[qlora]'"


def test_a_missing_package():
    assert Extra("no_such_package", (1, 0), "some").obstacle == "no_such_package is not installed"


def test_a_package_that_is_too_old():
    found = Extra("bitsandbytes", (900, 1), "qlora").obstacle
    assert found.startswith("bitsandbytes ")
    assert found.endswith(" is installed, and 900.1 or newer is needed")


def test_versions_are_compared_as_numbers():
    from importlib.metadata import version

    major, minor = version("bitsandbytes").split(".")[:2]
    assert Extra("bitsandbytes", (int(major), int(minor)), "qlora").obstacle == ""
    assert Extra("bitsandbytes", (int(major), int(minor) + 1), "qlora").obstacle != ""


def test_pyproject_names_the_same_floor():
    from tests.conftest import ROOT

    floor = ".".join(map(str, QLORA.floor))
    assert f'{QLORA.extra} = ["{QLORA.package}>={floor}"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_lock_file_leaves_nothing_out():
    names = [line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    known = {canonicalize_name(name) for name in names} | {"torch", "setuptools"}  # the Makefile's, and venv's own
    missing = {
        (name, needed.name)
        for name in names
        for needed in map(Requirement, distribution(name).requires or [])
        if (needed.marker is None or needed.marker.evaluate({"extra": ""}))
        and canonicalize_name(needed.name) not in known
    }
    assert missing == set()
