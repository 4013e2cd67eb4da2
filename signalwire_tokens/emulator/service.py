"""The service itself, without the network: a call in, a reply out, and a state between that only calls change."""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64decode
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, assert_never
from uuid import NAMESPACE_URL, uuid4, uuid5

import attrs

from .calls import OPERATIONS, Call, RefusedError, Reply, failure, operation_of
from .possession import REFRESHABLE, Holders, UnprovenError
from .sealing import Claims, Sealer
from .validation import Problems, Validator

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalwire_tokens.models import Lifetimes

__all__ = ["Rotation", "Service"]

Json = dict[str, Any]

PROFILE = (
    "first_name",
    "last_name",
    "display_name",
    "job_title",
    "time_zone",
    "country",
    "region",
    "company_name",
)
GRACE = 10.0
DEVICE_LIFE = 900  # seconds, unless more or less is asked for


class Rotation(Enum):
    """What becomes of a refresh token once it was used."""

    SINGLE_USE = "single-use"  # it is refused from then on
    REUSABLE = "reusable"  # nothing
    GRACE = "grace"  # it is good for ten seconds more
    FAMILY = "family"  # its second use revokes every refresh token of its line


@attrs.define(kw_only=True)
class Subscriber:
    """One whom the project has issued a token for."""

    id: str
    reference: str
    profile: dict[str, str] = attrs.field(factory=dict[str, str])


class Service:
    """The project, its subscribers and addresses, and what was done with its refresh tokens."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        lifetimes: Lifetimes,
        rotation: Rotation,
        channel: str | None,
        page_size: int,
        project_id: str,
        api_token: str,
        key: bytes,
    ) -> None:
        self.origin = ""
        self.project_id = project_id
        self.space_id: str = str(uuid4())
        self.api_token = api_token
        self.click_to_call: set[str] = set()
        self._now = now
        self._lifetimes = lifetimes
        self._rotation = rotation
        self._page_size = page_size
        self._sealer = Sealer(channel, key)
        self._subscribers: dict[str, Subscriber] = {}  # by reference
        self._addresses: dict[str, tuple[str | None, Json]] = {}  # by id, with the subscriber's id
        self._used: dict[str, tuple[float, float]] = {}  # refresh tokens: when used first, and when expired
        self._withdrawn: set[str] = set()  # tokens that are refused before their time
        self.holders: Holders = Holders(now)
        self._revoked: set[str] = set()  # lines of which a refresh token was used twice
        self._handlers: dict[str, Callable[[Call], Reply]] = {
            "create_subscriber_token": self._create_subscriber_token,
            "refresh_subscriber_token": self._refresh_subscriber_token,
            "create_guest_token": self._create_guest_token,
            "create_invite_token": self._create_invite_token,
            "create_embed_token": self._create_embed_token,
            "create_device_token": self._create_device_token,
            "refresh_device_token": self._refresh_device_token,
            "subscriber_info": self._subscriber_info,
            "subscriber_addresses": self._subscriber_addresses,
        }

    def add_address(self, name: str, *, subscriber_id: str | None = None, kind: str = "room") -> str:
        """Give the project a place that can be reached."""
        id_ = str(uuid4())
        self._addresses[id_] = (
            subscriber_id,
            {
                "id": id_,
                "name": name,
                "display_name": name.replace("-", " ").title(),
                "type": kind,
                "cover_url": None,
                "preview_url": None,
                "locked": False,
                "channels": {
                    channel: f"/public/{name}?channel={channel}" for channel in ("audio", "messaging", "video")
                },
                "created_at": datetime.fromtimestamp(self._now(), UTC).isoformat().replace("+00:00", "Z"),
            },
        )
        return id_

    def accepts(self, token: str) -> bool:
        """Tell whether a token is a live one of this service."""
        claims = self._sealer.open(token)
        return claims is not None and self._is_live(claims) and (claims.kind == "SAT" or not self._is_spent(claims))

    def authenticate(self, token: object) -> Claims:
        """Take a live access token, whoever has it; whether a key binds it is another question."""
        claims = self._sealer.open(token) if isinstance(token, str) else None
        if claims is None or claims.kind != "SAT":
            raise UnprovenError("this is no access token of this service's")
        if claims.expires_at <= self._now():
            raise UnprovenError("the token has expired")
        if claims.id in self._withdrawn:
            raise UnprovenError("the token was withdrawn")
        return claims

    def set_channel(self, channel: str | None) -> None:
        """Name the cluster that the holders of tokens are to connect to."""
        self._sealer.channel = channel

    def withdraw(self, token: str) -> None:
        """Refuse a token from now on."""
        claims = self._sealer.open(token)
        if claims is None:
            raise ValueError("this is no token of this service's")
        self._withdrawn.add(claims.id)

    def _is_live(self, claims: Claims) -> bool:
        return claims.expires_at > self._now() and claims.id not in self._withdrawn

    def handle(self, call: Call) -> Reply:
        """Answer a call."""
        operation = operation_of(call.method, call.path)
        if operation is None:
            return failure(404)
        try:
            return self._handlers[operation](call)
        except RefusedError as refused:
            return refused.reply
        except UnprovenError as error:
            return failure(401, str(error))

    def _create_subscriber_token(self, call: Call) -> Reply:
        self._check_project(call)
        body = self._validator(call)
        reference = body.required_string("reference")
        expires_at = body.future("expire_at", self._now())
        application_id, fingerprint = body.uuid("application_id"), body.fingerprint("fingerprint")
        scope = body.scope("scope")
        body.string("password")
        profile = {name: value for name in PROFILE if (value := body.string(name)) is not None}
        self._check(body.problems)
        subscriber = self._subscriber(reference or "")
        subscriber.profile |= profile
        pair = self._issue_pair(
            holder="subscriber",
            expires_at=expires_at,
            subscriber_id=subscriber.id,
            application_id=application_id,
            fingerprint=fingerprint,
            scope=(scope,) if scope else (),
        )
        return Reply(201, {"subscriber_id": subscriber.id, **pair})

    def _refresh_subscriber_token(self, call: Call) -> Reply:
        self._check_project(call)
        body = self._validator(call)
        token = body.required_string("refresh_token")
        self._check(body.problems)
        claims = self._sealer.open(token or "")
        if claims is None or claims.kind != "Refresh" or claims.id in self._withdrawn:
            body.complain("invalid_parameter", "refresh_token", "refresh_token is not valid")
        elif claims.expires_at <= self._now():
            body.complain("token_expired", "refresh_token", "refresh_token has expired")
        elif self._is_spent(claims):
            self._revoked.add(claims.line)
            body.complain("invalid_parameter", "refresh_token", "refresh_token was used before")
        else:
            return Reply(201, self._rotate(claims))
        raise RefusedError(Reply(422, {"errors": body.problems}))

    def _create_guest_token(self, call: Call) -> Reply:
        self._check_project(call)
        body = self._validator(call)
        addresses = body.addresses("allowed_addresses", self._addresses)
        expires_at = body.future("expire_at", self._now())
        body.string("region")
        body.string("ch")
        self._check(body.problems)
        return Reply(201, self._issue_pair(holder="guest", expires_at=expires_at, addresses=addresses))

    def _create_invite_token(self, call: Call) -> Reply:
        claims = self._check_subscriber(call)
        self.holders.admit(claims, None)
        body = self._validator(call)
        wanted = body.required("address_id")
        address = None if wanted is None else body.address("address_id", wanted, self._addresses)
        expires_at = body.future("expires_at", self._now())
        self._check(body.problems)
        now = self._now()
        invite = self._claims(
            kind="SAT",
            holder="invite",
            expires_at=expires_at or now + self._lifetimes.access.total_seconds(),
            subscriber_id=claims.subscriber_id,
            addresses=(address or "",),
        )
        return Reply(201, {"token": self._sealer.seal(invite)})

    def _create_embed_token(self, call: Call) -> Reply:
        body = self._validator(call)
        token = body.required_string("token")
        self._check(body.problems)
        if token not in self.click_to_call:
            return failure(403)
        expires_at = self._now() + self._lifetimes.embed.total_seconds()
        return Reply(201, {"token": self._sealer.seal(self._claims(kind="SAT", holder="embed", expires_at=expires_at))})

    def _subscriber_info(self, call: Call) -> Reply:
        # A key's token needs no proof here: it is here that browsers learn that it is one.
        claims = self._check_subscriber(call)
        subscriber = next((one for one in self._subscribers.values() if one.id == claims.subscriber_id), None)
        if subscriber is None:  # a token from before the emulator was started anew
            return failure(404)
        return Reply(
            200,
            {
                "id": subscriber.id,
                "email": subscriber.reference,
                **dict.fromkeys(PROFILE),
                **subscriber.profile,
                "push_notification_key": None,
                "app_settings": {"display_name": "Emulator", "scopes": list(claims.scope)},
                "fabric_addresses": [address for owner, address in self._addresses.values() if owner == subscriber.id],
                "sat_claims": {
                    "scope": list(claims.scope),
                    "expires_at": int(claims.expires_at),
                    **self.describe_binding(claims),
                },
            },
        )

    def describe_binding(self, claims: Claims) -> Json:
        """Say which key binds a token, if one does, as RFC 7800 has it."""
        binding = self.holders.binding_of(claims)
        return {} if binding is None else {"cnf": {"jkt": binding}}

    def _create_device_token(self, call: Call) -> Reply:
        claims = self._check_subscriber(call)
        if claims.is_bound:
            raise UnprovenError("the token was exchanged already: it is to be refreshed")
        return self._exchange(call, claims)

    def _refresh_device_token(self, call: Call) -> Reply:
        claims = self._check_subscriber(call)
        if not claims.is_bound:
            raise UnprovenError("the token is bound to no key yet: it is to be exchanged")
        return self._exchange(call, claims)

    def _exchange(self, call: Call, claims: Claims) -> Reply:
        """Exchange a token for one that is bound to the key that signed the proof."""
        body = self._validator(call)
        proof, seconds = body.required_string("dpop_token"), body.seconds("expire_in", DEVICE_LIFE)
        self._check(body.problems)
        if REFRESHABLE not in claims.scope:
            raise UnprovenError(f"the token has no scope {REFRESHABLE}")
        # The service's own client names the path alone.
        places = (call.path, f"{self.origin}{call.path}")
        thumbprint = self.holders.verify(
            proof,
            {"htm": call.method, "htu": places},
            token=(call.authorization or "").partition(" ")[2],
            must_name=claims.is_bound,
        )
        self.holders.admit(claims, thumbprint)
        bound = attrs.evolve(
            claims,
            id=str(uuid4()),
            issued_at=self._now(),
            expires_at=self._now() + seconds,
            fingerprint=thumbprint,
            is_bound=True,
        )
        answer = {"token": self._sealer.seal(bound), "expires_at": int(bound.expires_at), "expires_in": seconds}
        return Reply(201, answer)

    def _subscriber_addresses(self, call: Call) -> Reply:
        self._check_project(call)
        _, form = OPERATIONS["subscriber_addresses"]
        match = form.fullmatch(call.path)
        id_ = match["id"].lower() if match else ""
        if not any(one.id == id_ for one in self._subscribers.values()):
            return failure(404)
        mine = [address for owner, address in self._addresses.values() if owner == id_]
        asked = call.query.get("page_number", "")
        number = int(asked) if re.fullmatch(r"[0-9]{1,6}", asked) else 0
        start, base = number * self._page_size, f"{self.origin}{call.path}?page_number="
        links = {"self": f"{base}{number}", "first": f"{base}0"}
        if start + self._page_size < len(mine):
            links["next"] = f"{base}{number + 1}"
        if number:
            links["prev"] = f"{base}{number - 1}"
        return Reply(200, {"data": mine[start : start + self._page_size], "links": links})

    def _check_project(self, call: Call) -> None:
        kind, _, value = (call.authorization or "").partition(" ")
        try:
            given = b64decode(value, validate=True) if kind.lower() == "basic" else b""
        except ValueError:
            given = b""
        if not hmac.compare_digest(given, f"{self.project_id}:{self.api_token}".encode()):
            raise RefusedError(failure(401))

    def _check_subscriber(self, call: Call) -> Claims:
        """Take a subscriber's access token."""
        kind, _, value = (call.authorization or "").partition(" ")
        claims = self.authenticate(value if kind.lower() == "bearer" else None)
        if claims.holder != "subscriber":
            raise RefusedError(failure(403))
        return claims

    def _validator(self, call: Call) -> Validator:
        if call.content_type.partition(";")[0].strip().lower() != "application/json":
            return Validator(None)  # what is not declared to be JSON is not read as such
        try:
            return Validator(json.loads(call.body))
        except (ValueError, RecursionError):
            raise RefusedError(failure(400)) from None

    def _check(self, problems: Problems) -> None:
        if problems:
            raise RefusedError(Reply(422, {"errors": problems}))

    def _subscriber(self, reference: str) -> Subscriber:
        if reference not in self._subscribers:
            name = f"{self.project_id} {reference}".encode(errors="backslashreplace").decode()
            subscriber = Subscriber(id=str(uuid5(NAMESPACE_URL, name)), reference=reference)
            self._subscribers[reference] = subscriber
            name = re.sub(r"[^a-z0-9]+", "-", reference.lower()).strip("-") or "subscriber"
            self.add_address(name, subscriber_id=subscriber.id, kind="subscriber")
        return self._subscribers[reference]

    def _claims(self, *, kind: str, holder: str, expires_at: float, **more: Any) -> Claims:  # noqa: ANN401 - of Claims
        fields = {"line": str(uuid4()), **more}
        return Claims(id=str(uuid4()), kind=kind, holder=holder, issued_at=self._now(), expires_at=expires_at, **fields)

    def _issue_pair(self, *, holder: str, expires_at: float | None = None, **more: Any) -> dict[str, str]:  # noqa: ANN401
        lifetimes = self._lifetimes
        if expires_at is None:
            unbound = more.get("scope") and more.get("fingerprint") is None
            expires_at = self._now() + (lifetimes.unbound if unbound else lifetimes.access).total_seconds()
        margin = (lifetimes.refresh - lifetimes.access).total_seconds()
        access = self._claims(kind="SAT", holder=holder, expires_at=expires_at, **more)
        refresh = self._claims(
            kind="Refresh", holder=holder, expires_at=expires_at + margin, **{**more, "line": access.line}
        )
        return {"token": self._sealer.seal(access), "refresh_token": self._sealer.seal(refresh)}

    def _is_spent(self, claims: Claims) -> bool:
        """Tell whether a refresh token is refused for what was done with it or its line before."""
        first_use = self._used.get(claims.id)
        match self._rotation:
            case Rotation.REUSABLE:
                return False
            case Rotation.SINGLE_USE:
                return first_use is not None
            case Rotation.GRACE:
                return first_use is not None and self._now() > first_use[0] + GRACE
            case Rotation.FAMILY:
                return first_use is not None or claims.line in self._revoked
            case _:
                assert_never(self._rotation)

    def _rotate(self, claims: Claims) -> dict[str, str]:
        """Use a refresh token up, and issue the pair that replaces its own."""
        now = self._now()
        while self._used and (oldest := next(iter(self._used.items())))[1][1] <= now:
            del self._used[oldest[0]]
        self._used.setdefault(claims.id, (now, claims.expires_at))
        return self._issue_pair(
            holder=claims.holder,
            subscriber_id=claims.subscriber_id,
            application_id=claims.application_id,
            fingerprint=claims.fingerprint,
            scope=claims.scope,
            addresses=claims.addresses,
            line=claims.line,
        )
