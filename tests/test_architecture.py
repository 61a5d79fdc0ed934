"""The directions of import: who may know whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down: a module may import from its own layer and from those below it, never from above.
LAYERS = (
    {"app.main", "app.cli"},
    {"app.protocols"},
    {"app.service", "app.gauges"},
    {"app.routing", "app.registry", "app.admission", "app.cache", "app.in_flight"},
    {"app.answer", "app.tuner", "app.upkeep", "app.head_start", "app.tiers"},
    {"app.scheduler", "app.opening", "app.cascade"},
    {"app.dispatch", "app.background", "app.first", "app.repository", "app.threads"},
    {"app.variant", "app.batcher", "app.cost", "app.queue", "app.job", "app.builds", "app.leases"}
    | {"app.session", "app.turns", "app.forecast", "app.promotions", "app.published", "app.trials"}
    | {"app.tuning"},
    {"app.engines", "app.tokenizer"},
    {"app.atomic", "app.artifact", "app.hardware", "app.settings", "app.errors", "app.metrics"}
    | {"app.collectors", "app.logs", "app.energy", "app.throttling", "app.machine_metrics"},
)
RANKS = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
OPEN_TO_COMPRESSION = {"app", "app.artifact", "app.errors", "app.hardware", "app.tokenizer", "app.engines"}
HEAVY = {"torch", "transformers", "onnx", "openvino", "pandas", "sklearn", "compression", "opentelemetry.sdk"}


def modules(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]


def imports(module: str) -> Iterator[str]:
    """Full names of what a module imports, wherever in the file, type checking included."""
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            if node.module == "app":
                yield from (f"app.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def part(name: str) -> str:
    """The file or folder of app/ that a module belongs to."""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("module", [name for name in modules("app") if name != "app"])
def test_no_module_reaches_upward(module: str) -> None:
    rank = RANKS[part(module)]
    for imported in imports(module):
        if imported.startswith("app."):
            assert RANKS[part(imported)] >= rank, f"{module} must not import {imported}"


def test_nothing_imports_in_a_circle() -> None:
    graph = {
        module: {name for name in imports(module) if name.startswith("app.")} for module in modules("app")
    }
    graph["app.job"].discard("app.variant")  # for type checking alone: see the next test
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"{' -> '.join(path)} -> {module}"
        if module not in done:
            for imported in graph.get(module, set()) - {module}:
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", modules("app"))
def test_the_service_knows_nothing_of_the_suite(module: str) -> None:
    assert not any(name.split(".")[0] == "compression" for name in imports(module))


def test_metrics_know_nothing_of_ours() -> None:
    ours = {name for name in imports("app.metrics") if name.startswith("app")}
    assert ours == {"app.collectors"}
    assert not any(name.startswith("app") for name in imports("app.collectors"))


@pytest.mark.parametrize("module", modules("compression"))
def test_the_suite_takes_only_what_it_may(module: str) -> None:
    taken = {part(name) for name in imports(module) if name.split(".")[0] == "app"}
    assert taken <= OPEN_TO_COMPRESSION


@pytest.mark.parametrize("module", ["app.main", "app.cli", "app.job"])
def test_the_service_starts_light(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
