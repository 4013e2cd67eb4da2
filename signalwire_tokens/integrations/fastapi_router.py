"""The token endpoint as a FastAPI router, which `asgi.TokenBackend.router` returns. It needs FastAPI.

FastAPI resolves the app's `identify` as a dependency, and documents the endpoints in OpenAPI. The rules about a
request's head come first: if they refuse it, neither `identify` nor any other dependency runs, and the body isn't read.
They also answer CORS preflights, which browsers send without credentials.

Each endpoint has two routes: one for the method that it serves, which is documented, and one for all other methods.

This module has no `from __future__ import annotations`, because FastAPI reads the annotations of nested functions.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from http import HTTPMethod
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Depends, Request, Response, params
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from . import asgi, token_rules
from .token_endpoint import BackendRequest, Identity

__all__ = ["RouterBuilder"]

Answer: TypeAlias = Callable[[BackendRequest], Awaitable[token_rules.EndpointAnswer]]
Refuse: TypeAlias = Callable[[token_rules.RequestHead], token_rules.EndpointAnswer | None]
Schema: TypeAlias = dict[str, Any]

# OpenAPI schemas of what the endpoint reads and answers.
FINGERPRINT: Schema = {
    "type": "string",
    "pattern": f"^{token_rules.FINGERPRINT_FORM.pattern}$",
    "description": "The RFC 7638 thumbprint of the key that binds the token. Without it: the usual token.",
}
TOKEN: Schema = {
    "title": "BrowserToken",
    "type": "object",
    "required": ["token", "expiry_at"],
    "properties": {
        "token": {"type": "string", "description": "The access token."},
        "expiry_at": {"type": "integer", "description": "When it expires, in milliseconds since the epoch."},
    },
}
HEALTH: Schema = {
    "title": "FleetHealth",
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["ok", "degraded"]},
        "sessions": {"type": "object", "additionalProperties": {"type": "integer"}},
        "waiting": {"type": "integer"},
        "in_flight": {"type": "integer"},
        "breaker": {"type": "string"},
        "next_due": {"type": ["string", "null"], "format": "date-time"},
        "errors": {"type": "object", "additionalProperties": {"type": "integer"}},
        "last_error": {"type": ["string", "null"]},
    },
}
PROBLEM: Schema = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
RETRY_AFTER: Schema = {
    "Retry-After": {"description": "How many seconds to wait.", "required": True, "schema": {"type": "integer"}}
}
REFUSED = {
    400: "The body isn't a JSON object.",
    401: "No user is signed in.",
    403: "Pages of this origin may not request tokens.",
    413: f"The body is longer than {token_rules.LARGEST_REQUEST} bytes.",
    415: "The body isn't declared as JSON, or it is compressed.",
    422: "The fingerprint is malformed, or this endpoint issues no tokens for devices.",
    500: "The app's token endpoint is misconfigured.",
    502: "SignalWire refused the app's request.",
    503: "No token is available now.",
}
THROTTLED = {429: "The user had too many tokens issued in a minute."}


class RouterBuilder:
    """Makes a router with the endpoints that are added to it. `answer` is what answers a request for an endpoint."""

    def __init__(
        self,
        identify: Callable[..., Identity],
        *,
        refuse: Refuse,
        lifespan: Callable[[object], AbstractAsyncContextManager[None]],
    ) -> None:
        self.router: APIRouter = APIRouter(lifespan=lifespan)
        self._identify = as_dependency(identify)
        self._guarded = guarded_by(refuse)

    def add_token(self, path: str, answer: Answer, *, takes_fingerprint: bool) -> None:
        """Add the endpoint that returns the signed-in user's token. It may accept the fingerprint of a key."""
        self._add(
            path,
            make_endpoint(answer, self._identify),
            method="POST",
            route_class_override=self._guarded,
            name="signalwire_token",
            summary="Get the signed-in user's SignalWire token",
            description="Returns an access token for SignalWire's browser SDK.",
            responses={200: json_response("The token.", TOKEN), **problems({**REFUSED, **THROTTLED})},
            openapi_extra=json_body({"fingerprint": FINGERPRINT} if takes_fingerprint else {}),
        )

    def add_logout(self, path: str, answer: Answer) -> None:
        """Add the endpoint that closes the signed-in user's session."""
        self._add(
            path,
            make_endpoint(answer, self._identify),
            method="POST",
            route_class_override=self._guarded,
            name="signalwire_logout",
            summary="Stop renewing the signed-in user's SignalWire token",
            description="A token that the browser already has stays valid until it expires.",
            status_code=204,
            response_description="The token isn't renewed any more.",
            responses=problems(REFUSED),
            openapi_extra=json_body({}),
        )

    def add_health(self, path: str, answer: Callable[[str], token_rules.EndpointAnswer]) -> None:
        """Add the endpoint that returns the fleet's health."""

        async def endpoint(request: Request) -> Response:
            return as_response(answer(request.method))

        self._add(
            path,
            endpoint,
            method="GET",
            name="signalwire_health",
            summary="Get the health of the SignalWire tokens",
            description="Names no user. The status is 200 while the app's fleet is open, also during an outage.",
            responses={200: json_response("The fleet is open.", HEALTH), **problems({503: "The fleet isn't open."})},
        )

    def _add(self, path: str, endpoint: Callable[..., Awaitable[Response]], *, method: str, **documented: Any) -> None:  # noqa: ANN401 - as FastAPI declares them
        """Add an endpoint: a documented route for `method`, and a hidden one for the other methods."""
        others = [other.value for other in HTTPMethod if other != method]
        for methods, is_documented in (([method], True), (others, False)):
            self.router.add_api_route(
                path,
                endpoint,
                methods=methods,
                include_in_schema=is_documented,
                response_class=Response,
                **documented,
            )


def as_dependency(identify: Callable[..., Identity]) -> Callable[..., Identity]:
    """Return a dependency for FastAPI to resolve: `identify` itself, or a function that passes it an `asgi.Request`."""
    if not takes_asgi_request(identify):
        return identify

    async def identify_request(request: Request) -> str | None:
        found = identify(asgi.request_of(request.scope))
        return await found if inspect.isawaitable(found) else found

    return identify_request


def takes_asgi_request(identify: Callable[..., Identity]) -> bool:
    """Return whether `identify` has one parameter, without a type or of the type `asgi.Request`.

    FastAPI would read a parameter without a type from the URL's query, where clients could name any user. It doesn't if
    the default says otherwise, such as `Depends(…)` or `Header()`.
    """
    try:
        parameters = [*inspect.signature(identify, eval_str=True).parameters.values()]
    except NameError:  # the types can't be resolved here, and FastAPI resolves them by its own rules
        return False
    if len(parameters) != 1 or isinstance(parameters[0].default, params.Depends | params.Param | params.Body):
        return False
    return parameters[0].annotation in (inspect.Parameter.empty, asgi.Request)


def guarded_by(refuse: Refuse) -> type[APIRoute]:
    """Return a class of routes that ask `refuse` about a request's head before FastAPI resolves dependencies.

    FastAPI gets the body up to the limit only, in case a dependency reads it.
    """

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_admitted(request: Request) -> Response:
                refusal = refuse(asgi.read_head(request.scope))
                if refusal is not None:
                    return as_response(refusal)
                return await handle(Request(request.scope, up_to_the_limit(request.receive)))

            return handle_admitted

    return GuardedRoute


def up_to_the_limit(receive: Receive) -> Receive:
    """Return an ASGI `receive` whose body ends one byte after the limit, so that it is still recognized as too long."""
    left = token_rules.LARGEST_REQUEST + 1

    async def receive_some() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            body = message.get("body", b"")[:left]
            left -= len(body)
            message = {**message, "body": body, "more_body": left > 0 and message.get("more_body", False)}
        return message

    return receive_some


def make_endpoint(
    answer: Answer, identify: Callable[..., Identity]
) -> Callable[[Request, str | None], Awaitable[Response]]:
    """Return an endpoint function whose `reference` FastAPI gets from `identify`."""

    async def endpoint(request: Request, reference: Annotated[str | None, Depends(identify)]) -> Response:
        head = asgi.read_head(request.scope)
        return as_response(await answer(BackendRequest(head, lambda: reference, lambda: read_body(request))))

    return endpoint


async def read_body(request: Request) -> bytes:
    """Return a request's body, or b"" if the client left: the answer is then 400, but it reaches no client."""
    try:
        return await request.body()
    except ClientDisconnect:
        return b""


def as_response(answer: token_rules.EndpointAnswer) -> Response:
    """Return an answer as a response of FastAPI's."""
    return Response(answer.body, answer.status, {**answer.headers})


def json_body(properties: Schema) -> Schema:
    """Return what OpenAPI says of the body. As no parameter declares it, FastAPI doesn't read it."""
    content = {"schema": {"type": "object", "properties": properties}, "example": {}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def json_response(description: str, schema: Schema) -> Schema:
    """Return what OpenAPI says of a response with JSON."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def problems(refused: dict[int, str]) -> dict[int | str, Schema]:
    """Return what OpenAPI says of each refusal."""
    return {
        status: {
            "description": description,
            "content": {"application/problem+json": {"schema": PROBLEM}},
            **({"headers": RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status, description in refused.items()
    }
