"""The use case: permit, route, tokenize, admit, queue, answer. Knows no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from app import routing
from app.admission import Admission
from app.answer import Answer, Prediction, Timing, predict, predict_heads
from app.cache import AnswerCache
from app.cascade import Cascade, Served, TierPlan
from app.errors import (
    BertpressError,
    ClosingError,
    DeadlineExceededError,
    LimitExceededError,
    NotReadyError,
)
from app.forecast import LoopLag
from app.in_flight import Flight, InFlight
from app.job import Job, Priority
from app.metrics import Metrics, VariantMetrics
from app.registry import Registry
from app.scheduler import Scheduler
from app.tokenizer import Encoded
from app.variant import Variant, VersionKey

# Up to here tokenizing (about 0.4 us a character) costs hardly more than going to a thread and coming back.
_INLINE_CHARACTERS = 500
_TOKENIZER_THREADS = 2

T = TypeVar("T")


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
    truncate: bool = True
    """Whether a text that is longer than the model reads may be cut; if not, the request is refused."""


class Service:
    """Answers requests with whatever the registry has loaded."""

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        admission: Admission,
        metrics: Metrics,
        cache: AnswerCache,
        coalesce: bool,
    ) -> None:
        self.registry, self.admission, self.cache = registry, admission, cache
        self._coalesce, self._in_flight = coalesce, InFlight()
        self._scheduler, self._metrics = scheduler, metrics
        self._threads = ThreadPoolExecutor(
            max_workers=_TOKENIZER_THREADS, thread_name_prefix="bertpress-tokenizer"
        )

    async def predict(self, request: PredictRequest) -> Answer:
        """Answer a request before its deadline or refuse it.

        Raises:
            BertpressError: every way in which that can fail is a class in `errors.py`.
        """
        with self.admission.permit():
            plan = routing.plan(self.registry.catalog, request.model, request.version)
            served = self.registry.find(plan.primary)
            outcome = "internal"
            try:
                with served.lease():
                    if isinstance(served, Cascade):
                        answer = await self._answer_by_tiers(served, plan.tiers, request)
                    else:
                        answer = await self._answer(served, request)
                outcome = "ok"
            except BertpressError as error:
                outcome = error.code
                raise
            except asyncio.CancelledError:
                outcome = "abandoned"
                raise
            finally:
                self._metrics.count_request(served.key.name, served.key.version, outcome)
            return answer

    def check_ready(self) -> Served:
        """The default model, if requests that name nothing can be answered now.

        Raises:
            NotReadyError: it is not loaded yet, or the workers failed.
            ClosingError: the service is shutting down.
        """
        if self.admission.closed:
            raise ClosingError("the service is shutting down")
        self.check_alive()
        if (served := self.registry.default) is None:
            raise NotReadyError("the default model has not passed its probes yet")
        return served

    def check_alive(self) -> None:
        """Raises EngineError if the workers failed and only a restart helps."""
        if self._scheduler.failure is not None:
            raise self._scheduler.failure

    def close(self) -> None:
        """Stop the tokenizer's threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _answer(self, variant: Variant, request: PredictRequest) -> Answer:
        work = await self._work_on(variant, request)
        timing = work.timing(time.monotonic())
        if not request.truncate:
            _refuse_cut(request.texts, work.predictions)
        predictions = [work.predictions[text] for text in request.texts]
        _observe(variant.metrics, predictions, timing)
        head = variant.manifest.heads[0]
        return Answer(variant.key, head.labels, predictions, timing, head=head.name)

    async def _answer_by_tiers(
        self, cascade: Cascade, tiers: Sequence[TierPlan], request: PredictRequest
    ) -> Answer:
        """Each text goes from tier to tier until one is sure enough of it."""
        left = list(dict.fromkeys(request.texts))
        predictions: dict[str, Prediction] = {}
        answered_by: dict[str, VersionKey] = {}
        spent: list[_Work] = []
        for tier in tiers:
            # What stands in the end may not be cut; an answer that does not stand may be.
            asked = replace(request, texts=left, truncate=True)
            spent.append(await self._work_on(self.registry.get(tier.key), asked))
            for text, prediction in spent[-1].predictions.items():
                if tier.settles(prediction.score):
                    predictions[text], answered_by[text] = prediction, tier.key
            left = [text for text in left if text not in predictions]
            if not left:
                break
        if not request.truncate:
            _refuse_cut(request.texts, predictions)
        timing = _sum(spent, time.monotonic() - request.received)
        standing = [predictions[text] for text in request.texts]
        by = tuple(answered_by[text] for text in request.texts)
        _observe(cascade.metrics, standing, timing)
        for key in by:
            cascade.tier_texts[key].inc()
        return Answer(cascade.key, cascade.labels, standing, timing, by, cascade.manifest.heads[0].name)

    async def _work_on(self, variant: Variant, request: PredictRequest) -> _Work:
        """Every text of a request answered by one version."""
        work = _Work(variant, request, request.received + request.timeout_seconds)
        if self.cache.enabled or self._coalesce:
            await self._answer_each_once(work)
        else:
            work.keep(request.texts, await self._run(work, request.texts))
        return work

    async def _answer_each_once(self, work: _Work) -> None:
        """Texts answered before come from the cache, those in flight are waited for, the rest is run."""
        missing: Sequence[str] = list(dict.fromkeys(work.request.texts))
        while missing:
            own, joined = self._sort(work, missing)
            if own:
                await self._run_for_all(work, own)
            for text, flight in joined.items():
                prediction = await _before(work.deadline, flight.landed())
                if prediction is not None:
                    work.predictions[text] = prediction
            missing = [text for text in joined if text not in work.predictions]

    def _sort(self, work: _Work, texts: Iterable[str]) -> tuple[list[str], dict[str, Flight]]:
        """Which texts this request must run, and which others are running already."""
        serial, priority, metrics = work.variant.serial, work.request.priority, work.variant.metrics
        own: list[str] = []
        joined: dict[str, Flight] = {}
        for text in texts:
            cached = self.cache.get(serial, text) if self.cache.enabled else None
            flight = self._in_flight.join(serial, text, work.deadline, priority) if self._coalesce else None
            if cached is not None:
                work.predictions[text] = cached
                metrics.cache_hits.inc()
            elif flight is not None:
                joined[text] = flight
                metrics.coalesced.inc()
            else:
                own.append(text)
        if self.cache.enabled:
            metrics.cache_misses.inc(len(own) + len(joined))
        return own, joined

    async def _run_for_all(self, work: _Work, texts: Sequence[str]) -> None:
        serial = work.variant.serial
        flights = self._in_flight.start(serial, texts, work.deadline, work.request.priority)
        try:
            work.keep(texts, await self._run(work, texts))
            for text, flight in flights.items():
                flight.land(work.predictions[text])
                if self.cache.enabled:
                    self.cache.put(serial, text, work.predictions[text])
        finally:
            self._in_flight.finish(serial, flights)

    async def _run(self, work: _Work, texts: Sequence[str]) -> list[Prediction]:
        """Tokenize, admit, queue, and wait for the forward passes."""
        variant = work.variant
        started = time.monotonic()
        encoded = await self._tokenize(variant, texts)
        now = time.monotonic()
        work.tokenize_seconds += now - started
        if not work.request.truncate:
            _refuse_cut(work.request.texts, dict(zip(texts, encoded, strict=True)))
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        request = work.request
        job = Job(
            variant,
            encoded,
            work.deadline,
            _wake_up(loop, done, self.admission.lag),
            request.priority,
            request.client,
        )
        self.admission.check(job, work.deadline, now)
        self._scheduler.submit(job)
        try:
            await _before(work.deadline, done)
        finally:
            if not job.finished:
                self._scheduler.abandon(job)
        if job.error is not None:
            raise job.error
        work.queue_seconds = max(work.queue_seconds, job.queue_seconds)
        work.inference_seconds = max(work.inference_seconds, job.inference_seconds)
        work.batch_rows = max(work.batch_rows, job.batch_rows)
        heads, temperature = variant.manifest.heads, variant.manifest.calibration_temperature
        if len(heads) > 1:
            return [
                predict_heads(logits, item, heads, temperature)
                for logits, item in zip(job.answers, encoded, strict=True)
            ]
        labels = variant.manifest.labels
        return [
            predict(logits, item, labels, temperature)
            for logits, item in zip(job.answers, encoded, strict=True)
        ]

    async def _tokenize(self, variant: Variant, texts: Sequence[str]) -> list[Encoded]:
        # encode_batch lets go of the interpreter's lock, encode does not
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return variant.tokenizer.encode_batch(texts)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, variant.tokenizer.encode_batch, texts)


@dataclass(slots=True)
class _Work:
    """One request on its way through the service."""

    variant: Variant
    request: PredictRequest
    deadline: float
    tokenize_seconds: float = 0.0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    batch_rows: int = 0
    predictions: dict[str, Prediction] = field(default_factory=dict)

    def keep(self, texts: Sequence[str], predictions: Sequence[Prediction]) -> None:
        self.predictions.update(zip(texts, predictions, strict=True))

    def timing(self, now: float) -> Timing:
        total = now - self.request.received
        return Timing(
            self.queue_seconds, self.tokenize_seconds, self.inference_seconds, total, self.batch_rows
        )


def _refuse_cut(texts: Sequence[str], known: Mapping[str, Encoded | Prediction]) -> None:
    """Raises LimitExceededError if one of the texts known so far is longer than the model reads."""
    for index, text in enumerate(texts):
        one = known.get(text)
        if one is not None and one.truncated:
            most = one.tokens
            raise LimitExceededError(
                f"inputs[{index}] is longer than the {most} tokens the model reads; "
                'shorten it, or send "truncate": true',
                limit=most,
            )


async def _before(deadline: float, awaited: Awaitable[T]) -> T:
    """Wait until a monotonic time.

    Raises:
        DeadlineExceededError: nothing had come by then.
    """
    try:
        # asyncio's clock is the monotonic one
        async with asyncio.timeout_at(deadline):
            return await awaited
    except TimeoutError:
        raise DeadlineExceededError(
            "the answer was not ready within timeout_ms; give it more time, or send fewer texts"
        ) from None


def _sum(spent: Sequence[_Work], total_seconds: float) -> Timing:
    """Where the time went in tiers that were asked one after the other."""
    return Timing(
        sum(work.queue_seconds for work in spent),
        sum(work.tokenize_seconds for work in spent),
        sum(work.inference_seconds for work in spent),
        total_seconds,
        max(work.batch_rows for work in spent),
    )


def _observe(metrics: VariantMetrics, predictions: Sequence[Prediction], timing: Timing) -> None:
    metrics.tokenize_seconds.observe(timing.tokenize_seconds)
    metrics.queue_seconds.observe(timing.queue_seconds)
    metrics.request_seconds.observe(timing.total_seconds)
    for prediction in predictions:
        metrics.predictions[prediction.label].inc()
        metrics.input_tokens.observe(prediction.tokens)
        metrics.confidence.observe(prediction.score)


def _wake_up(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[None], lag: LoopLag
) -> Callable[[Job], None]:
    def resolve(answered: float) -> None:
        lag.observe(time.monotonic() - answered)
        if not done.done():
            done.set_result(None)

    def on_done(_: Job) -> None:
        loop.call_soon_threadsafe(resolve, time.monotonic())

    return on_done
