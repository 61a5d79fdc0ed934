"""What each remote procedure does: message in, message out. Knows protobuf, and nothing of connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app.errors import BertpressError, NotLoadedError, NotReadyError, UnknownModelError
from app.protocols.auth import check_token
from app.protocols.exchange import Exchange
from app.protocols.openinference import repository
from app.protocols.openinference.describing import EXTENSIONS, SERVER, describe, find, read_version
from app.protocols.openinference.message_tensors import fill_response, parse_infer, values
from app.protocols.openinference.messages import HEALTH, INFERENCE, build
from app.protocols.texts import check_fields
from app.service import PredictRequest, Service
from app.settings import Settings

_SERVING, _NOT_SERVING = 1, 2
_NEITHER_KNOWN_NOR_LOADED = (UnknownModelError, NotLoadedError, NotReadyError)


@dataclass(frozen=True, slots=True)
class Call:
    """A call as its procedure sees it. `remaining_seconds` is None where the client set no deadline."""

    exchange: Exchange
    remaining_seconds: float | None


@dataclass(frozen=True, slots=True)
class Procedure:
    """A remote procedure; `path` is the REST path that whoever may call one may call the other."""

    service: str
    name: str
    path: str
    request: Any
    response: Any
    run: Callable[[Any, Call], Awaitable[Any]]


class Procedures:
    """The procedures over one service. Each raises BertpressError where it cannot answer."""

    def __init__(self, service: Service, settings: Settings, version: str) -> None:
        self._service, self._registry, self._settings = service, service.registry, settings
        self._version = version
        self._messages: Mapping[str, Any] = build("inference", INFERENCE) | build("grpc.health.v1", HEALTH)

    def __iter__(self) -> Any:
        """All of them."""
        inference, prefix = "inference.GRPCInferenceService", "/v2"
        for name, path, run in (
            ("ServerLive", "/health/live", self._server_live),
            ("ServerReady", "/health/ready", self._server_ready),
            ("ModelReady", "/models/{name}/ready", self._model_ready),
            ("ServerMetadata", "", self._server_metadata),
            ("ModelMetadata", "/models/{name}", self._model_metadata),
            ("ModelInfer", "/models/{name}/infer", self._model_infer),
            ("RepositoryIndex", "/repository/index", self._repository_index),
            ("RepositoryModelLoad", "/repository/models/{name}/load", self._repository_load),
            ("RepositoryModelUnload", "/repository/models/{name}/unload", self._repository_unload),
        ):
            yield self._procedure(inference, name, prefix + path, name, run)
        yield self._procedure("grpc.health.v1.Health", "Check", "/health/ready", "HealthCheck", self._check)

    def _procedure(self, service: str, name: str, path: str, messages: str, run: Any) -> Procedure:
        request, response = self._messages[f"{messages}Request"], self._messages[f"{messages}Response"]
        return Procedure(service, name, path, request, response, run)

    def _new(self, kind: str, /, **fields: Any) -> Any:
        return self._messages[kind](**fields)

    async def _server_live(self, _: Any, __: Call) -> Any:
        return self._new("ServerLiveResponse", live=_holds(self._service.check_alive))

    async def _server_ready(self, _: Any, __: Call) -> Any:
        return self._new("ServerReadyResponse", ready=_holds(self._service.check_ready))

    async def _check(self, message: Any, _: Call) -> Any:
        """gRPC's own health check; one service answers for all."""
        known = {"", "inference.GRPCInferenceService"}
        if message.service not in known:
            raise UnknownModelError("health is known of inference.GRPCInferenceService and of the whole")
        ready = _holds(self._service.check_ready)
        return self._new("HealthCheckResponse", status=_SERVING if ready else _NOT_SERVING)

    async def _model_ready(self, message: Any, _: Call) -> Any:
        try:
            find(self._registry, message.name, read_version(message.version))
        except _NEITHER_KNOWN_NOR_LOADED:
            return self._new("ModelReadyResponse", ready=False)
        return self._new("ModelReadyResponse", ready=True)

    async def _server_metadata(self, _: Any, __: Call) -> Any:
        return self._new("ServerMetadataResponse", name=SERVER, version=self._version, extensions=EXTENSIONS)

    async def _model_metadata(self, message: Any, _: Call) -> Any:
        metadata = describe(self._registry, message.name, read_version(message.version))
        return self._new("ModelMetadataResponse", **asdict(metadata))

    async def _model_infer(self, message: Any, call: Call) -> Any:
        asked = parse_infer(message, self._settings)
        exchange = call.exchange
        wanted = PredictRequest(
            texts=asked.texts,
            timeout_seconds=self._timeout_seconds(asked.schedule.timeout_seconds, call),
            received=exchange.started,
            model=message.model_name,
            version=read_version(message.model_version),
            priority=asked.schedule.priority,
            client=exchange.client,
        )
        exchange.charge(wanted)
        exchange.answer = answer = await self._service.predict(wanted)
        return fill_response(self._new("ModelInferResponse"), answer, asked)

    async def _repository_index(self, message: Any, call: Call) -> Any:
        self._check_operator(call)
        rows = await repository.index(self._registry, message.ready)
        return self._new("RepositoryIndexResponse", models=[asdict(row) for row in rows])

    async def _repository_load(self, message: Any, call: Call) -> Any:
        self._check_operator(call)
        await repository.load(self._registry, message.model_name, values(message.parameters))
        return self._new("RepositoryModelLoadResponse")

    async def _repository_unload(self, message: Any, call: Call) -> Any:
        self._check_operator(call)
        check_fields(values(message.parameters), ("unload_dependents",), "parameters")
        await repository.unload(self._registry, message.model_name)
        return self._new("RepositoryModelUnloadResponse")

    def _check_operator(self, call: Call) -> None:
        authorization = call.exchange.headers.get(b"authorization", b"")
        check_token(authorization, self._settings.admin_token)

    def _timeout_seconds(self, asked: float | None, call: Call) -> float:
        """The request's `timeout`, else the call's deadline, else the default; never past the deadline."""
        default = self._settings.default_timeout_ms / 1000
        if call.remaining_seconds is None:
            return asked or default
        return min(asked or self._settings.max_timeout_ms / 1000, call.remaining_seconds)


def _holds(check: Callable[[], object]) -> bool:
    try:
        check()
    except BertpressError:
        return False
    return True
