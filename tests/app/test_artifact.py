from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app import artifact
from app.artifact import Manifest, TokenizerSettings
from app.errors import ArtifactError, ChecksumError, ManifestError
from tests.app.tiny import publish


def rewrite(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_what_was_written_is_read_and_verified(repository: Path) -> None:
    folder = repository / "tiny/1"
    manifest = artifact.read(folder)
    artifact.verify(folder, manifest)
    assert manifest.labels == ("negative", "positive")
    assert manifest.bytes == sum(
        path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json"
    )


def test_what_a_build_needs_is_its_file_and_those_beside_all_builds(repository: Path) -> None:
    manifest = artifact.read(repository / "tiny/1")
    (build,) = manifest.builds
    other = build.model_copy(update={"name": "other", "file": "other.onnx", "bytes": 1})
    both = manifest.model_copy(update={"builds": (build, other)})
    assert both.bytes_to_run(build) == manifest.bytes
    assert both.bytes_to_run(other) == manifest.bytes - build.bytes + 1


def test_a_version_is_never_overwritten(repository: Path) -> None:
    manifest = artifact.read(repository / "tiny/1")
    with pytest.raises(ArtifactError, match="never overwritten"):
        artifact.write(repository, manifest, {})


def test_a_version_that_could_not_be_written_leaves_nothing(repository: Path) -> None:
    folder = repository / "tiny/1"
    draft = artifact.read(folder).model_copy(update={"version": 2})
    sources = {stored.file: folder / stored.file for stored in draft.stored_files}
    with pytest.raises(ArtifactError, match=r"no source is given for \['tokenizer.json'\]"):
        artifact.write(repository, draft, {"model.onnx": sources["model.onnx"]})
    with pytest.raises(ChecksumError):
        artifact.write(repository, draft, {**sources, "model.onnx": folder / "tokenizer.json"})
    assert [path.name for path in (repository / "tiny").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"name": "../up"}, "name"),
        ({"name": "other"}, "not of this folder"),
        ({"version": 2}, "not of this folder"),
        ({"surprise": 1}, "surprise"),
        ({"builds": []}, "builds"),
        ({"probes": [{"text": "a", "logits": {}}]}, "no logits for the builds"),
        ({"probes": [{"text": "a", "logits": {"onnx-fp32": [1.0]}}]}, "one logit for each of the 2 labels"),
    ],
)
def test_manifests_that_make_no_sense(repository: Path, change: dict[str, Any], message: str) -> None:
    rewrite(repository / "tiny/1", change)
    with pytest.raises(ManifestError, match=message):
        artifact.read(repository / "tiny/1")


def test_builds_have_names_of_their_own(repository: Path) -> None:
    document = json.loads((repository / "tiny/1/manifest.json").read_text())
    with pytest.raises(ValueError, match="build names must differ"):
        Manifest.model_validate({**document, "builds": document["builds"] * 2})


def test_a_file_cannot_lead_out(repository: Path) -> None:
    folder = repository / "tiny/1"
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][0]["file"] = "../../../etc/passwd"
    rewrite(folder, document)
    with pytest.raises(ManifestError):
        artifact.read(folder)


def test_a_link_is_not_a_file(repository: Path, tmp_path: Path) -> None:
    folder = repository / "tiny/1"
    manifest = artifact.read(folder)
    (folder / "model.onnx").rename(tmp_path / "model.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(ChecksumError, match="plain file"):
        artifact.verify(folder, manifest)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 8, "truncation": "head", "head_tokens": 5},
        {"max_tokens": 8, "truncation": "head+tail", "head_tokens": 8},
        {"max_tokens": 1, "truncation": "head", "head_tokens": 1},
    ],
)
def test_tokenizer_settings_agree(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"head_tokens|greater than"):
        TokenizerSettings(**fields, pad_token_id=0)


def test_what_is_no_model_and_no_version(repository: Path) -> None:
    publish(repository, version=12)
    for odd in ("tiny/01", "tiny/x", "tiny/.publishing-1", ".hidden/1", "Upper/1"):
        (repository / odd).mkdir(parents=True)
    assert artifact.versions(repository, "tiny") == [1, 12]
    assert artifact.versions(repository, "absent") == []
    assert artifact.model_names(repository) == ["tiny"]


def test_the_newest_versions(repository: Path) -> None:
    publish(repository, version=12)
    (repository / "empty").mkdir()
    newest = repository / "tiny" / "12"
    assert artifact.newest_folders(repository) == {"tiny": newest}
    assert artifact.newest_folder(repository, "tiny") == newest
    with pytest.raises(ArtifactError, match="holds no version of empty; it has tiny"):
        artifact.newest_folder(repository, "empty")
