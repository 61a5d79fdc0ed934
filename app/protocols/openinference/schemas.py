"""What OpenAPI says of the protocol's bodies. Nothing here runs when a request comes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.protocols.openinference.json_tensors import HEADER_LENGTH
from app.protocols.paths import PATH_SCHEMAS
from app.protocols.texts import LARGEST_NUMBER, Text
from app.settings import Settings

OutputName = Literal["label", "score", "probabilities", "logits"]


class Closed(BaseModel):
    """No field is ignored."""

    model_config = ConfigDict(extra="forbid")


class RequestParameters(Closed):
    """How to answer."""

    timeout: int | None = Field(
        None, ge=0, description="microseconds after which the answer is 504; 0: the default"
    )
    priority: int | None = Field(None, ge=0, le=LARGEST_NUMBER, description="1 high, 2 or 0 normal, more low")
    binary_data_output: bool | None = Field(None, description="outputs as bytes behind the JSON")


class InputParameters(Closed):
    """What clients add to a tensor."""

    content_type: str | None = Field(None, description="accepted, and without effect")


class OutputParameters(Closed):
    """How an output goes."""

    binary_data: bool | None = Field(None, description="as bytes behind the JSON")


class InputTensor(Closed):
    """The texts, flat or each in a list of its own."""

    name: Literal["text"]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=2)] = Field(
        description="[n] or [n, 1]"
    )
    datatype: Literal["BYTES"]
    parameters: InputParameters | None = None
    data: list[Text | Annotated[list[Text], Field(min_length=1, max_length=1)]] = Field(
        min_length=1, description="as many as shape says"
    )


class RequestedOutput(Closed):
    """An output to give."""

    name: OutputName
    parameters: OutputParameters | None = None


class InferBody(Closed):
    """A batch of texts."""

    id: str | None = Field(None, description="comes back in the answer")
    parameters: RequestParameters | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(json_schema_extra={"uniqueItems": True})] | None = Field(
        None, description="all outputs if absent or empty"
    )
    model_name: Any = Field(None, description="ignored: the path names the model")
    model_version: Any = Field(None, description="ignored: the path names the version")


class BinarySize(BaseModel):
    """Where an output stands behind the JSON: outputs follow each other in order."""

    binary_data_size: int


class OutputTensor(BaseModel):
    """An output: `data` holds it row by row, or bytes behind the JSON do."""

    name: OutputName
    datatype: Literal["BYTES", "FP32"]
    shape: list[int] = Field(description="[n], or [n, labels]")
    parameters: BinarySize | None = None
    data: list[str] | list[float] | None = None


class InferReply(BaseModel):
    """The outputs, and which version gave them."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class ServerReply(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class LiveReply(BaseModel):
    """The process runs."""

    live: bool


class ReadyReply(BaseModel):
    """The default model answers."""

    ready: bool


class ModelReadyReply(BaseModel):
    """The model answers."""

    name: str
    ready: bool


class TensorReply(BaseModel):
    """A tensor of the model; -1 stands for a size that each request chooses."""

    name: str
    datatype: str
    shape: list[int]


class MetadataReply(BaseModel):
    """What the model reads and gives; the versions are those in memory."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorReply]
    outputs: list[TensorReply]


class IndexBody(Closed):
    """Which versions to list."""

    ready: bool | None = Field(None, description="only those that answer")


class LoadParameters(Closed):
    """Configurations and files, which are refused here."""


class LoadBody(Closed):
    """Nothing to say: the highest version is loaded and promoted."""

    parameters: LoadParameters | None = None


class UnloadParameters(Closed):
    """How to unload."""

    unload_dependents: bool | None = Field(None, description="accepted; no model here depends on another")


class UnloadBody(Closed):
    """How to unload."""

    parameters: UnloadParameters | None = None


class IndexRowReply(BaseModel):
    """One version of the repository."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


_BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
INFER_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": InferReply,
        "description": f"The outputs. Where some are binary, they follow JSON {HEADER_LENGTH} long.",
        "headers": {
            HEADER_LENGTH: {
                "description": "how much of the body is JSON, where bytes follow it",
                "schema": {"type": "string", "pattern": "^[0-9]+$"},
            }
        },
        "content": {"application/octet-stream": _BYTES},
    }
}
_INFER_DESCRIPTION = (
    f"JSON; or JSON and the texts behind it, each after its length in four bytes, little-endian. Then the "
    f"header {HEADER_LENGTH} tells the length of the JSON, and `parameters.binary_data_size` of the input "
    "stands in place of `data`. Either may come with Content-Encoding gzip or deflate."
)


def infer_operation(settings: Settings, *parameters: str) -> dict[str, Any]:
    """What OpenAPI says of an inference: its path's parameters, and its body with this service's limits."""
    schema = closed_schema(InferBody)
    tensor = schema["properties"]["inputs"]["items"]["properties"]
    text, one = tensor["data"]["items"]["anyOf"]
    text["maxLength"] = one["items"]["maxLength"] = settings.max_text_chars
    tensor["data"]["maxItems"] = tensor["shape"]["items"]["maximum"] = settings.max_texts
    timeout = schema["properties"]["parameters"]["anyOf"][0]["properties"]["timeout"]["anyOf"][0]
    timeout["maximum"] = settings.max_timeout_ms * 1000
    content = {"application/json": {"schema": schema}, "application/octet-stream": _BYTES}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMAS[name]}
            for name in parameters
        ],
        "requestBody": {"description": _INFER_DESCRIPTION, "content": content, "required": True},
    }


def optional_body(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's `requestBody` for a body that may be left out."""
    return {
        "requestBody": {"content": {"application/json": {"schema": closed_schema(model)}}, "required": False}
    }


def closed_schema(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema with its definitions put in where they are named."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rpartition("/")[2]])
        return {key: resolve(value) for key, value in node.items()}

    resolved: dict[str, Any] = resolve(schema)
    return resolved
