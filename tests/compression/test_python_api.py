"""The example of docs/python-api.md, run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from compression import api
from compression.architecture import layer_shapes
from compression.classifier import load
from compression.cli import parser
from tests.compression.finished import backbone
from tests.compression.tiny import write_data

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone(tmp_path / "backbone")
    write_data(tmp_path / "reviews")
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[0], "docs/python-api.md", "exec"), {})  # noqa: S102 - our own page
    assert re.fullmatch(r"reviews: [\d.]+% right, [\d.]+% of the teacher's\n", capsys.readouterr().out)
    shapes = layer_shapes(load("pruned").model)
    assert len(shapes) == 2
    assert sum(shape.heads for shape in shapes) == 6
    assert (tmp_path / "onnx" / "model.onnx").is_file()


def test_every_function_the_page_names_is_there() -> None:
    called = set(re.findall(r"bertpress\.(\w+)\(", PAGE))
    assert called >= {"train", "distill", "prune", "export", "evaluate", "compress", "compare"}
    assert called <= set(api.__all__)
    assert all(callable(getattr(api, name)) for name in api.__all__)


def test_the_second_example_is_python() -> None:
    compile(EXAMPLES[1], "docs/python-api.md", "exec")


def test_importing_it_is_cheap() -> None:
    code = "import sys, compression.api; print({'torch', 'transformers', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_command_of_the_page_of_commands_parses() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()
    ]
    given = [
        line.split("#")[0].replace('"', "").split()[1:] for line in lines if line.startswith("bertpress")
    ]
    assert {arguments[0] for arguments in given} >= {"train", "pretrain", "distill", "prune", "compare"}
    for arguments in given:
        assert parser().parse_args(arguments).run is not None
