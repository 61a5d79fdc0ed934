from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.errors import SettingsError
from loadtests.peers import __main__ as bench
from loadtests.peers import install
from loadtests.peers.known import PEERS
from tests.loadtests.peers.fake import peer

# Stands for an interpreter: `-m venv` makes an environment whose Python is this script again, and everything
# it is told is written down.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *"-m venv --clear "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  *refused*) echo "ERROR: no such package" >&2; exit 1 ;;
  *) printf 'python 3.11.0\\nfake 1.2.3\\n' ;;
esac
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    program = tmp_path / "python"
    program.write_text(FAKE_PYTHON.format(log=tmp_path / "log"))
    program.chmod(0o755)
    return str(program)


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def test_torch_comes_before_the_peer_and_our_onnxruntime_with_it(tmp_path: Path, python: str) -> None:
    assert install.install(PEERS["infinity"], tmp_path, python, "torch==0+cpu")

    venv, torch, packages = calls(tmp_path)
    assert venv == f"-m venv --clear {tmp_path / 'infinity'}"
    assert torch.endswith(" torch==0+cpu")
    assert "infinity_emb[server,optimum,torch]==" in packages
    assert "onnxruntime==" in packages
    assert install.is_installed(tmp_path, PEERS["infinity"])


def test_what_is_installed_already_is_left_as_it_is(tmp_path: Path, python: str) -> None:
    install.install(peer(), tmp_path, python, "torch==1")
    before = len(calls(tmp_path))

    assert not install.install(peer(), tmp_path, python, "torch==1")
    assert len(calls(tmp_path)) == before
    assert install.install(peer(), tmp_path, python, "torch==2")


def test_a_package_that_cannot_be_had_is_said_with_pip_s_words(tmp_path: Path, python: str) -> None:
    with pytest.raises(SettingsError, match="ERROR: no such package"):
        install.install(peer(), tmp_path, python, "refused")

    assert not install.is_installed(tmp_path, peer())


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no-such-python: No such file"):
        install.install(peer(), tmp_path, "no-such-python", "torch")


def test_versions_are_those_of_the_peer_s_environment(tmp_path: Path, python: str) -> None:
    install.install(peer(), tmp_path, python, "torch")

    assert install.installed_versions(tmp_path, peer()) == {"python": "3.11.0", "fake": "1.2.3"}


def test_one_failure_does_not_keep_the_others_out(
    tmp_path: Path, python: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"bad": peer("bad"), "fake": peer("fake")}
    monkeypatch.setattr(install, "PEERS", known)
    monkeypatch.setattr(install, "install", refuse_bad)

    assert install.main(["--into", str(tmp_path), "--python", python]) == 1

    printed = capsys.readouterr()
    assert printed.err == "install: bad: not today\n"
    assert printed.out.startswith("fake: fake 1.2.3")


def refuse_bad(one: object, environments: Path, python: str, torch: str) -> bool:
    if one.name == "bad":  # type: ignore[attr-defined]
        raise SettingsError("not today")
    folder = environments / "fake" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(python)
    return True


def test_an_unknown_peer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        install.main(["nobody", "--into", str(tmp_path)])
    assert "invalid choice: 'nobody'" in capsys.readouterr().err


def test_peers_that_are_not_installed_are_named_and_models_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--environments", str(tmp_path), "--models", str(tmp_path), "--name", "none"]

    assert bench.main(flags) == 1

    words = capsys.readouterr().err
    assert "left out: litserve, mlserver, bentoml, infinity, pytriton" in words
    assert "holds no version of none" in words


def test_every_flag_says_what_it_does() -> None:
    for parser in (bench._parser(), install._parser()):
        assert all(action.help for action in parser._actions)
    assert sys.executable in install._parser().format_help().replace("\n", "").replace(" ", "")
