"""The frameworks' own test suites, which are in their source distributions, not in what pip installs."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import urllib.request
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import pytest

SUITES = Path(sys.prefix) / "suites"


def suite(project: str, module: str, *, tests: str = "tests", repository: str | None = None) -> Any:
    """A module of the tests of the installed version of a project, such as "integration.base_storage_test".

    They are a package by the name of the project there, as several projects have a package `tests`. repository: where
    on GitHub they are, if the source distribution has none; without a network what needs them is skipped then.
    """
    name = re.sub(r"\W", "_", f"{project}_tests")
    package = SUITES / f"{project}-{version(project)}" / name
    if not package.exists():
        fetch(project, package, tests, repository)
    if str(package.parent) not in sys.path:
        sys.path.insert(0, str(package.parent))
        pytest.register_assert_rewrite(name)
    return import_module(f"{name}.{module}")


def fetch(project: str, package: Path, tests: str, repository: str | None) -> None:
    package.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=package.parent) as temporary:
        archive = github(repository, project, temporary) if repository else sdist(project, temporary)
        with tarfile.open(archive) as unpacked:
            unpacked.extractall(temporary, filter="data")
        found = next(Path(temporary).glob(f"*/{tests}/"))
        copied = copytree(found, Path(temporary) / "renamed")
        for path in copied.rglob("*.py"):
            text = path.read_text()
            path.write_text(re.sub(rf"^(\s*(?:from|import) ){tests}\b", rf"\g<1>{package.name}", text, flags=re.M))
        (copied / "__init__.py").touch()
        try:
            copied.rename(package)
        except OSError:  # another process was faster
            if not package.exists():
                raise


def sdist(project: str, folder: str) -> Path:
    download = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--no-binary", project, "-d", folder]
    subprocess.run([*download, f"{project}=={version(project)}"], check=True)
    return next(Path(folder).glob("*.tar.gz"))


def github(repository: str, project: str, folder: str) -> Path:
    archive = Path(folder, "archive.tar.gz")
    address = f"https://github.com/{repository}/archive/refs/tags/{version(project)}.tar.gz"
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            archive.write_bytes(answer.read())
    except OSError as error:
        pytest.skip(f"the suite of {project} is on GitHub only: {error}", allow_module_level=True)
    return archive
