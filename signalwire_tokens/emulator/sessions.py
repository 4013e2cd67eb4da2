"""The sessions of the realtime gateway: what a client may do, and what outlives its connection. This has no I/O.

`signalwire.connect` begins a session, or resumes one on another connection:

| | begins a session | resumes one |
| --- | --- | --- |
| params | `authentication` | also `protocol` and `authorization_state` |
| access token | valid | of the same subscriber. It may have expired, or have been revoked |
| proof, if the token is bound | needed | needed |
| result | a new `protocol` | the same `protocol` |

A client gets an `authorization_state` after connecting, and another one after each `signalwire.reauthenticate`. An
earlier one is accepted until the client acknowledges a later one.

A session can be resumed for as long as the emulator exists, with two exceptions: the gateway has closed its connection
because the token expired, or has sent `signalwire.disconnect` with `restart`.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, cast
from uuid import UUID, uuid4

import attrs

from .possession import AuthenticationError
from .rpc import (
    CONNECT,
    INVALID_PARAMS,
    NOT_AUTHENTICATED,
    REAUTHENTICATE,
    REQUESTER_INVALID,
    JsonObject,
    Outgoing,
    RpcError,
    make_request,
)
from .sealing import Claims

if TYPE_CHECKING:
    from .service import Service

__all__ = ["Session", "Sessions"]

MAJOR_VERSION = 4  # of the protocol
OTHER_SUBSCRIBER = "the token belongs to another subscriber: reauthenticate with a token of the same one"
NOT_RESUMABLE = "cannot resume: the authorization_state is unknown, or doesn't fit the protocol or the token"


@attrs.define(kw_only=True, eq=False)
class Session:
    """A session, which one connection has at a time.

    - `protocol`: its name, which is part of the channel of its events.
    - `claims`: those of the token that the client presented last.
    - `connection_id`: the id of the connection that has the session, or had it last.
    - `has_acks`: whether the client acknowledges events.
    - `resumed`: how many times it was resumed.
    - `unacknowledged`: the events that the client must still acknowledge, by id.
    - `states`: each `authorization_state` that is accepted, by the id of the event that carried it.
    """

    protocol: str
    claims: Claims
    connection_id: UUID = attrs.field(factory=uuid4)
    has_acks: bool = False
    resumed: int = 0
    unacknowledged: dict[str, Outgoing] = attrs.field(factory=dict[str, Outgoing])
    states: dict[str, str] = attrs.field(factory=dict[str, str], repr=False)

    def make_event(self, event_type: str, params: JsonObject, now: float, channel: str | None = None) -> Outgoing:
        """Return a new event, which the client must acknowledge if it has said that it does.

        If `channel` is None, the event's channel contains the `protocol`. An empty one leaves the member out.
        """
        about = {"event_type": event_type, "params": params, "timestamp": now}
        channel = f"events.{self.protocol}" if channel is None else channel
        event = make_request("signalwire.event", {**about, "event_channel": channel} if channel else about)
        if self.has_acks:
            self.unacknowledged[event.id] = event
        return event

    def make_state(self, now: float) -> Outgoing:
        """Return an event with a new `authorization_state`."""
        state = secrets.token_urlsafe(48)
        event = self.make_event("signalwire.authorization.state", {"authorization_state": state}, now)
        self.states[event.id] = state
        return event

    def acknowledge(self, id_: str) -> None:
        """Record that the client has acknowledged an event. If it carried a state, earlier ones are refused now."""
        del self.unacknowledged[id_]
        if id_ in self.states:
            for earlier in list(self.states)[: list(self.states).index(id_)]:
                del self.states[earlier]

    def resume(self, claims: Claims) -> None:
        """Move the session to another connection. Its client gets another state, so earlier ones aren't sent again."""
        self.claims, self.connection_id = claims, uuid4()
        self.resumed += 1
        for id_ in self.states:
            self.unacknowledged.pop(id_, None)


class Sessions:
    """All sessions, and the rules for authenticating."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sessions: dict[str, Session] = {}  # by protocol

    def forget(self, protocol: str) -> None:
        """Forget a session, so that it can't be resumed."""
        self._sessions.pop(protocol, None)

    def connect(self, params: JsonObject) -> Session:
        """Return the session that a `signalwire.connect` begins or resumes. Raise a final `RpcError` to refuse it."""
        version, given, acks = params.get("version"), params.get("authentication"), params.get("event_acks", False)
        if not isinstance(version, dict) or cast("JsonObject", version).get("major") != MAJOR_VERSION:
            raise RpcError(INVALID_PARAMS, "version.major must be 4", final=True)
        if not isinstance(acks, bool):
            raise RpcError(INVALID_PARAMS, "event_acks must be true or false", final=True)
        if not isinstance(given, dict):
            raise RpcError(INVALID_PARAMS, "authentication is missing", final=True)
        if params.get("protocol") is None and params.get("authorization_state") is None:
            claims = self._authenticate(CONNECT, params)
            session = Session(protocol=f"signalwire_{uuid4()}", claims=claims)
            self._sessions[session.protocol] = session
        else:
            session = self._resume(params)
        session.has_acks = acks
        return session

    def reauthenticate(self, session: Session, params: JsonObject) -> None:
        """Replace the token of a session. Raise a final `RpcError` if the new one isn't accepted."""
        given = params.get("authentication")
        if not isinstance(given, dict) or cast("JsonObject", given).get("project") != self._service.project_id:
            raise RpcError(INVALID_PARAMS, "authentication.project must be the project's id", final=True)
        claims = self._authenticate(REAUTHENTICATE, params)
        if owner_of(claims) != owner_of(session.claims):
            raise RpcError(NOT_AUTHENTICATED, OTHER_SUBSCRIBER, final=True, reason=OTHER_SUBSCRIBER)
        session.claims = claims

    def describe(self, session: Session) -> JsonObject:
        """Return the `authorization` that the gateway answers: what the token allows, and for whom."""
        project_id, claims = self._service.project_id, session.claims
        return {
            "jti": claims.id,
            "project_id": project_id,
            "scope": list(claims.scope),
            **self._service.describe_binding(claims),
            "fabric_subscriber": {
                "version": 1,
                "expires_at": int(claims.expires_at),
                "subscriber_id": claims.subscriber_id,
                "application_id": claims.application_id,
                "project_id": project_id,
                "space_id": self._service.space_id,
            },
        }

    def _resume(self, params: JsonObject) -> Session:
        protocol, claims = (
            params.get("protocol"),
            self._service.read_access_token(params["authentication"].get("jwt_token")),
        )
        session = self._sessions.get(protocol) if isinstance(protocol, str) else None
        if (
            session is None
            or claims is None
            or params.get("authorization_state") not in session.states.values()
            or owner_of(claims) != owner_of(session.claims)
        ):
            raise RpcError(REQUESTER_INVALID, "requester validation failed", final=True, reason=NOT_RESUMABLE)
        try:
            self._check_proof(CONNECT, params, claims)
        except AuthenticationError as error:
            raise refusal(error) from None
        session.resume(claims)
        return session

    def _authenticate(self, method: str, params: JsonObject) -> Claims:
        """Return the claims of the token that a call presents, if it is valid and has the proof that it needs."""
        try:
            claims = self._service.authenticate(params["authentication"].get("jwt_token"))
            self._check_proof(method, params, claims)
        except AuthenticationError as error:
            raise refusal(error) from None
        return claims

    def _check_proof(self, method: str, params: JsonObject, claims: Claims) -> None:
        proof, thumbprint, holders = params.get("dpop_token"), None, self._service.holders
        if proof is not None:
            thumbprint = holders.verify(proof, {"rpc": "request", "mth": method})
        holders.check_binding(claims, thumbprint)


def owner_of(claims: Claims) -> tuple[str, str | None]:
    """Return whose token it is: the kind of holder, and the id of the subscriber."""
    return claims.holder, claims.subscriber_id


def refusal(error: AuthenticationError) -> RpcError:
    """Return the error for a token that isn't accepted. The client doesn't get the reason."""
    return RpcError(NOT_AUTHENTICATED, "authentication failed", final=True, reason=str(error))
