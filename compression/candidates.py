"""The candidate builds of one version, their files laid out as they will be published."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.artifact import Build, sha256
from app.engines import Device, Engine, accelerators, load_engine
from app.errors import RecipeError
from app.hardware import cpu_features, usable_cores
from compression import builds
from compression.builds import CandidateBuild
from compression.quantization import bf16
from compression.shared_weights import share

# Graphs give their weights to a common file where that makes the version smaller by this share.
_WORTH_SHARING = 0.1


@dataclass(frozen=True)
class Candidate:
    """A candidate build, where it is, and the engine that runs it."""

    build: CandidateBuild
    path: Path
    engine: Engine
    emulated: bool = False
    """The machine at hand cannot run it: the engine gives its answers, and nothing of its cost."""


@dataclass(frozen=True)
class Candidates:
    """All builds of a version, and every file they need, by the name it is published under."""

    builds: tuple[Candidate, ...]
    files: Mapping[str, Path]


def gather(folders: Sequence[Path], target: Path) -> Candidates:
    """Lay the builds of several stages out in one folder and open them.

    Builds of equal bytes are one file; graphs with equal weights share those where it is worth it.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    described = [builds.read(folder) for folder in folders]
    names = _names(described, folders)
    for build, folder, name in zip(described, folders, names, strict=True):
        shutil.copyfile(folder / build.file, target / name)
        for companion in build.companions:
            shutil.copyfile(folder / companion, target / companion)
    _share(sorted({name for name in names if name.endswith(".onnx")}), target)
    return Candidates(
        tuple(_opened(build, target / name) for build, name in zip(described, names, strict=True)),
        {path.name: path for path in sorted(target.iterdir())},
    )


def _names(described: Sequence[CandidateBuild], folders: Sequence[Path]) -> list[str]:
    """What each build's file is called: its own name, or the build's where another file has that."""
    names: dict[str, str] = {}
    for build, folder in zip(described, folders, strict=True):
        content = sha256(folder / build.file)
        if content not in names:
            taken = build.file in names.values()
            names[content] = f"{build.name}{Path(build.file).suffix}" if taken else build.file
    return [names[sha256(folder / build.file)] for build, folder in zip(described, folders, strict=True)]


def _share(graphs: Sequence[str], folder: Path) -> None:
    if len(graphs) < 2:
        return
    shared = share({name: folder / name for name in graphs}, folder / "shared")
    before = sum((folder / name).stat().st_size for name in graphs)
    if sum(path.stat().st_size for path in shared.values()) <= (1 - _WORTH_SHARING) * before:
        for name, path in shared.items():
            path.replace(folder / name)
    shutil.rmtree(folder / "shared")


def _opened(build: CandidateBuild, path: Path) -> Candidate:
    engine, emulated = answering(build, path)
    return Candidate(build, path, engine, emulated)


def answering(build: CandidateBuild | Build, path: Path) -> tuple[Engine, bool]:
    """An engine that gives a build's answers, and whether it only emulates it: then it says nothing of cost.

    On a CPU without bf16 OpenVINO would compute in fp32 without a word. ONNX Runtime runs fp16 on a CPU by
    rounding what it computes in fp32.

    Raises:
        RecipeError: the CPU cannot run the build, and its form cannot be emulated.
    """
    if "cuda" in build.needs:
        device: Device = "cuda" if "cuda" in accelerators() else "cpu"
        engine = load_engine(build.engine, path, usable_cores(), build.precision, device=device)
        return engine, device == "cpu"
    if build.precision != "bf16" or "bf16" in cpu_features():
        return load_engine(build.engine, path, usable_cores(), build.precision), False
    if path.suffix != ".onnx":
        raise RecipeError(
            f"build {build.name} computes in bf16, which this CPU does not; keep it in ONNX form, to be "
            "emulated here, or take a CPU with bf16"
        )
    with tempfile.TemporaryDirectory() as scratch:
        return load_engine("onnx", bf16.emulate(path, Path(scratch) / path.name), usable_cores()), True
