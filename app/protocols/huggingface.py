"""Hugging Face's dialect of text classification: POST / as `huggingface_hub.InferenceClient` sends it.

Source: the text-classification task of Hugging Face's inference API (`inputs`, `parameters.top_k`,
`parameters.function_to_apply`), and what huggingface_hub 0.3x and 2.x send and read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, RootModel

from app.answer import Answer
from app.errors import UnsupportedInputError
from app.protocols.body import read_json
from app.protocols.errors import documented
from app.protocols.exchange import ask
from app.protocols.fast_lane import busy
from app.protocols.scores import SCORES, LabelScore, ranked
from app.protocols.texts import (
    LARGEST_NUMBER,
    Text,
    check_fields,
    check_texts,
    client_of,
    object_of,
    one_of,
    true_or_false,
    whole_number,
)
from app.service import PredictRequest, Service
from app.settings import Settings

_FIELDS = ("inputs", "parameters", "options")
_PARAMETERS = ("top_k", "function_to_apply")
# huggingface_hub's InferenceApi and the first clients in JavaScript send them; here they change nothing
_OPTIONS = ("wait_for_model", "use_cache", "use_gpu", "dont_load_model")


class Parameters(BaseModel):
    """How to score the labels."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(
        None, ge=1, le=LARGEST_NUMBER, description="at most so many labels a text; all if absent"
    )
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        None, description="softmax if absent: the calibrated probabilities; none gives the logits"
    )


class Options(BaseModel):
    """What older clients send; accepted, and without effect."""

    model_config = ConfigDict(extra="forbid")

    wait_for_model: bool | None = None
    use_cache: bool | None = None
    use_gpu: bool | None = None
    dont_load_model: bool | None = None


class ClassifyBody(BaseModel):
    """One text, or several."""

    model_config = ConfigDict(extra="forbid")

    inputs: Text | Annotated[list[Text], Field(min_length=1)]
    parameters: Parameters | None = None
    options: Options | None = None


class ClassifyReply(RootModel[list[list[LabelScore]]]):
    """For each text its labels, best first; a list of one list for a single text."""


class ServiceReply(BaseModel):
    """Where to find what."""

    name: str
    version: str
    docs: str
    openapi: str
    models: str
    ready: str
    metrics: str


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the client asked to see of an answer."""

    function: str
    top_k: int | None


def router(service: Service, settings: Settings, version: str) -> APIRouter:
    """The routes of this dialect."""
    api = APIRouter(tags=["hugging face"])
    body = {"content": {"application/json": {"schema": classify_schema(settings)}}, "required": True}
    places = {
        "name": "bertpress",
        "version": version,
        "docs": "/docs",
        "openapi": "/openapi.json",
        "models": "/v1/models",
        "ready": "/health/ready",
        "metrics": "/metrics",
    }
    index = orjson.dumps(places)

    @api.post(
        "/",
        response_class=Response,
        responses={
            200: {"model": ClassifyReply},
            **documented(404, 409, 413, 422, 504, flat=True),
        },
        openapi_extra={"requestBody": body},
    )
    @busy
    async def classify(request: Request) -> Response:
        """Classify with the default model, as Hugging Face's inference API does."""
        document = await read_json(request, settings.max_body_bytes)
        asked, scoring = parse_classify(document, settings, request.state.received, client_of(request))
        answer = await ask(request, service, asked)
        return Response(orjson.dumps(render_ranked(answer, scoring)), media_type="application/json")

    @api.get("/", response_class=Response, responses={200: {"model": ServiceReply}, **documented(flat=True)})
    async def find() -> Response:
        """Where to find what."""
        return Response(index, media_type="application/json")

    return api


def classify_schema(settings: Settings) -> dict[str, Any]:
    """The request body's JSON schema with this service's own limits."""
    schema = ClassifyBody.model_json_schema()
    definitions = schema.pop("$defs")
    schema["properties"]["parameters"]["anyOf"][0] = definitions["Parameters"]
    schema["properties"]["options"]["anyOf"][0] = definitions["Options"]
    text, texts = schema["properties"]["inputs"]["anyOf"]
    text["maxLength"] = texts["items"]["maxLength"] = settings.max_text_chars
    texts["maxItems"] = settings.max_texts
    return schema


def parse_classify(
    document: object, settings: Settings, received: float, client: str
) -> tuple[PredictRequest, Scoring]:
    """Check a parsed body.

    Raises:
        InvalidRequestError: of the wrong shape or type, or empty.
        LimitExceededError: more than a setting allows.
        UnsupportedInputError: pairs of texts.
    """
    fields = check_fields(document, _FIELDS)
    inputs = fields.get("inputs")
    if _is_pair(inputs) or (isinstance(inputs, list) and any(map(_is_pair_in_list, inputs))):
        raise UnsupportedInputError("inputs has a pair of texts; the models here read one text at a time")
    parameters = check_fields(object_of(fields, "parameters"), _PARAMETERS, "parameters")
    options = check_fields(object_of(fields, "options"), _OPTIONS, "options")
    for name in options:
        true_or_false(options, name)
    asked = PredictRequest(
        texts=check_texts([inputs] if isinstance(inputs, str) else inputs, settings),
        timeout_seconds=settings.default_timeout_ms / 1000,
        received=received,
        client=client,
    )
    function = one_of(parameters, "function_to_apply", tuple(SCORES), "softmax")
    return asked, Scoring(function, whole_number(parameters, "top_k", 1))


def render_ranked(answer: Answer, scoring: Scoring) -> list[list[dict[str, object]]]:
    """The answer in this dialect: a list of labels for each text, one text or many."""
    scores = SCORES[scoring.function]
    return [ranked(answer.labels, scores(prediction), scoring.top_k) for prediction in answer.predictions]


def _is_pair(value: object) -> bool:
    return isinstance(value, dict) and "text_pair" in value


def _is_pair_in_list(value: object) -> bool:
    return _is_pair(value) or (isinstance(value, list) and len(value) == 2)
