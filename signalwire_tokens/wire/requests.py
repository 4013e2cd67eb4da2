"""A function for each of SignalWire's operations, which returns a `Request` or raises `InvalidRequest`.

A `Request` holds what to send, with which authentication, and how to read the answer. The functions raise
`InvalidRequest` with all problems at once. `now` is always the time from which a timedelta counts, in unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, cast

from signalwire_tokens.durations import span_of
from signalwire_tokens.models import Address, SubscriberInfo, Token, TokenPair
from signalwire_tokens.secret import Secret

from . import checks
from .exchange import SPACE_SETTING, Answer, Auth, Request
from .readers import Page, read_address, read_bound, read_info, read_page, read_pair, read_token

if TYPE_CHECKING:
    from uuid import UUID

    from signalwire_tokens.durations import Duration
    from signalwire_tokens.errors import Problem

__all__ = [
    "DEVICE_EXCHANGE",
    "DEVICE_REFRESH",
    "TokenFields",
    "When",
    "address",
    "addresses",
    "create_device_token",
    "create_embed_token",
    "create_guest_token",
    "create_invite_token",
    "create_subscriber_token",
    "mask",
    "refresh_device_token",
    "refresh_subscriber_token",
    "subscriber_addresses",
    "subscriber_info",
    "with_secrets_hidden",
]

T = TypeVar("T")

When: TypeAlias = int | float | datetime | timedelta
NO_SECRET = Secret[Any](None)
NO_FIELDS: Mapping[str, Any] = {}
DEVICE_EXCHANGE = "/api/fabric/subscriber/devices/token"
DEVICE_REFRESH = "/api/fabric/subscriber/devices/refresh"
ADDRESSES = "/api/fabric/addresses"
Extra: TypeAlias = Secret[Mapping[str, object] | None]


class TokenFields(TypedDict, total=False):
    """The fields of `TokenClient.create_subscriber_token` that a session accepts as well.

    A field that is left out, or None, isn't sent.
    """

    application_id: UUID | str | None
    password: str | None
    first_name: str | None
    last_name: str | None
    display_name: str | None
    job_title: str | None
    time_zone: str | None
    country: str | None
    region: str | None
    company_name: str | None
    fingerprint: str | None
    scope: str | None
    extra: Mapping[str, object] | None


NAMES = tuple(name for name in TokenFields.__annotations__ if name != "extra")


def with_secrets_hidden(token_fields: TokenFields, taker: str) -> Mapping[str, Any]:
    """Return the fields, with `password` and `extra` wrapped in a `Secret`.

    Raise `TypeError` for an unknown field, as Python does for an unknown keyword argument of `taker`.
    """
    if not token_fields:
        return NO_FIELDS
    if unknown := token_fields.keys() - TokenFields.__annotations__.keys():
        name = min(unknown)
        token_fields.clear()  # type: ignore[attr-defined]  # no frame may hold a password; it is a dict
        raise TypeError(f"{taker} got an unexpected keyword argument {name!r}")
    return {
        name: Secret(value) if name in ("password", "extra") and not isinstance(value, Secret) else value
        for name, value in token_fields.items()
    }


def mask(token: str | Token) -> Secret[str] | Token:
    """Return a string wrapped in a `Secret`, or a `Token` as it is. Both hide their value from tracebacks."""
    return token if isinstance(token, Token) else Secret(token)


def create_subscriber_token(
    reference: str,
    *,
    now: float,
    expire_at: When | None = None,
    password: Secret[str | None] = NO_SECRET,
    extra: Extra = NO_SECRET,
    **others: UUID | str | None,
) -> Request[TokenPair]:
    """Return the request that issues a subscriber's pair. `others` are the other fields of `TokenFields`."""
    if unknown := others.keys() - NAMES:
        raise TypeError(f"create_subscriber_token got an unexpected keyword argument {min(unknown)!r}")
    problems: list[Problem] = []
    until = checks.moment(problems, "expire_at", expire_at, now)
    checks.text(problems, "password", password.value)
    is_unbound = others.get("scope") is not None and others.get("fingerprint") is None
    return make_request(
        "create_subscriber_token",
        "/api/fabric/subscribers/tokens",
        partial(read_pair, until=until, unbound=is_unbound) if until is not None or is_unbound else read_pair,
        problems,
        fields={
            "reference": checks.text(problems, "reference", reference, required=True),
            "expire_at": until,
            **checks.given(problems, others),
        },
        hidden=NO_FIELDS if password.value is None else {"password": password},
        known=NAMES,
        extra=extra,
    )


def refresh_subscriber_token(refresh_token: Secret[str] | Token) -> Request[TokenPair]:
    """Return the request that exchanges a refresh token for a new pair.

    A refresh token can be used once. So the request isn't repeated while it is unknown whether SignalWire received it.
    """
    problems: list[Problem] = []
    checks.token(problems, "refresh_token", refresh_token, kind="Refresh")
    span = refresh_token.expires_at - refresh_token.issued_at if isinstance(refresh_token, Token) else None
    return make_request(
        "refresh_subscriber_token",
        "/api/fabric/subscribers/tokens/refresh",
        partial(read_pair, span=span),
        problems,
        hidden={"refresh_token": refresh_token},
        replayable=False,
        presents_token=True,
    )


def create_guest_token(
    allowed_addresses: object,
    *,
    now: float,
    expire_at: When | None = None,
    region: str | None = None,
    ch: str | None = None,
    extra: Extra = NO_SECRET,
) -> Request[TokenPair]:
    """Return the request that issues a guest's pair, for the addresses that the guest may call."""
    problems: list[Problem] = []
    until = checks.moment(problems, "expire_at", expire_at, now)
    return make_request(
        "create_guest_token",
        "/api/fabric/guests/tokens",
        partial(read_pair, until=until),
        problems,
        fields={
            "allowed_addresses": checks.address_ids(problems, "allowed_addresses", allowed_addresses),
            "expire_at": until,
            "region": checks.text(problems, "region", region),
            "ch": checks.text(problems, "ch", ch),
        },
        extra=extra,
    )


def create_invite_token(
    address_id: UUID | str,
    *,
    subscriber_token: Secret[str] | Token,
    now: float,
    expires_at: When | None = None,
    extra: Extra = NO_SECRET,
) -> Request[Token]:
    """Return the request that issues an invite to an address, in the name of a subscriber."""
    problems: list[Problem] = []
    until = checks.moment(problems, "expires_at", expires_at, now)
    checks.token(problems, "subscriber_token", subscriber_token, kind="SAT")
    return make_request(
        "create_invite_token",
        "/api/fabric/subscriber/invites",
        partial(read_token, until=until),
        problems,
        fields={"address_id": checks.uuid(problems, "address_id", address_id), "expires_at": until},
        extra=extra,
        auth=Auth.SUBSCRIBER,
        bearer=subscriber_token,
    )


def create_embed_token(token: Secret[str] | Token) -> Request[Token]:
    """Return the request that exchanges a click-to-call token, which is public, for a guest's token."""
    problems: list[Problem] = []
    checks.token(problems, "token", token, kind=None)
    return make_request(
        "create_embed_token",
        "/api/fabric/embeds/tokens",
        partial(read_token, embed=True),
        problems,
        hidden={"token": token},
        auth=Auth.NONE,
        for_embeds=True,
        presents_token=True,
        address_setting=f"embed_origin, or without it {SPACE_SETTING}",
    )


def create_device_token(
    subscriber_token: Secret[str] | Token, *, proof: Secret[str], lifetime: Duration
) -> Request[TokenPair]:
    """Return the request that exchanges a subscriber's token for one that is bound to the key that signed `proof`."""
    return describe_exchange("create_device_token", DEVICE_EXCHANGE, subscriber_token, proof, lifetime)


def refresh_device_token(token: Secret[str] | Token, *, proof: Secret[str], lifetime: Duration) -> Request[TokenPair]:
    """Return the request that exchanges a bound token for the next one."""
    return describe_exchange("refresh_device_token", DEVICE_REFRESH, token, proof, lifetime)


def describe_exchange(
    operation: str, path: str, token: Secret[str] | Token, proof: Secret[str], lifetime: Duration
) -> Request[TokenPair]:
    """Return a request that carries a proof of possession.

    A proof can be used once, so the request isn't repeated while it is unknown whether SignalWire received it.
    """
    problems: list[Problem] = []
    checks.token(problems, "token", token, kind="SAT")
    seconds = checks.whole_seconds(problems, "lifetime", lifetime)
    return make_request(
        operation,
        path,
        partial(read_bound, lifetime=span_of(lifetime)),
        problems,
        fields={"expire_in": seconds},
        hidden={"dpop_token": proof},
        auth=Auth.SUBSCRIBER,
        bearer=token,
        replayable=False,
    )


def subscriber_info(subscriber_token: Secret[str] | Token) -> Request[SubscriberInfo]:
    """Return the request that looks up the subscriber of an access token."""
    problems: list[Problem] = []
    checks.token(problems, "subscriber_token", subscriber_token, kind="SAT")
    return make_lookup("subscriber_info", "/api/fabric/subscriber/info", read_info, problems, bearer=subscriber_token)


def subscriber_addresses(subscriber_id: UUID | str, *, origin: str) -> Request[Page]:
    """Return the request for the first page of a subscriber's addresses.

    Its answer links to the next page. A link to another origin than `origin` is an error, because the API token would
    be sent there.
    """
    problems: list[Problem] = []
    path = f"/api/fabric/resources/subscribers/{checks.uuid(problems, 'subscriber_id', subscriber_id)}/addresses"
    return make_lookup("subscriber_addresses", path, partial(read_page, url=f"{origin}{path}"), problems)


def addresses(access_token: Secret[str] | Token, *, origin: str) -> Request[Page]:
    """Return the request for the first page of the addresses that a token's holder can call.

    `origin` is as for `subscriber_addresses`. Here, a link elsewhere would reveal the access token.
    """
    problems: list[Problem] = []
    checks.token(problems, "access_token", access_token, kind="SAT")
    read = partial(read_page, url=f"{origin}{ADDRESSES}")
    return make_lookup("addresses", ADDRESSES, read, problems, bearer=access_token)


def address(address_id: UUID | str, *, access_token: Secret[str] | Token) -> Request[Address]:
    """Return the request that looks up one address that a token's holder can call."""
    problems: list[Problem] = []
    path = f"{ADDRESSES}/{checks.uuid(problems, 'address_id', address_id)}"
    checks.token(problems, "access_token", access_token, kind="SAT")
    return make_lookup("address", path, read_address, problems, bearer=access_token)


def make_lookup(
    operation: str,
    path: str,
    read: Callable[[Answer], T],
    problems: list[Problem],
    *,
    bearer: Secret[str] | Token | None = None,
) -> Request[T]:
    """Return a GET request, or raise `InvalidRequest` with all `problems`.

    It carries the access token `bearer`, or the project's credentials if that is None.
    """
    checks.raise_if_any(operation, problems)
    return Request(
        operation=operation,
        method="GET",
        path=path,
        auth=Auth.PROJECT if bearer is None else Auth.SUBSCRIBER,
        read=read,
        bearer=bearer,
        secrets=() if bearer is None else (bearer,),
    )


def make_request(
    operation: str,
    path: str,
    read: Callable[[Answer], T],
    problems: list[Problem],
    *,
    fields: Mapping[str, object] = NO_FIELDS,
    hidden: Mapping[str, Secret[Any] | Token] = NO_FIELDS,
    known: Iterable[str] = (),
    extra: Extra = NO_SECRET,
    auth: Auth = Auth.PROJECT,
    bearer: Secret[str] | Token | None = None,
    for_embeds: bool = False,
    replayable: bool = True,
    presents_token: bool = False,
    address_setting: str = SPACE_SETTING,
) -> Request[T]:
    """Return a POST request, or raise `InvalidRequest` with all `problems`.

    The body consists of `fields`, `hidden` and `extra`, without values that are None. `hidden` and `extra` may hold
    secrets. A name in `fields`, `hidden` or `known` is an argument, so it must not be in `extra`. `known` has the names
    that the others lack if the caller gives no value for them.
    """
    if extra.value is not None:
        checks.extra_fields(problems, extra, known=(*fields, *hidden, *known))
    checks.raise_if_any(operation, problems)
    secrets = (*hidden.values(), *(() if bearer is None else (bearer,)))
    if extra.value is not None:
        secrets += tuple(strings_in(extra.value))
    return Request(
        operation=operation,
        method="POST",
        path=path,
        auth=auth,
        read=read,
        bearer=bearer,
        body=checks.encode_json(
            {name: value for name, value in fields.items() if value is not None}
            | {name: secret.value for name, secret in hidden.items()}
            | {name: value for name, value in (extra.value or NO_FIELDS).items() if value is not None}
        ),
        secrets=secrets,
        for_embeds=for_embeds,
        replayable=replayable,
        presents_token=presents_token,
        address_setting=address_setting,
    )


def strings_in(value: object) -> Iterator[Secret[str]]:
    """Yield every string in a value, at any depth. Each may be a secret, so no error text may repeat it."""
    if isinstance(value, str):
        yield Secret(value)
    elif isinstance(value, Mapping):
        for item in cast("Mapping[object, object]", value).values():
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            yield from strings_in(item)
