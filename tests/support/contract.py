"""Check what every emulator in a test accepts and answers against docs/reference/openapi.yaml.

A breach fails the running test, whatever called the emulator. A message names the member and the rule, never a value:
that may be a secret. A test that breaks the contract on purpose has the mark `breaks_contract`, with its reason. If a
test sets other statuses or codes for refusals, an emulator may use them.
"""

import json
from functools import wraps

import pytest

from signalwire_tokens.emulator import Emulator
from signalwire_tokens.emulator.calls import operation_of
from signalwire_tokens.emulator.rotation import Rotation
from signalwire_tokens.emulator.service import Service
from support.openapi import parameters_of, parameters_validator, reply_validator, request_validator

BAD_REQUEST = 400
DEFAULTS = {**Emulator.__init__.__kwdefaults__}


def deviates(service):
    """Return whether other statuses or codes of refusals were set for an emulator, as some space may have them."""
    rotation, usual = service.history.rotation, Rotation()
    return bool(service._statuses) or (rotation.status, rotation.code) != (usual.status, usual.code)


def find_breaches(call, reply, *, strict):
    """Return how a call and its reply break the description. If not strict, an emulator may accept any request."""
    operation = operation_of(call.method, call.path)
    name = operation or "no operation"
    validator = reply_validator(operation, reply.status)
    if validator is None:
        return [f"{name}: a reply has the status {reply.status}, which isn't described"]
    breaches = broken_rules(f"{name}: a reply with status {reply.status}", validator, reply.body)
    if strict and reply.status < BAD_REQUEST:
        parts = [(parameters_validator(operation), parameters_of(operation, call.path, call.query))]
        if (validator := request_validator(operation)) is not None:
            parts.append((validator, json.loads(call.body)))
        for validator, value in parts:
            breaches += broken_rules(f"{name}: a request that was accepted", validator, value)
    return breaches


def broken_rules(what, validator, value):
    """Return the rules that a value breaks."""
    try:
        if validator.is_valid(value):
            return []
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can carry and UTF-8 can't
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return [f"{what} {describe(error)}" for error in validator.iter_errors(value)]


def describe(error):
    """Return which rule is broken, and where, by names of members and without values."""
    place = ".".join(map(str, error.instance_path)) or "the whole"
    rule, facts = error.kind.name, error.kind.as_dict()
    if rule == "additionalProperties":
        return f"has members in {place} that aren't described: {', '.join(sorted(facts['unexpected']))}"
    if rule == "required":
        return f"lacks {facts['property']} in {place}"
    return f"breaks the rule {rule} of {place}"


class ContractCheck:
    """The plugin of pytest."""

    def __init__(self):
        self.breaches = []

    def install(self):
        """Check each call from now on, and make emulators strict unless a test wants another."""
        Emulator.__init__.__kwdefaults__["strict"] = True
        handle = Service.handle

        @wraps(handle)
        def checked(service, call):
            reply = handle(service, call)
            if reply.status < BAD_REQUEST or not deviates(service):
                self.breaches += find_breaches(call, reply, strict=service.strict)
            return reply

        Service.handle = checked

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        return (yield from self.watch(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        return (yield from self.watch(item, is_call=True))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item):
        return (yield from self.watch(item))

    def watch(self, item, *, is_call=False):
        """Fail a part of a test in which the contract was broken. If it fails by itself, add the breaches as a note."""
        try:
            result = yield
        except BaseException as error:
            if message := self.take():
                error.add_note(message)
            raise
        message = self.take()
        if item.get_closest_marker("breaks_contract") is None:
            if message:
                pytest.fail(message, pytrace=False)
        elif is_call and not message:
            pytest.fail("the test doesn't break the contract: remove its mark", pytrace=False)
        return result

    def take(self):
        """Return the breaches since the last call as a text, each once, or an empty text."""
        breaches, self.breaches = self.breaches, []
        if not breaches:
            return ""
        return "\n".join(["docs/reference/openapi.yaml was broken:", *sorted(set(breaches))])
