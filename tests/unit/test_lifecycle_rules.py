"""Each rule of a token's record, in the words of `Lifecycle`, by an example."""

import math
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

import attrs
import pytest

from signalwire_tokens import ApiError, Problem, RefreshPolicy, SessionState, SignalWireTokenError, UnexpectedResponse
from signalwire_tokens.lifecycle import Adopted, Emit, Failed, Lifecycle, Phase, Warn
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.outcomes import (
    Ambiguous,
    Denied,
    Expire,
    IssueNew,
    Look,
    NotSent,
    NotYet,
    Renewed,
    Spent,
    UseRefreshToken,
)

LIFE, WINDOW, NOW = 7200.0, 300.0, 100_000.0
POLICY = RefreshPolicy()
NUMBERS = count(1)
EPOCH = datetime.fromtimestamp(0, UTC)
ERROR, LATER_ERROR = SignalWireTokenError("because"), SignalWireTokenError("because of that")
ALICE, BOB = UUID(int=1), UUID(int=2)
REFRESH, ISSUE, LOOK = UseRefreshToken(NOW), IssueNew(NOW), Look(NOW)


def make_pair(lifetime=LIFE, *, subscriber_id=None, issued_at=EPOCH):
    number = next(NUMBERS)
    access, refresh = (
        Token(value=f"{kind}-{number}", issued_at=issued_at, expires_at=issued_at + timedelta(seconds=seconds))
        for kind, seconds in (("SAT", lifetime), ("Refresh", lifetime + WINDOW))
    )
    return TokenPair(access_token=access, refresh_token=refresh, subscriber_id=subscriber_id)


def make(pair=None, *, asked=NOW, **settings):
    """Return the record of an open session, with a pair that it requested `asked`."""
    cycle = Lifecycle(POLICY, lifetime=LIFE, draw=0.5, **settings)
    if pair is None:
        cycle.open(NOW)
    else:
        cycle.open(NOW, Renewed(pair, asked))
    return cycle


def land(cycle, outcome, step=REFRESH, *, now=NOW, draw=0.5):
    """Run a step, and return its effects."""
    cycle.begin(step)
    return [*cycle.land(step, outcome, now, draw)]


def events(effects):
    return [one.kind for one in effects if isinstance(one, Emit)]


def warnings(effects):
    return [one.what for one in effects if isinstance(one, Warn)]


# The record, as it begins.


def test_a_session_that_was_never_opened_is_closed_and_has_nothing():
    """It has no token, no plan and no failure."""
    cycle = Lifecycle(POLICY, lifetime=LIFE, draw=0.5)
    assert cycle.phase is Phase.NEW
    assert cycle.state(NOW) is SessionState.CLOSED
    assert not cycle.is_at_rest
    assert (cycle.value, cycle.pair, cycle.generation, cycle.earlier) == ("", None, 0, ())
    assert (cycle.failing, cycle.failure, cycle.last_error, cycle.under_way) == (None, None, None, None)
    never = (cycle.fresh_until, cycle.asked, cycle.due, cycle.access_until, cycle.refresh_until, cycle.tried_at)
    assert {*never, cycle.forced_at, cycle.not_before} == {-math.inf}
    assert (cycle.awaited, cycle.demanded) == (math.inf, math.inf)
    assert cycle.left(NOW) == -math.inf
    assert (cycle.can_refresh, cycle.can_issue) == (False, True)


def test_a_record_is_equal_to_itself_alone():
    """It isn't a value: two sessions may have the same times."""
    cycle = Lifecycle(POLICY, lifetime=LIFE, draw=0.5)
    assert cycle == cycle  # noqa: PLR0124 - that is the rule
    assert cycle != Lifecycle(POLICY, lifetime=LIFE, draw=0.5)


def test_a_record_shows_neither_its_token_nor_its_other_fields():
    """Pretty tracebacks print the fields of attrs classes that have a repr."""
    assert not attrs.fields(Lifecycle).value.repr
    assert "lifetime" not in repr(make(make_pair()))


def test_the_lifetime_and_the_draw_of_a_record_are_passed_by_name():
    """Both are mere numbers."""
    for named in ({"draw": 0.5}, {"lifetime": LIFE}):
        with pytest.raises(TypeError):
            Lifecycle(POLICY, 0.5, **named)


@pytest.mark.parametrize("reissues", [True, False])
def test_a_session_without_a_pair_issues_one_at_once(reissues):
    """A session issues its first pair even if it may issue no later one."""
    cycle = make(reissues=reissues)
    assert cycle.state(NOW) is SessionState.UNAVAILABLE
    assert cycle.is_at_rest
    assert cycle.way(NOW) == IssueNew(NOW)
    assert (cycle.due, cycle.generation, cycle.phase) == (NOW, 0, Phase.OPEN)


def test_a_pair_from_elsewhere_becomes_the_current_one():
    """Its lifetimes count from when it was requested."""
    pair = make_pair(3600.0)
    cycle = make(pair, asked=NOW - 100)
    assert (cycle.pair, cycle.value, cycle.generation) == (pair, pair.access_token.value, 1)
    assert (cycle.asked, cycle.lifetime, cycle.left(NOW)) == (NOW - 100, 3600, 3500)
    assert (cycle.access_until, cycle.refresh_until) == (NOW - 100 + 3600, NOW - 100 + 3600 + WINDOW)
    assert cycle.due == NOW - 100 + 3600 * 0.7
    assert cycle.state(NOW) is SessionState.FRESH
    assert cycle.way(NOW) == UseRefreshToken(NOW)


# What the settings allow.


@pytest.mark.parametrize("presents", [True, False])
@pytest.mark.parametrize("reissues", [True, False])
def test_a_pair_opens_the_ways_that_the_settings_allow(presents, reissues):
    """A session with none of them serves the token until it expires."""
    cycle = make(make_pair(), presents=presents, reissues=reissues)
    assert (cycle.can_refresh, cycle.can_issue) == (presents, reissues)
    if not presents:
        assert cycle.way(NOW) == (IssueNew(NOW) if reissues else Expire(NOW + LIFE))


def test_a_session_renews_in_both_ways_by_default():
    """It keeps tokens of SignalWire's, and no source of your own."""
    cycle = Lifecycle(POLICY, lifetime=LIFE, draw=0.5)
    assert (cycle.presents, cycle.reissues, cycle.usual_lifetime) == (True, True, 0)


@pytest.mark.parametrize(
    ("usual_lifetime", "is_lone", "presents", "can_present"),
    [
        (0.0, False, True, True),
        (0.0, True, True, True),  # a device's bound token refreshes itself
        (3600.0, False, True, True),
        (3600.0, True, True, False),  # from `Renewed.valid_for`, without a refresh token
        (0.0, False, False, False),
        (3600.0, False, False, False),
    ],
)
def test_a_token_without_a_refresh_token_is_not_presented(usual_lifetime, is_lone, presents, can_present):
    """Only a source of your own returns such a token."""
    cycle = make(presents=presents, usual_lifetime=usual_lifetime)
    pair = make_pair()
    assert cycle.can_present(attrs.evolve(pair, refresh_token=pair.access_token) if is_lone else pair) is can_present


@pytest.mark.parametrize(
    ("usual_lifetime", "lifetime", "is_kept"), [(0.0, 15.0, True), (0.0, 14.9, False), (0.5, 0.0, True)]
)
def test_a_source_of_your_own_may_return_tokens_of_any_lifetime(usual_lifetime, lifetime, is_kept):
    """From SignalWire, a session wants half of the policy's minimum."""
    assert make(usual_lifetime=usual_lifetime).keeps(lifetime) is is_kept


@pytest.mark.parametrize(("usual_lifetime", "longest"), [(0.0, 1440.0), (3600.0, 1440.0), (36000.0, 7200.0)])
def test_callers_can_ask_for_a_fifth_of_the_usual_lifetime(usual_lifetime, longest):
    """A token that happens to be short-lived doesn't make their calls an error."""
    assert make(make_pair(), usual_lifetime=usual_lifetime).longest_ttl == longest


# Phases.


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        (Phase.OPEN, SessionState.FRESH),
        (Phase.EXPIRED, SessionState.EXPIRED),
        (Phase.SHUT, SessionState.CLOSED),
        (Phase.ENDING, SessionState.CLOSED),
        (Phase.CLOSED, SessionState.CLOSED),
    ],
)
def test_callers_see_the_phase(phase, state):
    """While the session is open, they see how its token is."""
    cycle = make(make_pair())
    cycle.advance(phase)
    assert (cycle.phase, cycle.state(NOW)) == (phase, state)
    assert cycle.is_at_rest is (phase is Phase.OPEN)


def test_a_session_never_goes_back_to_an_earlier_phase():
    """A session that is shut doesn't expire."""
    cycle = make()
    cycle.advance(Phase.SHUT)
    cycle.advance(Phase.EXPIRED)
    assert cycle.phase is Phase.SHUT


def test_the_phases_are_in_order():
    """The engine compares them."""
    assert [*Phase] == sorted(Phase)
    assert [phase.name for phase in Phase] == ["NEW", "OPEN", "EXPIRED", "SHUT", "ENDING", "CLOSED"]


# What callers want.


def test_the_first_caller_that_waits_counts():
    """A later one brings the attempt forward no further."""
    cycle = make()
    assert cycle.caller_waits(NOW)
    assert not cycle.caller_waits(NOW + 5)
    assert cycle.awaited == NOW


@pytest.mark.parametrize(("is_forced", "not_before"), [(False, NOW + 50), (True, -math.inf)])
def test_a_demand_overrides_the_plan(is_forced, not_before):
    """It keeps the interval between forced renewals, unless a fleet forces it."""
    cycle = make(make_pair())
    cycle.not_before = NOW + 50
    cycle.demand(NOW, is_forced=is_forced)
    assert (cycle.demanded, cycle.not_before) == (NOW, not_before)
    cycle.not_before = NOW + 50
    cycle.demand(NOW + 1)
    assert (cycle.demanded, cycle.not_before) == (NOW + 1, NOW + 50)


def test_a_renewal_serves_all_callers_that_wait():
    """A look into the store doesn't, since it may find nothing."""
    cycle = make()
    cycle.caller_waits(NOW)
    cycle.demand(NOW)
    cycle.begin(LOOK)
    assert (cycle.under_way, cycle.awaited, cycle.demanded) == (LOOK, NOW, NOW)
    cycle.begin(REFRESH)
    assert (cycle.under_way, cycle.awaited, cycle.demanded) == (REFRESH, math.inf, math.inf)


def test_a_new_pair_serves_the_callers_that_came_while_it_was_requested():
    """It also lifts the limit on forced renewals."""
    cycle = make(make_pair())
    cycle.begin(REFRESH)
    cycle.caller_waits(NOW)
    cycle.demand(NOW)
    cycle.not_before = NOW + 50
    cycle.land(REFRESH, Renewed(make_pair(), NOW), NOW, 0.5)
    assert (cycle.awaited, cycle.demanded, cycle.not_before) == (math.inf, math.inf, -math.inf)


@pytest.mark.parametrize(("until", "fresh_until"), [(NOW + 10, NOW + 10), (NOW + LIFE, NOW + LIFE * 0.7)])
def test_a_checked_token_is_returned_unchecked_until_it_is_due(until, fresh_until):
    """Or for less long, if the check doesn't hold for that long."""
    cycle = make(make_pair())
    cycle.check_until(until)
    assert cycle.fresh_until == fresh_until


@pytest.mark.parametrize("pair", [make_pair(), make_pair(10.0)])
def test_a_new_pair_is_checked_before_it_is_returned(pair):
    """Even if the check of the one before it still held."""
    cycle = make(make_pair())
    cycle.check_until(NOW + 10)
    land(cycle, Renewed(pair, NOW))
    assert cycle.fresh_until == -math.inf


# Refused tokens.


def test_refusals_force_at_most_one_renewal_in_an_interval():
    """The first counts at once, and one that comes too early at the end of the interval."""
    cycle = make(make_pair())
    steps = []
    for after in (0, 10, 130):
        cycle.invalidate(NOW + after)
        steps.append((cycle.not_before - NOW, cycle.forced_at - NOW))
        assert (cycle.access_until, cycle.due, cycle.fresh_until) == (NOW + after, NOW + after, -math.inf)
    assert steps == [(-math.inf, 0), (60, 60), (120, 130)]


def test_a_renewal_can_be_forced_again_after_the_interval():
    """That is a minute after the last one began."""
    cycle = make(make_pair())
    assert cycle.may_force(NOW)
    cycle.invalidate(NOW)
    assert not cycle.may_force(NOW + 59.9)
    assert cycle.may_force(NOW + 60)


REFUSED_EARLY = (
    "the access token was refused 2 h before its calculated expiry. It was used or revoked elsewhere, or tokens "
    "have a shorter lifetime than assumed"
)


@pytest.mark.parametrize(
    ("left", "usual_lifetime", "warned"),
    [
        (LIFE, 0.0, [REFUSED_EARLY + ": see SIGNALWIRE_TOKENS_LIFETIME"]),
        (LIFE, LIFE, [REFUSED_EARLY]),  # that setting isn't for another source's tokens
        (30.0, 0.0, []),  # it was merely a little early
        (-10.0, 0.0, []),
    ],
)
def test_a_refusal_long_before_the_expiry_is_logged(left, usual_lifetime, warned):
    """The lifetime may be set wrong."""
    cycle = make(make_pair(), usual_lifetime=usual_lifetime)
    assert warnings(cycle.invalidate(NOW + LIFE - left)) == warned


@pytest.mark.parametrize(
    ("code", "step", "now", "is_logged"),
    [
        ("token_expired", REFRESH, NOW, True),
        ("token_expired", REFRESH, NOW + LIFE + WINDOW - 30, False),  # it was merely a little early
        ("token_expired", ISSUE, NOW, False),
        ("token_invalid", REFRESH, NOW, False),
    ],
)
def test_a_refresh_token_that_expires_early_is_logged(code, step, now, is_logged):
    """Only SignalWire's code shows that this is why it was refused."""
    errors = tuple(Problem(code=one, message="no") for one in ("token_invalid", code))
    error = ApiError("no", status=422, errors=errors)
    warned = warnings(land(make(make_pair()), Spent(error), step, now=now))
    assert [text.partition(" was refused")[0] for text in warned] == (["the refresh token"] if is_logged else [])


# Clock jumps.


@pytest.mark.parametrize(
    ("seconds", "due", "is_brought_forward", "becomes"),
    [
        (60.0, NOW + 1000, False, NOW + 1000),
        (60.1, NOW + 1000, True, NOW + 30),
        (3600.0, NOW + 10, True, NOW + 10),
        (-3600.0, NOW + 1000, False, NOW + 1000),
    ],
)
def test_a_jump_of_the_wall_clock_makes_a_token_due_soon(seconds, due, is_brought_forward, becomes):
    """The machine may have been paused, so that the token is older than it seems. A minute may be an adjustment."""
    cycle = make(make_pair())
    cycle.due = due
    assert cycle.clock_leaped(seconds, NOW) is is_brought_forward
    assert cycle.due == becomes


def test_a_jump_of_the_wall_clock_means_nothing_without_a_token():
    """The first issue is due anyway."""
    assert not make().clock_leaped(3600.0, NOW)


# New pairs.


def test_no_renewal_may_return_one_of_the_last_four_tokens():
    """Older ones are forgotten. (P10)"""
    pairs = [make_pair() for _ in range(6)]
    cycle = make(pairs[0])
    assert cycle.seen == (hash(pairs[0].access_token.value),)
    for pair in pairs[1:]:
        land(cycle, Renewed(pair, NOW))
    assert cycle.seen == tuple(hash(pair.access_token.value) for pair in pairs[2:])


@pytest.mark.parametrize(
    ("asked", "now", "stays"),
    [
        (NOW - 2.0, NOW, False),  # rounding explains that
        (NOW - 2.1, NOW, True),
        (NOW - 2.1, NOW + LIFE, False),  # the current token has expired
        (NOW - 2.1, NOW + LIFE - 1, True),
    ],
)
def test_of_two_access_tokens_the_one_that_expires_later_stays(asked, now, stays):
    """The refresh token is the new one in any case. (P6)"""
    current, pair = make_pair(), make_pair(issued_at=EPOCH + timedelta(days=1))
    cycle = make(current)
    land(cycle, Renewed(pair, asked), now=now)
    assert cycle.value == (current if stays else pair).access_token.value
    assert cycle.pair.refresh_token is pair.refresh_token
    assert cycle.asked == asked
    assert cycle.due == asked + LIFE * 0.7  # by then, the new pair's refresh token must be exchanged
    assert cycle.seen[0] == hash((pair if stays else current).access_token.value)
    assert cycle.seen[1] == hash(cycle.value)


def test_an_access_token_that_stays_keeps_its_expiry():
    """Its times in the pair count from when the new pair was issued."""
    current, pair = make_pair(), make_pair(60.0, issued_at=EPOCH + timedelta(days=1))
    cycle = make(current)
    land(cycle, Renewed(pair, NOW + 10), now=NOW + 20)
    token = cycle.pair.access_token
    assert (cycle.access_until, cycle.lifetime) == (NOW + LIFE, LIFE)
    assert token.issued_at == pair.access_token.issued_at
    assert token.expires_at - token.issued_at == timedelta(seconds=LIFE - 10)
    assert cycle.refresh_until == NOW + 10 + 60 + WINDOW


@pytest.mark.parametrize(
    ("had_pair", "now", "left"), [(False, NOW, None), (True, NOW + 7000, 200.0), (True, NOW + 8000, 0.0)]
)
def test_the_log_shows_how_long_the_token_before_was_still_valid(had_pair, now, left):
    """There is none before the first pair."""
    cycle = make(make_pair() if had_pair else None)
    renewed = Renewed(make_pair(), now)
    assert Adopted(renewed, left) in land(cycle, renewed, now=now)


@pytest.mark.parametrize(
    ("had_pair", "step", "emitted"),
    [(False, ISSUE, []), (True, ISSUE, ["reissued"]), (True, REFRESH, ["rotated"])],
)
def test_subscribers_learn_in_which_way_a_pair_was_renewed(had_pair, step, emitted):
    """The engine reports the first pair, when the session has started."""
    cycle = make(make_pair() if had_pair else None)
    assert events(land(cycle, Renewed(make_pair(), NOW), step)) == emitted


@pytest.mark.parametrize(
    ("before", "after", "is_changed"),
    [(ALICE, BOB, True), (ALICE, ALICE, False), (None, BOB, False), (ALICE, None, False), (None, None, False)],
)
def test_a_token_of_another_subscriber_is_reported(before, after, is_changed):
    """An answer may not name the subscriber, which means nothing."""
    cycle = make(make_pair(subscriber_id=before))
    effects = land(cycle, Renewed(make_pair(subscriber_id=after), NOW))
    warned = ["the new token belongs to another subscriber; was the subscriber created again?"]
    assert events(effects) == ["rotated", *(["subscriber_changed"] if is_changed else [])]
    assert warnings(effects) == (warned if is_changed else [])


def test_the_first_pair_has_no_subscriber_to_differ_from():
    """Its subscriber is simply the session's."""
    assert events(land(make(), Renewed(make_pair(subscriber_id=ALICE), NOW), ISSUE)) == []


# Tokens that are too short-lived.


def test_a_token_that_is_too_short_lived_is_adopted_and_counts_as_a_failure():
    """It is better than none, so it counts as adopted after the failure."""
    cycle = make()
    renewed = Renewed(make_pair(10.0), NOW)
    failed, degraded, *rest = land(cycle, renewed, ISSUE)
    assert (failed.is_news, degraded) == (True, Emit("degraded"))
    assert rest == [Adopted(renewed, None)]
    assert isinstance(failed.failure.error, UnexpectedResponse)
    assert str(failed.failure.error).startswith(
        "the new token is valid for only 10 s, less than the policy's minimum: check the lifetimes"
    )
    assert (cycle.failure, cycle.failing.count, cycle.failing.is_short) == (failed.failure, 1, True)
    assert (cycle.value, cycle.lifetime, cycle.access_until) == (cycle.pair.access_token.value, LIFE, NOW + 10)


def test_a_token_stays_too_short_lived_until_the_next_pair():
    """A failure in between changes nothing."""
    cycle = make()
    land(cycle, Renewed(make_pair(10.0), NOW), ISSUE)
    land(cycle, NotSent(ERROR), now=NOW + 1)
    assert cycle.failing.is_short
    assert land(cycle, Renewed(make_pair(), NOW + 2), now=NOW + 2)[-1] == Emit("recovered")
    assert cycle.failing is None


def test_a_token_that_stays_is_not_too_short_lived():
    """A short-lived one that comes beside it still counts as a failure."""
    cycle = make(make_pair())
    land(cycle, NotSent(ERROR))
    land(cycle, Renewed(make_pair(10.0), NOW))
    assert (cycle.failing.count, cycle.failing.is_short) == (2, False)


# Failures.


def test_failures_are_counted_and_the_last_one_counts():
    """Each also sets the time and the draw of the next attempt."""
    cycle = make(make_pair())
    land(cycle, Denied(ERROR), ISSUE, now=NOW + 1, draw=0.1)
    land(cycle, NotSent(LATER_ERROR), ISSUE, now=NOW + 2, draw=0.9)
    assert (cycle.failing.count, cycle.failure, cycle.last_error) == (2, NotSent(LATER_ERROR), LATER_ERROR)
    assert (cycle.tried_at, cycle.draw) == (NOW + 2, 0.9)


def test_a_new_pair_also_sets_the_draw_and_the_time_of_the_attempt():
    """The draw that its due time comes from is the new one."""
    cycle = make(make_pair())
    land(cycle, Renewed(make_pair(), NOW), now=NOW + 2, draw=0.0)
    assert (cycle.tried_at, cycle.draw, cycle.due) == (NOW + 2, 0.0, NOW + LIFE * 0.6)


@pytest.mark.parametrize(
    ("failure", "step", "reissues", "replays"),
    [
        (Ambiguous, REFRESH, False, 1),
        (Ambiguous, REFRESH, True, 0),  # an issue follows
        (Ambiguous, ISSUE, False, 0),
        (Denied, REFRESH, False, 0),
        (NotSent, REFRESH, False, 0),
    ],
)
def test_a_refresh_token_that_may_be_used_up_is_counted_if_it_is_the_only_way(failure, step, reissues, replays):
    """The next attempt presents it again, and soon."""
    cycle = make(make_pair(), reissues=reissues)
    land(cycle, failure(ERROR), step)
    assert cycle.failing.replays == replays
    land(cycle, failure(ERROR), step)
    assert cycle.failing.replays == 2 * replays


def test_a_pair_that_is_too_short_lived_was_never_presented():
    """The count of its predecessor doesn't hold for its own refresh token."""
    cycle = make(make_pair(), reissues=False)
    land(cycle, Ambiguous(ERROR))
    land(cycle, Renewed(make_pair(10.0), NOW + LIFE), now=NOW + LIFE)
    assert (cycle.failing.replays, cycle.failing.is_short) == (0, True)


def test_the_first_failure_is_news():
    """Each further one isn't, until a renewal succeeds."""
    cycle = make(make_pair())
    assert land(cycle, NotSent(ERROR)) == [Failed(NotSent(ERROR), is_news=True), Emit("degraded")]
    assert land(cycle, NotSent(ERROR)) == [Failed(NotSent(ERROR), is_news=False)]
    assert events(land(cycle, Renewed(make_pair(), NOW))) == ["rotated", "recovered"]
    assert land(cycle, NotSent(ERROR))[0].is_news


def test_before_the_first_pair_failures_are_only_logged():
    """No event reports them, so none reports a recovery."""
    cycle = make()
    assert land(cycle, NotSent(ERROR), ISSUE) == [Failed(NotSent(ERROR), is_news=True)]
    assert land(cycle, NotSent(ERROR), ISSUE) == [Failed(NotSent(ERROR), is_news=False)]
    assert events(land(cycle, Renewed(make_pair(), NOW), ISSUE)) == []


def test_a_first_pair_that_is_too_short_lived_is_reported_although_failures_came_before_it():
    """Those were only logged."""
    cycle = make()
    land(cycle, NotSent(ERROR), ISSUE)
    assert events(land(cycle, Renewed(make_pair(10.0), NOW), ISSUE)) == ["degraded"]


def test_a_source_without_a_later_token_works():
    """That ends an outage, and the count of failures begins again."""
    cycle = make(make_pair())
    land(cycle, NotSent(ERROR))
    assert land(cycle, NotYet(ERROR)) == [Emit("recovered"), Failed(NotYet(ERROR), is_news=False)]
    assert (cycle.failing.count, cycle.failing.is_degraded) == (0, False)
    assert land(cycle, NotYet(ERROR)) == [Failed(NotYet(ERROR), is_news=False)]
    assert events(land(cycle, NotSent(ERROR))) == ["degraded"]


# Results that never came.


def test_a_result_that_could_not_be_processed_counts_as_a_failure():
    """Without one, a pair was adopted before the error."""
    cycle = make(make_pair())
    cycle.begin(REFRESH)
    assert [*cycle.fail_to_process(REFRESH, None, NOW + 1, 0.1)] == []
    assert (cycle.under_way, cycle.failing, cycle.tried_at, cycle.draw) == (None, None, NOW + 1, 0.1)
    cycle.begin(REFRESH)
    effects = cycle.fail_to_process(REFRESH, NotSent(ERROR), NOW + 2, 0.2)
    assert [*effects] == [Failed(NotSent(ERROR), is_news=True), Emit("degraded")]


def test_a_look_that_could_not_be_processed_changes_nothing_else():
    """It isn't an attempt."""
    cycle = make(make_pair())
    cycle.begin(LOOK)
    assert [*cycle.fail_to_process(LOOK, NotSent(ERROR), NOW + 1, 0.1)] == []
    assert (cycle.under_way, cycle.failing, cycle.tried_at, cycle.draw) == (None, None, -math.inf, 0.5)


def test_a_look_that_finds_nothing_is_no_attempt_while_the_token_can_be_renewed():
    """The pause since the last attempt goes on."""
    cycle = make(make_pair(), reissues=False)
    assert land(cycle, None, LOOK, now=NOW + LIFE + WINDOW - 1, draw=0.1) == []
    assert (cycle.under_way, cycle.failing, cycle.tried_at, cycle.draw) == (None, None, -math.inf, 0.5)


@pytest.mark.parametrize("failed_before", [True, False])
def test_a_look_that_finds_nothing_is_the_end_if_no_way_is_left(failed_before):
    """The session expires with the error of the last attempt, if there was one."""
    cycle = make(make_pair(), reissues=False)
    if failed_before:
        land(cycle, NotSent(ERROR))
    cycle.begin(LOOK)
    cycle.land(REFRESH, None, NOW + LIFE + WINDOW, 0.1)
    assert isinstance(cycle.failure, Spent)
    assert str(cycle.last_error) == ("because" if failed_before else "the refresh token has expired")
    assert (cycle.tried_at, cycle.draw, cycle.can_refresh) == (NOW + LIFE + WINDOW, 0.1, False)
