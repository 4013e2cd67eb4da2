"""The service without a network: `Service.handle` turns a `Call` into a `Reply`.

A call passes these checks in this order. The first one that fails decides the reply:

| check | reply if it fails |
| --- | --- |
| rate limit | 429 `rate_limit_exceeded` |
| form of the HTTP request (`Call.malformed_because`) | 400 |
| method and path lead to an operation | 404 |
| parameters of the query are known (only if strict) | 400 |
| authentication | 401, or 403 for a valid token of a holder that the operation isn't for |
| the body is JSON | 400 |
| members of the body | 422 with all problems, or the status in `statuses` |
| the rest: a proof, a used refresh token, an unknown subscriber | depends on the operation |

Handlers have no `await`, so concurrent calls never see a half-changed state. A fault that loses an answer comes into
effect after the handler has returned, in `server`.

Two exceptions end a handler early. `RequestRefusedError` carries the reply. `AuthenticationError` means that
authentication failed, and becomes a 401 that doesn't explain why.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import attrs

from .arguments import check_statuses
from .calls import OPERATIONS, UNPROCESSABLE, Call, Reply, RequestRefusedError, failure, operation_of
from .limits import Meter, RateLimit
from .possession import REFRESHABLE, AuthenticationError, KeyBindings
from .rotation import Rotation, TokenHistory
from .sealing import Claims, TokenSealer
from .strict_json import fault_of_json, read_json
from .validation import Validator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from signalwire_tokens.models import Lifetimes

__all__ = ["Service"]

JsonObject = dict[str, Any]

PROFILE_FIELDS = (
    "first_name",
    "last_name",
    "display_name",
    "job_title",
    "time_zone",
    "country",
    "company_name",
)
DEVICE_LIFE = 900  # seconds that a bound token lives, if the request has no `expire_in`
LARGEST_PAGE = 1000  # addresses
LARGEST_NUMBER = 2**31 - 1  # of a page
PAGE_PARAMETERS = frozenset({"page_number", "page_size", "page_token"})
PAGED = ("subscriber_addresses", "addresses")  # operations that return pages
NOT_OURS = "not an access token of this emulator: it is a refresh token, another space's token, or damaged"
ASSETS = "https://example.com/assets"  # for the image URLs of addresses. They lead nowhere
CHARSET = re.compile(r"""\bcharset\s*=\s*["']?([^"';\s]*)""")  # among the parameters of a Content-Type
TOKEN_PARTS = (3, 5)  # of a signed token (JWS), and of an encrypted one (JWE)


@attrs.define(kw_only=True)
class Subscriber:
    """A subscriber, created by the first token that the project issued for its `reference`.

    `profile` has the members that issues have set so far. `region` is one of them.
    """

    id: str
    reference: str
    profile: dict[str, str] = attrs.field(factory=dict[str, str])


class Service:
    """One project with its subscribers, addresses and tokens.

    - `now` returns the time in seconds since the epoch. Tokens expire by it.
    - `channel` is the realtime host that tokens name, or None.
    - `page_size` is how many addresses a page has, if the request doesn't choose.
    - `key` encrypts the tokens. Services with the same key open each other's tokens, but know only what was done with
      their own.
    - `strict` refuses requests that SignalWire's published description doesn't have.
    - `statuses` maps the code of a body's first problem to the status of the answer. Other codes have 422.
    - `origin`, an attribute, is the URL that clients reach the service at. The server sets it once it has a port. The
      links of pages and the `htu` of proofs depend on it.
    """

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
        strict: bool = False,
        rate_limit: RateLimit | None = None,
        statuses: Mapping[str, int] | None = None,
    ) -> None:
        self.origin = ""
        self.project_id = project_id
        self.space_id: str = str(uuid4())
        self.api_token = api_token
        self.click_to_call: set[str] = set()
        self._now = now
        self._lifetimes = lifetimes
        self._statuses = {} if statuses is None else check_statuses(statuses)
        self.strict: bool = strict
        self.meter: Meter = Meter(rate_limit, now)
        self.history: TokenHistory = TokenHistory(rotation, now)
        self._page_size = page_size
        self.sealer: TokenSealer = TokenSealer(channel, key)
        self._subscribers: dict[str, Subscriber] = {}  # by reference
        self._addresses: dict[str, tuple[str | None, JsonObject]] = {}  # by id, with the subscriber's id
        self.holders: KeyBindings = KeyBindings(now)
        self._expired: dict[str, float] = {}  # ids of access tokens that a test has let expire, and when
        self.handlers: dict[str, Callable[[Call], Reply]] = {
            "create_subscriber_token": self._create_subscriber_token,
            "refresh_subscriber_token": self._refresh_subscriber_token,
            "create_guest_token": self._create_guest_token,
            "create_invite_token": self._create_invite_token,
            "create_embed_token": self._create_embed_token,
            "create_device_token": self._create_device_token,
            "refresh_device_token": self._refresh_device_token,
            "subscriber_info": self._subscriber_info,
            "subscriber_addresses": self._subscriber_addresses,
            "addresses": self._reachable_addresses,
            "address": self._address,
        }

    def add_address(self, name: str, *, subscriber_id: str | None = None) -> str:
        """Add an address, and return its id. It belongs to the project, or to the subscriber with this id."""
        id_ = str(uuid4())
        self._addresses[id_] = (
            subscriber_id,
            {
                "id": id_,
                "name": name,
                "display_name": name.replace("-", " ").title(),
                "type": "room" if subscriber_id is None else "subscriber",
                "cover_url": f"{ASSETS}/cover.png",
                "preview_url": f"{ASSETS}/preview.png",
                "locked": False,
                "channels": {
                    channel: f"/public/{name}?channel={channel}" for channel in ("audio", "messaging", "video")
                },
                "created_at": datetime.fromtimestamp(self._now(), UTC).isoformat().replace("+00:00", "Z"),
            },
        )
        return id_

    def accepts(self, token: str) -> bool:
        """Return whether the service accepts a token now: an access token, or a refresh token that can still be used.

        The check uses nothing up. It ignores which key a token is bound to.
        """
        claims = self._open(token)
        if claims is None or claims.expires_at <= self._now() or self.history.is_revoked(claims):
            return False
        return claims.kind == "SAT" or not self.history.is_spent(claims)

    def authenticate(self, token: object) -> Claims:
        """Return the claims of a valid access token of any holder, or raise an `AuthenticationError`.

        This doesn't check the key that the token is bound to: see `KeyBindings.check_binding`.
        """
        claims = self.read_access_token(token)
        if claims is None:
            raise AuthenticationError(NOT_OURS)
        if claims.expires_at <= self._now():
            raise AuthenticationError("the token has expired")
        if self.history.is_revoked(claims):
            raise AuthenticationError("the token was revoked")
        return claims

    def read_access_token(self, token: object) -> Claims | None:
        """Return the claims of an access token, which may have expired or be revoked. Return None for anything else."""
        claims = self._open(token) if isinstance(token, str) else None
        return None if claims is None or claims.kind != "SAT" else claims

    def set_channel(self, channel: str | None) -> None:
        """Set the realtime host that tokens name from now on, or None for tokens without one."""
        self.sealer.channel = channel

    def revoke(self, token: str) -> None:
        """Revoke a token. Raise a `ValueError` for a text that isn't a token of this service."""
        claims = self.sealer.open(token)
        if claims is None:
            raise ValueError("cannot revoke: the text isn't a token of this emulator (another seed?)")
        self.history.revoke(claims)

    def expire(self, token: str) -> Claims:
        """Expire an access token now, and return its claims. Raise a `ValueError` for anything else."""
        claims = self.read_access_token(token)
        if claims is None:
            raise ValueError("cannot expire: the text isn't an access token of this emulator (another seed?)")
        self._expired[claims.id] = min(claims.expires_at, self._now())
        return attrs.evolve(claims, expires_at=self._expired[claims.id])

    def handle(self, call: Call) -> Reply:
        """Return the reply to a call, with the headers of the rate limit if there is one."""
        is_accepted, headers = self.meter.accept(call.method)
        reply = self._answer(call) if is_accepted else failure(429, code="rate_limit_exceeded")
        return attrs.evolve(reply, headers=headers) if headers else reply

    def _open(self, token: str) -> Claims | None:
        """Return the claims of a token, whose expiry may be earlier than at its issue. Return None for other texts."""
        claims = self.sealer.open(token)
        if claims is None or claims.id not in self._expired:
            return claims
        return attrs.evolve(claims, expires_at=self._expired[claims.id])

    def _answer(self, call: Call) -> Reply:
        if call.malformed_because is not None:
            return failure(400, call.malformed_because)
        operation = operation_of(call.method, call.path)
        if operation is None:
            return failure(404)
        if self.strict and call.query.keys() - (PAGE_PARAMETERS if operation in PAGED else set[str]()):
            return failure(400, "the query has a parameter that the operation doesn't have")
        try:
            return self.handlers[operation](call)
        except RequestRefusedError as refused:
            return refused.reply
        except AuthenticationError as error:
            return failure(401, str(error))

    def _create_subscriber_token(self, call: Call) -> Reply:
        self._check_project(call)
        body = self._validator(call)
        reference = body.required_string("reference")
        expires_at = body.future("expire_at", self._now())
        application_id, fingerprint = body.uuid("application_id"), body.fingerprint("fingerprint")
        scope, region = body.scope("scope"), body.region("region")
        body.string("password")
        profile = {name: value for name in PROFILE_FIELDS if (value := body.string(name)) is not None}
        if region is not None:
            profile["region"] = region
        self._check(body)
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
        return Reply(200, {"subscriber_id": subscriber.id, **pair})

    def _refresh_subscriber_token(self, call: Call) -> Reply:
        self._check_project(call)
        body = self._validator(call)
        token = body.required_string("refresh_token") or ""
        self._check(body)
        claims = self.sealer.open(token)
        if claims is None:
            is_token = token.count(".") + 1 in TOKEN_PARTS
            body.complain("token_invalid" if is_token else "invalid_token_format", "refresh_token")
        elif claims.kind != "Refresh":
            body.complain("not_a_refresh_token", "refresh_token")
        elif claims.expires_at <= self._now():
            body.complain("token_expired", "refresh_token")
        elif self.history.accept(claims):
            return Reply(201, self._rotate(claims))
        else:
            rotation = self.history.rotation
            reason = "the refresh token was revoked"
            if self.history.is_spent(claims):
                reason = "the refresh token was already used (the rotation allows no reuse now)"
            return failure(rotation.status, reason, code=rotation.code, attribute="refresh_token")
        raise self._refusal(body)

    def _create_guest_token(self, call: Call) -> Reply:
        self._check_project(call)
        body = self._validator(call)
        addresses = body.addresses("allowed_addresses", self._addresses)
        expires_at = body.future("expire_at", self._now())
        body.region("region")
        channel = body.region("ch")
        self._check(body)
        pair = self._issue_pair(holder="guest", expires_at=expires_at, addresses=addresses, channel=channel)
        return Reply(201, pair)

    def _create_invite_token(self, call: Call) -> Reply:
        claims = self._check_subscriber(call)
        self.holders.check_binding(claims, None)
        body = self._validator(call)
        address = body.address("address_id", self._addresses)
        expires_at = body.future("expires_at", self._now())
        self._check(body)
        now = self._now()
        invite = self._claims(
            kind="SAT",
            holder="invite",
            expires_at=expires_at or now + self._lifetimes.access.total_seconds(),
            subscriber_id=claims.subscriber_id,
            addresses=(address or "",),
        )
        return Reply(201, {"token": self.sealer.seal(invite)})

    def _create_embed_token(self, call: Call) -> Reply:
        body = self._validator(call)
        token = body.required_string("token", "token is required")
        self._check(body)
        if token not in self.click_to_call:
            return failure(403)
        expires_at = self._now() + self._lifetimes.embed.total_seconds()
        return Reply(201, {"token": self.sealer.seal(self._claims(kind="SAT", holder="embed", expires_at=expires_at))})

    def _subscriber_info(self, call: Call) -> Reply:
        # A bound token needs no proof here, because this operation is where a browser learns that its token is bound.
        claims = self._check_subscriber(call)
        subscriber = next((one for one in self._subscribers.values() if one.id == claims.subscriber_id), None)
        if subscriber is None:  # the token is from another emulator with the same seed
            return failure(404)
        return Reply(
            200,
            {
                "id": subscriber.id,
                "email": subscriber.reference,
                **dict.fromkeys((*PROFILE_FIELDS, "region")),
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

    def describe_binding(self, claims: Claims) -> JsonObject:
        """Return the claim `cnf` (RFC 7800) with the key that a token is bound to, or nothing if it is unbound."""
        binding = self.holders.binding_of(claims)
        return {} if binding is None else {"cnf": {"jkt": binding}}

    def _create_device_token(self, call: Call) -> Reply:
        claims = self._check_subscriber(call)
        if claims.is_exchanged:
            raise AuthenticationError("the token is already bound: send it to devices/refresh")
        return self._exchange(call, claims)

    def _refresh_device_token(self, call: Call) -> Reply:
        claims = self._check_subscriber(call)
        if not claims.is_exchanged:
            raise AuthenticationError("the token isn't bound yet: exchange it at devices/token first")
        return self._exchange(call, claims)

    def _exchange(self, call: Call, claims: Claims) -> Reply:
        """Return the reply with a token that is bound to the key of the proof, in exchange for the call's token.

        The call's token stays valid until it expires. If it was issued unbound, this binds it, too.
        """
        body = self._validator(call)
        proof, seconds = body.required_string("dpop_token"), body.seconds("expire_in", DEVICE_LIFE)
        self._check(body)
        if REFRESHABLE not in claims.scope:
            raise AuthenticationError(f'the token lacks the scope {REFRESHABLE}: issue it with scope="{REFRESHABLE}"')
        # SignalWire's own browser SDK signs only the path. RFC 9449 wants the full URI.
        places = (call.path, f"{self.origin}{call.path}")
        thumbprint = self.holders.verify(
            proof,
            {"htm": call.method, "htu": places},
            token=(call.authorization or "").partition(" ")[2],
            must_name=claims.is_exchanged,
        )
        self.holders.check_binding(claims, thumbprint)
        bound = attrs.evolve(
            claims,
            id=str(uuid4()),
            issued_at=self._now(),
            expires_at=self._now() + seconds,
            fingerprint=thumbprint,
            is_exchanged=True,
        )
        answer = {"token": self.sealer.seal(bound), "expires_at": int(bound.expires_at), "expires_in": seconds}
        return Reply(201, answer)

    def _subscriber_addresses(self, call: Call) -> Reply:
        self._check_project(call)
        id_ = id_in_path(call, "subscriber_addresses")
        if not any(one.id == id_ for one in self._subscribers.values()):
            return failure(404)
        return self._page(call, [address for owner, address in self._addresses.values() if owner == id_], id_)

    def _reachable_addresses(self, call: Call) -> Reply:
        claims = self._check_holder(call)
        return self._page(call, list(self._reachable(claims).values()), claims.subscriber_id or claims.family)

    def _address(self, call: Call) -> Reply:
        address = self._reachable(self._check_holder(call)).get(id_in_path(call, "address"))
        return failure(404) if address is None else Reply(200, address)

    def _check_holder(self, call: Call) -> Claims:
        """Return the claims of the call's access token, of any holder, or raise an `AuthenticationError`."""
        claims = self._bearer(call)
        self.holders.check_binding(claims, None)
        return claims

    def _reachable(self, claims: Claims) -> dict[str, JsonObject]:
        """Return the addresses that a token's holder can call, by id.

        A subscriber can call all addresses of the project. Others can call those that their token names.
        """
        is_subscriber = claims.holder == "subscriber"
        return {
            id_: address for id_, (_, address) in self._addresses.items() if is_subscriber or id_ in claims.addresses
        }

    def _page(self, call: Call, addresses: list[JsonObject], reader: str) -> Reply:
        """Return the reply with one page of the addresses.

        A client can reach further pages only through links. Their `page_token` depends on the path, the page size and
        `reader`. Without the right one, a page number above 0 is a 404. So a client that counts pages by itself fails.
        """
        number = number_of(call, "page_number", 0, LARGEST_NUMBER, default=0)
        size = number_of(call, "page_size", 1, LARGEST_PAGE, default=self._page_size)
        token = f"PA{uuid5(NAMESPACE_URL, f'{call.path} {reader} {size}')}"
        if call.query.get("page_token", token) != token or (number > 0 and "page_token" not in call.query):
            return failure(404, "page_token is missing or belongs to another list: follow links.next")
        first = f"{self.origin}{call.path}?page_number=0&page_size={size}"
        start, base = number * size, f"{self.origin}{call.path}?page_size={size}&page_token={token}&page_number="
        links = {"self": f"{base}{number}" if number else first, "first": first}
        if start + size < len(addresses):
            links["next"] = f"{base}{number + 1}"
        if number:
            links["prev"] = f"{base}{number - 1}"
        return Reply(200, {"data": addresses[start : start + size], "links": links})

    def _check_project(self, call: Call) -> None:
        """Raise a `RequestRefusedError` (401) unless Basic authentication has the project's id and API token."""
        kind, _, value = (call.authorization or "").partition(" ")
        try:
            given = b64decode(value, validate=True) if kind.lower() == "basic" else b""
        except ValueError:
            given = b""
        if not hmac.compare_digest(given, f"{self.project_id}:{self.api_token}".encode()):
            raise RequestRefusedError(failure(401))

    def _check_subscriber(self, call: Call) -> Claims:
        """Return the claims of the access token that the call has as Bearer authentication.

        Raise an `AuthenticationError` if it isn't valid, and a `RequestRefusedError` (403) if its holder isn't a
        subscriber.
        """
        claims = self._bearer(call)
        if claims.holder != "subscriber":
            raise RequestRefusedError(failure(403))
        return claims

    def _bearer(self, call: Call) -> Claims:
        """Return the claims of the access token that the call has as Bearer authentication, as `authenticate` does."""
        kind, _, value = (call.authorization or "").partition(" ")
        return self.authenticate(value if kind.lower() == "bearer" else None)

    def _validator(self, call: Call) -> Validator:
        """Return a validator for the call's body, or raise a `RequestRefusedError` (400) if it isn't JSON.

        A body that isn't declared to be JSON isn't read. It counts as empty, so the answer lists the required members.
        """
        if not is_json(call.content_type):
            return Validator(None)
        try:
            return Validator(read_json(call.body), strict=self.strict)
        except ValueError as error:
            raise RequestRefusedError(
                failure(400, f"the body isn't valid JSON (RFC 8259): {fault_of_json(error)}")
            ) from None

    def _check(self, body: Validator) -> None:
        """Raise a `RequestRefusedError` if the body has problems.

        Handlers call this after they have read all members.
        """
        body.check_names()
        if body.problems:
            raise self._refusal(body)

    def _refusal(self, body: Validator) -> RequestRefusedError:
        """Return the error that answers with all problems of a body. The first one decides the status."""
        status = self._statuses.get(body.problems[0]["code"], UNPROCESSABLE)
        return RequestRefusedError(Reply(status, {"errors": body.problems}))

    def _subscriber(self, reference: str) -> Subscriber:
        """Return the subscriber with a reference, created with one address if the reference is new.

        The id depends on the project and the reference only. So emulators with the same seed give a subscriber the same
        id.
        """
        if reference not in self._subscribers:
            name = f"{self.project_id} {reference}".encode(errors="backslashreplace").decode()
            subscriber = Subscriber(id=str(uuid5(NAMESPACE_URL, name)), reference=reference)
            self._subscribers[reference] = subscriber
            name = re.sub(r"[^a-z0-9]+", "-", reference.lower()).strip("-") or "subscriber"
            self.add_address(name, subscriber_id=subscriber.id)
        return self._subscribers[reference]

    def _claims(self, *, kind: str, holder: str, expires_at: float, **more: Any) -> Claims:  # noqa: ANN401 - of Claims
        fields = {"family": str(uuid4()), **more}
        return Claims(id=str(uuid4()), kind=kind, holder=holder, issued_at=self._now(), expires_at=expires_at, **fields)

    def _issue_pair(self, *, holder: str, expires_at: float | None = None, **more: Any) -> dict[str, str]:  # noqa: ANN401
        """Return the tokens of a new pair as members of an answer. `more` has further claims for both of them.

        The pair is an issue and begins a new family, unless `more` has a `family`. Then it is a refresh within it.

        | pair | access token expires |
        | --- | --- |
        | scope `sat:refresh`, and no fingerprint | after `Lifetimes.unbound`. A requested time is ignored |
        | any other, with a requested time | at that time |
        | any other | after `Lifetimes.access` |

        The refresh token expires later than its access token, by the difference of the two lifetimes.
        """
        lifetimes = self._lifetimes
        if more.get("scope") and more.get("fingerprint") is None:
            expires_at = self._now() + lifetimes.unbound.total_seconds()
        elif expires_at is None:
            expires_at = self._now() + lifetimes.access.total_seconds()
        margin = (lifetimes.refresh - lifetimes.access).total_seconds()
        access = self._claims(kind="SAT", holder=holder, expires_at=expires_at, **more)
        refresh = self._claims(
            kind="Refresh", holder=holder, expires_at=expires_at + margin, **{**more, "family": access.family}
        )
        self.history.note_pair(access, is_issued="family" not in more)
        return {"token": self.sealer.seal(access), "refresh_token": self.sealer.seal(refresh)}

    def _rotate(self, claims: Claims) -> dict[str, str]:
        """Return the pair that follows a refresh token's own in its line.

        The new pair has the full lifetimes, even if the issue asked for a certain expiry time.
        """
        return self._issue_pair(
            holder=claims.holder,
            subscriber_id=claims.subscriber_id,
            application_id=claims.application_id,
            fingerprint=claims.fingerprint,
            scope=claims.scope,
            addresses=claims.addresses,
            channel=claims.channel,
            family=claims.family,
        )


def is_json(content_type: str) -> bool:
    """Return whether a `Content-Type` is JSON, with no charset or with UTF-8."""
    kind, _, parameters = content_type.lower().partition(";")
    return kind.strip() == "application/json" and set(CHARSET.findall(parameters)) <= {"utf-8"}


def id_in_path(call: Call, operation: str) -> str:
    """Return the id in the path of a call to an operation, in lower case."""
    match = OPERATIONS[operation][1].fullmatch(call.path)
    return match["id"].lower() if match else ""


def number_of(call: Call, name: str, least: int, most: int, *, default: int) -> int:
    """Return a number from the query, or the default if it is absent.

    Raise a `RequestRefusedError` (400) if it isn't a whole number from `least` to `most`.
    """
    text = call.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise RequestRefusedError(failure(400, f"{name} must be a whole number from {least} to {most}"))
    return int(text)
