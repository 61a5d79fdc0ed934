"""What is read from the running parts at each scrape."""

from __future__ import annotations

from collections.abc import Callable

from app.admission import Admission
from app.cache import AnswerCache
from app.hardware import Hardware, resident_memory_bytes
from app.metrics import Metrics, Sample
from app.registry import Registry
from app.scheduler import Scheduler

_MODEL = ("model", "version")


def add_gauges(
    metrics: Metrics,
    registry: Registry,
    scheduler: Scheduler,
    admission: Admission,
    cache: AnswerCache,
    machine: Hardware,
) -> None:
    """Register every gauge of the models, the queues and the process."""
    _add_models(metrics, registry)
    _add_queues(metrics, registry, scheduler, admission)
    _add_process(metrics, cache, machine)


def _add_models(metrics: Metrics, registry: Registry) -> None:
    def info() -> list[Sample]:
        return [
            ((each.key.name, str(each.key.version), each.build_name, each.platform, each.precision), 1)
            for each in registry.served
        ]

    def is_default() -> list[Sample]:
        return [((v.key.name, str(v.key.version)), v is registry.default) for v in registry.served]

    add, each = metrics.add_gauge, _per_model(registry)
    add("model_info", "Versions in memory.", (*_MODEL, "build", "engine", "precision"), info)
    memory = "Resident memory a version's load took, about."
    add("model_memory_bytes", memory, _MODEL, each(lambda v: v.memory_bytes))
    default = "1 for the version that answers by default."
    add("model_default", default, _MODEL, is_default)
    add("model_threads", "Threads of a forward pass.", _MODEL, each(lambda v: v.session.threads))
    add(
        "model_lone_threads",
        "Threads of a pass that is alone; 0 without a session for that.",
        _MODEL,
        each(lambda v: v.lone_session.threads if v.lone_session else 0),
    )
    add("ready", "1 when the default model answers.", (), lambda: [((), registry.default is not None)])


def _add_queues(metrics: Metrics, registry: Registry, scheduler: Scheduler, admission: Admission) -> None:
    def sessions() -> int:
        """How many passes of the default model may run at once."""
        threads = registry.default.threads if registry.default else 1
        return max(scheduler.cores // threads, 1)

    add, each = metrics.add_gauge, _per_model(registry)
    add("queue_depth", "Texts waiting for a forward pass.", _MODEL, each(lambda v: len(v.queue)))
    age = "How long the text that has waited longest has waited."
    add("queue_age_seconds", age, _MODEL, each(scheduler.oldest_wait_seconds))
    in_flight = "Prediction requests being answered."
    add("requests_in_flight", in_flight, (), lambda: [((), admission.in_flight)])
    backlog = "Predicted wait of a text that came now."
    add("backlog_seconds", backlog, (), lambda: [((), scheduler.backlog_seconds())])
    add("sessions", "Forward passes that may run at once.", (), lambda: [((), sessions())])
    add("cores", "Cores that passes may keep busy.", (), lambda: [((), scheduler.cores)])


def _add_process(metrics: Metrics, cache: AnswerCache, machine: Hardware) -> None:
    add = metrics.add_gauge
    add("resident_memory_bytes", "Resident memory.", (), lambda: [((), resident_memory_bytes())])
    add("memory_limit_bytes", "Memory it may use.", (), lambda: [((), machine.memory_limit_bytes)])
    add("cache_bytes", "Memory that kept answers take, about.", (), lambda: [((), cache.bytes)])
    add("cache_entries", "Answers kept.", (), lambda: [((), len(cache))])


def _per_model(registry: Registry) -> Callable[[Callable[..., float]], Callable[[], list[Sample]]]:
    """From a reading of one loaded version to a gauge of them all."""

    def gauge(read: Callable[..., float]) -> Callable[[], list[Sample]]:
        return lambda: [((v.key.name, str(v.key.version)), read(v)) for v in registry.loaded]

    return gauge
