"""The routes that carry the load, reached by one look at a table instead of the framework's route matching.

They are FastAPI's routes all the same: they stand in its OpenAPI, and without this lane they answer alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
AnswerError = Callable[[Request, Exception], Awaitable[Response]]
E = TypeVar("E", bound=Endpoint)

_MARK = "__bertpress_busy__"


def busy(endpoint: E) -> E:
    """Mark an endpoint that takes the request alone; what its path names stands in `path_params`."""
    setattr(endpoint, _MARK, True)
    return endpoint


def busy_routes(routers: Iterable[APIRouter]) -> dict[str, APIRoute]:
    """The marked POST routes, by path."""
    return {
        route.path: route
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and hasattr(route.endpoint, _MARK) and route.methods == {"POST"}
    }


class FastLane:
    """ASGI middleware around the whole application; `edge` wraps what answers the busy routes."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[str, APIRoute],
        answer_error: AnswerError,
        edge: Callable[[ASGIApp], ASGIApp],
    ) -> None:
        self._app, self._answer_error = app, answer_error
        self._routes = {path: route for path, route in routes.items() if "{" not in path}
        self._patterns = [route for path, route in routes.items() if "{" in path]
        self._lane = edge(self._call)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self._routes.get(scope["path"]) or self._match(scope)
            if route is not None:
                scope["route"] = route
                await self._lane(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _match(self, scope: Scope) -> APIRoute | None:
        for route in self._patterns:
            if match := route.path_regex.match(scope["path"]):
                scope["path_params"] = match.groupdict()
                return route
        return None

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await scope["route"].endpoint(request)
        except Exception as error:
            response = await self._answer_error(request, error)
        await response(scope, receive, send)
