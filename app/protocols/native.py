"""bertpress's own dialect: POST /v1/predict and GET /v1/models."""

from __future__ import annotations

from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.answer import Answer, Prediction
from app.artifact import CascadeManifest, Manifest
from app.errors import InvalidRequestError
from app.job import Priority
from app.protocols.body import read_json
from app.protocols.errors import documented
from app.protocols.exchange import ask
from app.protocols.fast_lane import busy
from app.protocols.texts import (
    LARGEST_VERSION,
    PRIORITIES,
    Text,
    check_fields,
    check_texts,
    client_of,
    one_of,
    whole_number,
)
from app.registry import VersionStatus
from app.service import PredictRequest, Service
from app.settings import Settings

_FIELDS = ("inputs", "model", "version", "timeout_ms", "priority")
# The schemas below are for OpenAPI; requests are parsed by hand, which is faster and never echoes them.


class PredictBody(BaseModel):
    """One text, or several."""

    model_config = ConfigDict(extra="forbid")

    inputs: Text | Annotated[list[Text], Field(min_length=1)]
    model: str | None = Field(None, description="a model of the repository; the default one if absent")
    version: int | None = Field(None, ge=1, le=LARGEST_VERSION, description="its promoted version if absent")
    timeout_ms: int | None = Field(None, ge=1, description="after that long the answer is 504")
    priority: Priority | None = Field(None, description="normal if absent; high goes first, low last")


class HeadReply(BaseModel):
    """What one head says of a text."""

    label: str
    score: float
    probabilities: dict[str, float]


class PredictionReply(BaseModel):
    """One text's answer."""

    label: str
    score: float = Field(description="the largest probability")
    probabilities: dict[str, float]
    tokens: int = Field(description="tokens the model read, special ones included")
    truncated: bool = Field(description="whether the text was longer than the model reads")
    heads: dict[str, HeadReply] | None = Field(
        None, description="of a model with several heads: what each says; the answer is the first one's"
    )
    tier: str | None = Field(None, description="of a cascade: the version that gave this answer")


class TimingReply(BaseModel):
    """Milliseconds; the maximum over the texts."""

    queue_ms: float
    tokenize_ms: float
    inference_ms: float
    total_ms: float


class PredictReply(BaseModel):
    """One prediction per text, in order."""

    model: str
    version: int
    predictions: list[PredictionReply]
    timing: TimingReply


class TierReply(BaseModel):
    """A version that a cascade asks."""

    name: str
    version: int
    threshold: float | None = Field(description="its answer stands from this score on; null: always")


class ModelReply(BaseModel):
    """One version in the repository."""

    name: str
    version: int
    state: str = Field(description="available, loading, ready, draining or failed")
    default: bool = Field(description="answers requests that name nothing")
    promoted: bool = Field(description="answers requests that name its model without a version")
    reason: str | None = Field(description="why it failed, or why its build was taken")
    build: str | None = Field(description="the build in memory")
    engine: str | None
    precision: str | None
    runtime: str | None = Field(description="what runs the build, and how")
    threads: int | None = Field(description="cores that a forward pass keeps busy")
    lone_threads: int | None = Field(description="the same for a pass that is alone, where it has a session")
    labels: list[str] | None
    heads: dict[str, list[str]] | None = Field(
        description="labels of every head; the first one's are `labels`"
    )
    max_tokens: int | None
    bytes: int | None = Field(description="size on disk")
    memory_bytes: int | None = Field(description="resident memory its load took, about")
    description: str | None
    tiers: list[TierReply] | None = Field(description="of a cascade: the versions it asks, in this order")


class ModelsReply(BaseModel):
    """Every version in the repository, loaded or not."""

    models: list[ModelReply]


def router(service: Service, settings: Settings) -> APIRouter:
    """The routes of this dialect."""
    api = APIRouter(prefix="/v1", tags=["predict"])
    body_schema = {"content": {"application/json": {"schema": predict_schema(settings)}}, "required": True}

    @api.post(
        "/predict",
        response_class=Response,
        responses={200: {"model": PredictReply}, **documented(404, 409, 413, 422, 504)},
        openapi_extra={"requestBody": body_schema},
    )
    @busy
    async def predict(request: Request) -> Response:
        """Classify one text or several."""
        document = await read_json(request, settings.max_body_bytes)
        asked = parse_predict(document, settings, request.state.received, client_of(request))
        answer = await ask(request, service, asked)
        return Response(orjson.dumps(render_answer(answer)), media_type="application/json")

    @api.get(
        "/models",
        response_class=Response,
        responses={200: {"model": ModelsReply}, **documented(422)},
    )
    async def models() -> Response:
        """List every version in the repository."""
        rows = [render_status(status) for status in await service.registry.status()]
        return Response(orjson.dumps({"models": rows}), media_type="application/json")

    return api


def predict_schema(settings: Settings) -> dict[str, Any]:
    """The request body's JSON schema with this service's own limits."""
    schema = PredictBody.model_json_schema()
    text, texts = schema["properties"]["inputs"]["anyOf"]
    text["maxLength"] = texts["items"]["maxLength"] = settings.max_text_chars
    texts["maxItems"] = settings.max_texts
    schema["properties"]["timeout_ms"]["anyOf"][0]["maximum"] = settings.max_timeout_ms
    return schema


def parse_predict(document: object, settings: Settings, received: float, client: str) -> PredictRequest:
    """Check a parsed body.

    Raises:
        InvalidRequestError: of the wrong shape or type, or empty.
        LimitExceededError: more than a setting allows.
    """
    fields = check_fields(document, _FIELDS)
    timeout_ms = whole_number(fields, "timeout_ms", 1, settings.max_timeout_ms)
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequestError("model must be a string; GET /v1/models lists the names")
    inputs = fields.get("inputs")
    return PredictRequest(
        texts=check_texts([inputs] if isinstance(inputs, str) else inputs, settings),
        timeout_seconds=(timeout_ms or settings.default_timeout_ms) / 1000,
        received=received,
        model=model,
        version=whole_number(fields, "version", 1, LARGEST_VERSION),
        priority=cast(Priority, one_of(fields, "priority", PRIORITIES, "normal")),
        client=client,
    )


def render_answer(answer: Answer) -> dict[str, Any]:
    """The answer in this dialect."""
    timing = answer.timing
    predictions: list[dict[str, Any]] = [
        {
            "label": prediction.label,
            "score": prediction.score,
            "probabilities": dict(zip(answer.labels, prediction.probabilities, strict=True)),
            "tokens": prediction.tokens,
            "truncated": prediction.truncated,
        }
        for prediction in answer.predictions
    ]
    for row, prediction in zip(predictions, answer.predictions, strict=True):
        if prediction.further:
            row["heads"] = _heads(answer, prediction)
    for row, tier in zip(predictions, answer.tiers, strict=False):  # a model that is no cascade has none
        row["tier"] = str(tier)
    return {
        "model": answer.key.name,
        "version": answer.key.version,
        "predictions": predictions,
        "timing": {
            "queue_ms": _ms(timing.queue_seconds),
            "tokenize_ms": _ms(timing.tokenize_seconds),
            "inference_ms": _ms(timing.inference_seconds),
            "total_ms": _ms(timing.total_seconds),
        },
    }


def _heads(answer: Answer, prediction: Prediction) -> dict[str, Any]:
    """What every head says, the first one's included."""
    first = {
        "label": prediction.label,
        "score": prediction.score,
        "probabilities": dict(zip(answer.labels, prediction.probabilities, strict=True)),
    }
    further = {
        each.head.name: {
            "label": each.label,
            "score": each.score,
            "probabilities": dict(zip(each.head.labels, each.probabilities, strict=True)),
        }
        for each in prediction.further
    }
    return {answer.head: first, **further}


def render_status(status: VersionStatus) -> dict[str, Any]:
    """One row of GET /v1/models."""
    manifest, variant = status.manifest, status.variant
    return {
        "name": status.key.name,
        "version": status.key.version,
        "state": status.state,
        "default": status.default,
        "promoted": status.promoted,
        "reason": status.reason or (variant.reason if variant else None),
        "build": variant.build.name if variant else None,
        "engine": variant.build.engine if variant else None,
        "precision": variant.build.precision if variant else None,
        "runtime": variant.session.engine.description if variant else None,
        "threads": variant.session.threads if variant else None,
        "lone_threads": variant.lone_session.threads if variant and variant.lone_session else None,
        "labels": list(manifest.labels) if manifest else None,
        "heads": {head.name: list(head.labels) for head in manifest.heads} if manifest else None,
        "max_tokens": _max_tokens(status),
        "bytes": manifest.bytes if manifest else None,
        "memory_bytes": variant.memory_bytes if variant else None,
        "description": manifest.description if manifest else None,
        "tiers": _tiers(manifest) if isinstance(manifest, CascadeManifest) else None,
    }


def _tiers(manifest: CascadeManifest) -> list[dict[str, Any]]:
    return [
        {"name": tier.name, "version": tier.version, "threshold": tier.threshold} for tier in manifest.tiers
    ]


def _max_tokens(status: VersionStatus) -> int | None:
    """Of a cascade it is known only once its tiers are."""
    if status.cascade is not None:
        return status.cascade.max_tokens
    return status.manifest.tokenizer.max_tokens if isinstance(status.manifest, Manifest) else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
