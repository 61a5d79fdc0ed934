"""Which of a version's builds this machine and this install run best. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from app.artifact import Build, Manifest
from app.errors import NoUsableBuildError

_FASTEST_PRECISION = ("int8", "bf16", "fp16", "fp32")
_PREFERRED_ENGINE = ("onnx", "openvino", "torchscript")


@dataclass(frozen=True, slots=True)
class Choice:
    """A build, and why it was taken."""

    build: Build
    reason: str


def choose_build(
    manifest: Manifest,
    features: Set[str],
    engines: Set[str],
    wanted: str | None = None,
    allow_torchscript: bool = False,
) -> Choice:
    """The wanted build, or else the best that can run: preferred engine, least precision, most CPU features.

    Raises:
        NoUsableBuildError: none can run here, or there is none of the wanted name.
    """
    refused = {build.name: refusal(build, features, engines, allow_torchscript) for build in manifest.builds}
    version = f"{manifest.name}/{manifest.version}"
    if wanted is not None:
        return _wanted_build(manifest, wanted, refused.get(wanted))
    usable = [build for build in manifest.builds if refused[build.name] is None]
    if not usable:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise NoUsableBuildError(f"no build of {version} runs here ({reasons})")
    best = min(usable, key=_preference)
    others = ", ".join(
        f"{name}: {reason or 'less preferred'}" for name, reason in refused.items() if name != best.name
    )
    needs = f", needs {'+'.join(best.needs)}" if best.needs else ""
    return Choice(best, f"best of {len(usable)} usable{needs}" + (f" ({others})" if others else ""))


def refusal(build: Build, features: Set[str], engines: Set[str], allow_torchscript: bool) -> str | None:
    """Why a build cannot run here; None if it can."""
    missing = [feature for feature in build.needs if feature not in features]
    if missing:
        return f"this CPU lacks {'+'.join(missing)}"
    if build.engine not in engines:
        return f"engine {build.engine} is not installed"
    if build.engine == "torchscript" and not allow_torchscript:
        return "BERTPRESS_ALLOW_TORCHSCRIPT is not set"
    return None


def _wanted_build(manifest: Manifest, wanted: str, reason_against: str | None) -> Choice:
    """A setting overrules what the CPU lacks, for the probes still judge; not what the install lacks."""
    version = f"{manifest.name}/{manifest.version}"
    for build in manifest.builds:
        if build.name == wanted:
            if reason_against and not reason_against.startswith("this CPU"):
                raise NoUsableBuildError(f"build {wanted} of {version} cannot run: {reason_against}")
            return Choice(
                build, "BERTPRESS_BUILD names it" + (f", though {reason_against}" if reason_against else "")
            )
    names = ", ".join(build.name for build in manifest.builds)
    raise NoUsableBuildError(f"{version} has no build {wanted!r} (BERTPRESS_BUILD); it has {names}")


def _preference(build: Build) -> tuple[int, int, int]:
    return (
        _PREFERRED_ENGINE.index(build.engine),
        _FASTEST_PRECISION.index(build.precision),
        -len(build.needs),
    )
