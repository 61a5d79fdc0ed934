"""What an installation holds, and what it asks for."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    version = PROJECT["version"]
    assert tops == {"app", "compression", f"bertpress-{version}.dist-info"}


def test_the_wheel_holds_the_shipped_recipes(wheel: zipfile.ZipFile) -> None:
    assert "compression/recipes/default.toml" in wheel.namelist()


def test_both_commands_are_installed(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    scripts = wheel.read(name).decode()
    assert "bertpress = compression.cli:main" in scripts
    assert "bertpress-serve = app.cli:main" in scripts


def test_the_default_install_serves_without_torch() -> None:
    heavy = ("torch", "transformers", "pandas", "onnx>", "scikit", "datasets")
    assert not [need for need in PROJECT["dependencies"] if need.startswith(heavy)]
    assert {"compress", "openvino", "torchscript", "optimum", "dev"} <= set(PROJECT["optional-dependencies"])


def test_python_versions_stop_before_the_standard_library_has_a_compression_package() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
