"""The use case: permit, route, tokenize, admit, queue, answer. Knows no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from app import routing
from app.admission import Admission
from app.errors import BertpressError, ClosingError, DeadlineExceededError, NotReadyError
from app.job import Job, Logits, Priority
from app.metrics import Metrics
from app.registry import Registry
from app.scheduler import Scheduler
from app.tokenizer import Encoded
from app.variant import Variant, VersionKey

# Up to here tokenizing (about 0.4 us a character) costs hardly more than going to a thread and coming back.
_INLINE_CHARACTERS = 500
_TOKENIZER_THREADS = 2


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What a client asks, in whatever dialect. `received` is monotonic seconds."""

    texts: Sequence[str]
    timeout_seconds: float
    received: float
    model: str | None = None
    version: int | None = None
    priority: Priority = "normal"
    client: str = ""
    """Who asks, for fairness alone: the API key's name, else the peer's address."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One text's answer; `logits` and `probabilities` stand in the order of the model's labels."""

    label: str
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    tokens: int
    truncated: bool

    @property
    def score(self) -> float:
        """The largest probability."""
        return max(self.probabilities)


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went; queue and inference are the largest over the texts."""

    queue_seconds: float
    tokenize_seconds: float
    inference_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Predictions in the order of the texts, and which version gave them."""

    key: VersionKey
    labels: tuple[str, ...]
    predictions: list[Prediction]
    timing: Timing


class Service:
    """Answers requests with whatever the registry has loaded."""

    def __init__(
        self, registry: Registry, scheduler: Scheduler, admission: Admission, metrics: Metrics
    ) -> None:
        self.registry, self.admission = registry, admission
        self._scheduler, self._metrics = scheduler, metrics
        self._threads = ThreadPoolExecutor(
            max_workers=_TOKENIZER_THREADS, thread_name_prefix="bertpress-tokenizer"
        )

    async def predict(self, request: PredictRequest) -> Answer:
        """Answer a request before its deadline or refuse it.

        Raises:
            BertpressError: every way in which that can fail is a class in `errors.py`.
        """
        deadline = request.received + request.timeout_seconds
        with self.admission.permit():
            plan = routing.plan(self.registry.catalog, request.model, request.version)
            variant = self.registry.get(plan.primary)
            with variant.lease(), self._counted(variant):
                started = time.monotonic()
                encoded = await self._tokenize(variant, request.texts)
                tokenize_seconds = time.monotonic() - started
                job = await self._run(variant, encoded, deadline, request)
                timing = Timing(
                    job.queue_seconds,
                    tokenize_seconds,
                    job.inference_seconds,
                    time.monotonic() - request.received,
                )
                return self._answer(variant, encoded, job, timing)

    def check_ready(self) -> Variant:
        """The default variant, if requests that name nothing can be answered now.

        Raises:
            NotReadyError: it is not loaded yet, or the workers failed.
            ClosingError: the service is shutting down.
        """
        if self.admission.closed:
            raise ClosingError("the service is shutting down")
        self.check_alive()
        if (variant := self.registry.default) is None:
            raise NotReadyError("the default model has not passed its probes and warmed up yet")
        return variant

    def check_alive(self) -> None:
        """Raises EngineError if the workers failed and only a restart helps."""
        if self._scheduler.failure is not None:
            raise self._scheduler.failure

    def close(self) -> None:
        """Stop the tokenizer's threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _tokenize(self, variant: Variant, texts: Sequence[str]) -> list[Encoded]:
        # encode_batch lets go of the interpreter's lock, encode does not
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return variant.tokenizer.encode_batch(texts)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, variant.tokenizer.encode_batch, texts)

    async def _run(
        self, variant: Variant, encoded: Sequence[Encoded], deadline: float, request: PredictRequest
    ) -> Job:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        job = Job(variant, encoded, deadline, _wake_up(loop, done), request.priority, request.client)
        now = time.monotonic()
        self.admission.check(job, deadline, now)
        self._scheduler.submit(job)
        try:
            async with asyncio.timeout(deadline - now):
                await done
        except TimeoutError:
            raise DeadlineExceededError(
                "the answer was not ready within timeout_ms; give it more time, or send fewer texts"
            ) from None
        finally:
            if not job.finished:
                self._scheduler.abandon(job)
        if job.error is not None:
            raise job.error
        return job

    def _answer(self, variant: Variant, encoded: Sequence[Encoded], job: Job, timing: Timing) -> Answer:
        labels = variant.manifest.labels
        temperature = variant.manifest.calibration_temperature
        logits = np.stack([row[: len(labels)] for row in job.answers])
        probabilities = softmax(logits / temperature)
        predictions = [
            Prediction(labels[best], tuple(raw), tuple(row), len(item.input_ids), item.truncated)
            for raw, row, best, item in zip(
                logits.tolist(),
                probabilities.tolist(),
                probabilities.argmax(axis=1).tolist(),
                encoded,
                strict=True,
            )
        ]
        metrics = variant.metrics
        metrics.tokenize_seconds.observe(timing.tokenize_seconds)
        metrics.queue_seconds.observe(timing.queue_seconds)
        metrics.request_seconds.observe(timing.total_seconds)
        for prediction in predictions:
            metrics.predictions[prediction.label].inc()
        return Answer(variant.key, labels, predictions, timing)

    @contextmanager
    def _counted(self, variant: Variant) -> Iterator[None]:
        outcome = "internal"
        try:
            yield
            outcome = "ok"
        except BertpressError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = "abandoned"
            raise
        finally:
            self._metrics.count_request(variant.key.name, variant.key.version, outcome)


def softmax(logits: Logits) -> Logits:
    """Probabilities over the last axis, in double precision; (B, C)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def _wake_up(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> Callable[[Job], None]:
    def resolve() -> None:
        if not done.done():
            done.set_result(None)

    def on_done(_: Job) -> None:
        loop.call_soon_threadsafe(resolve)

    return on_done
