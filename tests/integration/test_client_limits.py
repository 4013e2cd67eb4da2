"""The time limits of a client's calls: one timer for all, and the meaning of `asyncio.timeout`."""

import asyncio
import threading

import pytest

from signalwire_tokens.client.limits import CallLimit, CallLimits
from support.waiting import HANG

SHORT = 0.01


async def held(limits, seconds, until):
    """Wait for an event within a limit."""
    with limits.limit(seconds):
        await until.wait()


@pytest.fixture
async def timers(monkeypatch):
    """Return the times of all timers that are set on this event loop."""
    loop, found = asyncio.get_running_loop(), []
    call_at = loop.call_at

    def counted(when, *arguments, **settings):
        found.append(when)
        return call_at(when, *arguments, **settings)

    monkeypatch.setattr(loop, "call_at", counted)
    return found


async def test_calls_share_one_timer(timers):
    """Whether they run at the same time or one after the other."""
    limits, event = CallLimits(HANG), asyncio.Event()
    calls = [asyncio.create_task(held(limits, HANG, event)) for _ in range(100)]
    await asyncio.sleep(0)
    event.set()
    await asyncio.gather(*calls)
    for _ in range(100):
        await held(limits, HANG, event)
    assert len(timers) == 1


async def test_each_call_ends_in_its_time():
    """The timer is set for the next call when it has ended one."""
    limits, never, ends = CallLimits(SHORT), asyncio.Event(), []

    async def call():
        limit = limits.limit(SHORT)
        with pytest.raises(TimeoutError), limit:
            await never.wait()
        ends.append(asyncio.get_running_loop().time() - limit.ends_at)

    for _ in range(3):
        await asyncio.gather(*(call() for _ in range(5)), asyncio.sleep(SHORT / 2))
    assert len(ends) == 15
    assert min(ends) >= -1e-6


async def test_a_call_that_ends_in_time_leaves_the_timer_to_the_next():
    """The timer then rings too early for the others, and is set again."""
    limits, event, never = CallLimits(5 * SHORT), asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(held(limits, 5 * SHORT, event))
    await asyncio.sleep(SHORT)
    second = asyncio.create_task(held(limits, 5 * SHORT, never))
    await asyncio.sleep(0)
    event.set()
    await first
    with pytest.raises(TimeoutError):
        await second


async def test_another_limit_has_a_timer_of_its_own(timers):
    """It is cancelled with the end of the call."""
    limits, event = CallLimits(HANG), asyncio.Event()
    with pytest.raises(TimeoutError):
        await held(limits, SHORT, event)
    event.set()
    await held(limits, HANG / 2, event)
    assert len(timers) == 2
    assert limits._timer is None


async def test_no_timer_is_left_after_closing():
    """A program that has closed its client isn't woken by it."""
    limits, event = CallLimits(HANG), asyncio.Event()
    event.set()
    await held(limits, HANG, event)
    assert limits._timer is not None
    limits.close()
    assert limits._timer is None


async def test_a_call_that_runs_while_the_client_closes_still_ends_in_time():
    """The timer stays as long as the call needs it."""
    limits, event = CallLimits(HANG), asyncio.Event()
    calls = [asyncio.create_task(held(limits, HANG, event)) for _ in range(2)]
    await asyncio.sleep(0)
    limits.close()
    next(iter(limits._running)).end_call()
    with pytest.raises(TimeoutError):
        await calls[0]
    assert limits._timer is not None
    event.set()
    await calls[1]
    assert limits._timer is None


async def test_a_cancelled_call_is_cancelled():
    """Also in the moment in which its time is over."""
    limits, never = CallLimits(HANG), asyncio.Event()
    call = asyncio.create_task(held(limits, HANG, never))
    await asyncio.sleep(0)
    limit = next(iter(limits._running))
    call.cancel()
    limit.end_call()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()


async def test_a_task_whose_call_was_ended_goes_on():
    """It isn't cancelled any more."""
    limits, never = CallLimits(SHORT), asyncio.Event()
    with pytest.raises(TimeoutError):
        await held(limits, SHORT, never)
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


async def test_another_error_of_a_call_whose_time_is_over_is_raised():
    """A time that is over in the last moment hides nothing."""
    limits = CallLimits(HANG)

    async def fail_late():
        with limits.limit(HANG) as limit:
            limit.end_call()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                raise LookupError from None

    with pytest.raises(LookupError):
        await fail_late()
    assert asyncio.current_task().cancelling() == 0


def test_a_limit_needs_a_task():
    """There is nothing else that it could cancel."""
    loop, seen = asyncio.new_event_loop(), []

    def enter():
        with pytest.raises(RuntimeError) as caught:
            CallLimits(HANG).limit(HANG).__enter__()
        seen.append(str(caught.value))
        loop.stop()

    loop.call_soon(enter)
    loop.run_forever()
    loop.close()
    assert seen == ["a call must run in an asyncio task: its time limit cancels that task"]


async def test_calls_on_another_event_loop_end_in_time():
    """A client with your own `http_session` may be called there, although its connections then fail."""
    limits, never, ends = CallLimits(SHORT), asyncio.Event(), []
    call = asyncio.create_task(held(limits, SHORT, never))
    await asyncio.sleep(0)

    def elsewhere():
        with pytest.raises(TimeoutError):
            asyncio.run(held(limits, SHORT, asyncio.Event()))
        ends.append(limits._loop)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with pytest.raises(TimeoutError):
        await call
    await asyncio.to_thread(thread.join, HANG)
    assert ends == [asyncio.get_running_loop()]


def test_the_timer_moves_on_from_an_event_loop_that_is_closed():
    """So that a second `asyncio.run()` has a timer that rings."""
    limits = CallLimits(SHORT)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            asyncio.run(held(limits, SHORT, asyncio.Event()))
        assert limits._loop.is_closed()
        assert not limits._running


def test_calls_of_an_event_loop_that_was_closed_under_them_are_forgotten():
    """Their loop can't end them any more."""
    limits, loop = CallLimits(HANG), asyncio.new_event_loop()
    call = loop.create_task(held(limits, HANG, asyncio.Event()))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert len(limits._running) == 1
    with pytest.raises(TimeoutError):
        asyncio.run(held(limits, SHORT, asyncio.Event()))
    event = asyncio.Event()
    event.set()
    asyncio.run(held(limits, HANG, event))
    assert not limits._running
    call._log_destroy_pending = False  # its event loop is closed


async def test_a_timer_that_cannot_be_set_leaves_no_limit_behind(monkeypatch):
    """It would end something else later. (P7)"""
    limits = CallLimits(HANG)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "call_at", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await held(limits, HANG, asyncio.Event())
    assert not limits._running


async def test_a_call_that_cannot_be_ended_does_not_keep_the_others_from_their_end(monkeypatch):
    """The timer is set again for those that are left. (P7)"""
    limits, never, failures = CallLimits(SHORT), asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    calls = [asyncio.create_task(held(limits, SHORT, never)) for _ in range(3)]
    await asyncio.sleep(0)
    end_call, first = CallLimit.end_call, next(iter(limits._running))

    def end(limit):
        if limit is first and not failures:
            raise MemoryError
        end_call(limit)

    monkeypatch.setattr(CallLimit, "end_call", end)
    for call in calls:
        with pytest.raises(TimeoutError):
            await call
    assert [type(one) for one in failures] == [MemoryError]
