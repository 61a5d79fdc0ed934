"""The dialect of text-embeddings-inference: POST /predict, GET /health and GET /info.

Source: text-embeddings-inference's OpenAPI, version 1.7. Two things of it have no counterpart here and are
refused: pairs of texts, and truncation from the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, RootModel

from app.answer import Answer
from app.cascade import Served
from app.errors import InvalidRequestError, UnsupportedInputError
from app.protocols.body import read_json
from app.protocols.errors import documented
from app.protocols.exchange import ask
from app.protocols.fast_lane import busy
from app.protocols.health import ReadyReply
from app.protocols.scores import LabelScore, logits, probabilities, ranked
from app.protocols.texts import Text, check_fields, check_texts, client_of, one_of, true_or_false
from app.service import PredictRequest, Service
from app.settings import Settings

_FIELDS = ("inputs", "truncate", "raw_scores", "truncation_direction")
_DIRECTIONS = ("right", "Right", "left", "Left")

OneText = Annotated[list[Text], Field(min_length=1, max_length=1)]


class PredictBody(BaseModel):
    """One text, or a batch in which every text stands in a list of its own."""

    model_config = ConfigDict(extra="forbid")

    inputs: Text | OneText | Annotated[list[OneText], Field(min_length=1)]
    truncate: bool | None = Field(
        None, description="cut texts longer than the model reads; otherwise they are refused with 413"
    )
    raw_scores: bool | None = Field(None, description="logits instead of probabilities")
    truncation_direction: Literal["right", "Right"] | None = Field(
        None, description="the model decides what it reads of a long text; cutting from the left is refused"
    )


class PredictReply(RootModel[list[LabelScore] | list[list[LabelScore]]]):
    """A text's labels, best first; a list of such lists for a batch."""


class Classifier(BaseModel):
    """The labels of the model."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(BaseModel):
    """What the model does."""

    classifier: Classifier


class InfoReply(BaseModel):
    """The default model and the limits of a request."""

    model_id: str
    model_sha: str | None = Field(description="the version that answers")
    model_dtype: str
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    version: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client asked to see of an answer."""

    batch: bool
    truncate: bool
    raw_scores: bool


def router(service: Service, settings: Settings, version: str) -> APIRouter:
    """The routes of this dialect."""
    api = APIRouter(tags=["text-embeddings-inference"])
    body = {"content": {"application/json": {"schema": predict_schema(settings)}}, "required": True}

    @api.post(
        "/predict",
        response_class=Response,
        responses={
            200: {"model": PredictReply},
            **documented(404, 409, 413, 422, 504, flat=True),
        },
        openapi_extra={"requestBody": body},
    )
    @busy
    async def predict(request: Request) -> Response:
        """Classify with the default model, as text-embeddings-inference does."""
        document = await read_json(request, settings.max_body_bytes)
        asked, wanted = parse_predict(document, settings, request.state.received, client_of(request))
        answer = await ask(request, service, asked)
        return Response(orjson.dumps(render_scores(answer, wanted)), media_type="application/json")

    @api.get(
        "/health",
        response_class=Response,
        responses={200: {"model": ReadyReply}, **documented(flat=True, free=True)},
    )
    async def health() -> Response:
        """200 when the default model answers: /health/ready under another name."""
        key = service.check_ready().key
        body = {"status": "ready", "model": key.name, "version": key.version}
        return Response(orjson.dumps(body), media_type="application/json")

    @api.get(
        "/info",
        response_class=Response,
        responses={200: {"model": InfoReply}, **documented(flat=True)},
    )
    async def info() -> Response:
        """The default model and the limits of a request."""
        reply = render_info(service.check_ready(), settings, version)
        return Response(orjson.dumps(reply), media_type="application/json")

    return api


def predict_schema(settings: Settings) -> dict[str, Any]:
    """The request body's JSON schema with this service's own limits."""
    schema = PredictBody.model_json_schema()
    text, one, batch = schema["properties"]["inputs"]["anyOf"]
    for place in (text, one["items"], batch["items"]["items"]):
        place["maxLength"] = settings.max_text_chars
    batch["maxItems"] = settings.max_texts
    return schema


def parse_predict(
    document: object, settings: Settings, received: float, client: str
) -> tuple[PredictRequest, Wanted]:
    """Check a parsed body.

    Raises:
        InvalidRequestError: of the wrong shape or type, or empty.
        LimitExceededError: more than a setting allows.
        UnsupportedInputError: pairs of texts, or truncation from the left.
    """
    fields = check_fields(document, _FIELDS)
    if one_of(fields, "truncation_direction", _DIRECTIONS, "right").lower() == "left":
        raise UnsupportedInputError("texts are not cut from the left here; leave truncation_direction out")
    texts, batch = _unwrap(fields.get("inputs"))
    wanted = Wanted(batch, true_or_false(fields, "truncate"), true_or_false(fields, "raw_scores"))
    asked = PredictRequest(
        texts=check_texts(texts, settings),
        timeout_seconds=settings.default_timeout_ms / 1000,
        received=received,
        client=client,
        truncate=wanted.truncate,
    )
    return asked, wanted


def render_scores(answer: Answer, wanted: Wanted) -> list[Any]:
    """The answer in this dialect."""
    scores = logits if wanted.raw_scores else probabilities
    rows = [ranked(answer.labels, scores(prediction)) for prediction in answer.predictions]
    return rows if wanted.batch else rows[0]


def render_info(served: Served, settings: Settings, version: str) -> dict[str, Any]:
    """The default model as GET /info tells of it."""
    labels = served.labels
    return {
        "model_id": served.key.name,
        "model_sha": str(served.key.version),
        "model_dtype": served.precision,
        "model_type": {
            "classifier": {
                "id2label": {str(index): label for index, label in enumerate(labels)},
                "label2id": {label: index for index, label in enumerate(labels)},
            }
        },
        "max_concurrent_requests": settings.max_requests,
        "max_input_length": served.max_tokens,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_batch_requests": settings.max_batch_rows,
        "max_client_batch_size": settings.max_texts,
        "auto_truncate": False,
        "version": version,
    }


def _unwrap(inputs: object) -> tuple[object, bool]:
    """The texts of "a", ["a"], or [["a"], ["b"]], and whether it is a batch; two strings are a pair."""
    if isinstance(inputs, str):
        return [inputs], False
    if not isinstance(inputs, list) or not inputs:
        return inputs, False
    if isinstance(inputs[0], str):
        _refuse_pair(inputs)
        if len(inputs) > 1:
            raise InvalidRequestError('inputs is a list of texts; in this dialect a batch is [["a"], ["b"]]')
        return inputs, False
    for index, item in enumerate(inputs):
        _refuse_pair(item)
        if not isinstance(item, list) or len(item) != 1:
            raise InvalidRequestError(f"inputs[{index}] is not a list of one text")
    return [item[0] for item in inputs], True


def _refuse_pair(value: object) -> None:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value):
        raise UnsupportedInputError("inputs has a pair of texts; the models here read one text at a time")
