"""Which of a version's builds this machine and this install run best. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from statistics import fmean

from app.artifact import Build, Manifest
from app.errors import NoUsableBuildError
from app.published import Table, comparable

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
    """The first of `rank_builds`."""
    return rank_builds(manifest, features, engines, wanted, allow_torchscript)[0]


def rank_builds(
    manifest: Manifest,
    features: Set[str],
    engines: Set[str],
    wanted: str | None = None,
    allow_torchscript: bool = False,
    rates: Mapping[str, float] | None = None,
    threads: int = 1,
) -> list[Choice]:
    """The wanted build alone, or else all that can run here, the best first.

    `rates` are texts a second by build, measured on this machine; they decide where they cover all that can
    run. Else the manifest's latencies do, where they cover them and come from a CPU with the same features:
    those of passes of so many `threads`, if there are any. Else preference: on a GPU first, then by engine,
    least precision, most CPU features.

    Raises:
        NoUsableBuildError: none can run here, or there is none of the wanted name.
    """
    refused = {build.name: refusal(build, features, engines, allow_torchscript) for build in manifest.builds}
    if wanted is not None:
        return [_wanted_build(manifest, wanted, refused.get(wanted))]
    usable = [build for build in manifest.builds if refused[build.name] is None]
    if not usable:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise NoUsableBuildError(f"no build of {manifest.name}/{manifest.version} runs here ({reasons})")
    names = {build.name for build in usable}
    order = _Order(names, rates or {}, comparable(manifest, names, features, threads))
    ranked = sorted(usable, key=order)
    others = {name: reason for name, reason in refused.items() if reason is not None}
    return [
        Choice(build, order.reason(build, {**{b.name: None for b in ranked if b is not build}, **others}))
        for build in ranked
    ]


class _Order:
    """By what the usable builds are compared, and how that is said."""

    def __init__(self, names: Set[str], rates: Mapping[str, float], published: Mapping[str, Table]) -> None:
        self._usable = len(names)
        self._rates = rates if len(names) > 1 and names <= rates.keys() else {}
        self._published = _published_seconds(published) if len(names) > 1 else {}

    def __call__(self, build: Build) -> tuple[float, ...]:
        """Less is better."""
        if self._rates:
            return (-self._rates[build.name], *_preference(build))
        if self._published:
            return (self._published[build.name], *_preference(build))
        return _preference(build)

    def reason(self, build: Build, others: Mapping[str, str | None]) -> str:
        """Why this one and not the others; None stands for a build that could run as well."""
        needs = f", needs {'+'.join(build.needs)}" if build.needs else ""
        beside = ", ".join(f"{name}: {reason or self._behind(name)}" for name, reason in others.items())
        figure = f" with {self._rates[build.name]:.0f} texts/s measured here" if self._rates else ""
        figure = figure or (" by the published latencies" if self._published else "")
        return f"best of {self._usable} usable{figure}{needs}" + (f" ({beside})" if beside else "")

    def _behind(self, name: str) -> str:
        if self._rates:
            return f"{self._rates[name]:.0f} texts/s"
        return "slower" if self._published else "less preferred"


def _published_seconds(tables: Mapping[str, Table]) -> dict[str, float]:
    """Geometric mean of each build's published latencies over the shapes that all of them have."""
    shapes = set.intersection(*(set(table) for table in tables.values())) if tables else set()
    if not shapes:
        return {}
    return {
        name: math.exp(fmean(math.log(table[shape]) for shape in shapes)) for name, table in tables.items()
    }


def refusal(build: Build, features: Set[str], engines: Set[str], allow_torchscript: bool) -> str | None:
    """Why a build cannot run here; None if it can."""
    missing = [need for need in build.needs if need not in features]
    if "cuda" in missing:
        return "there is no CUDA here for onnxruntime (pip install 'bertpress[cuda]')"
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


def _preference(build: Build) -> tuple[int, ...]:
    return (
        "cuda" not in build.needs,
        _PREFERRED_ENGINE.index(build.engine),
        _FASTEST_PRECISION.index(build.precision),
        -len(build.needs),
    )
