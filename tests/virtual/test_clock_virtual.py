"""A clock that moves only when it is told to."""

import asyncio
import math

import pytest


async def test_it_moves_only_when_told(clock):
    """And then exactly so far, now and the wall together."""
    now, wall = clock.now(), clock.wall()
    assert (clock.now(), clock.wall()) == (now, wall)
    await clock.advance(7200.5)
    assert (clock.now(), clock.wall()) == (now + 7200.5, wall + 7200.5)


async def test_alarms_ring_in_order_at_their_moments(clock):
    """Those of one moment in the order in which they were set; one that is due at once needs no advance."""
    rung = []
    for name, seconds in [("c", 20), ("a", 10), ("b", 10), ("never", 99)]:
        clock.call_later(seconds, lambda name=name: rung.append((name, clock.now())))
    clock.call_later(15, lambda: rung.append("cancelled")).cancel()
    clock.call_later(0, lambda: rung.append("at once"))
    clock.call_later(0, lambda: rung.append("cancelled")).cancel()
    await asyncio.sleep(0)
    assert rung == ["at once"]
    await clock.advance(30)
    assert rung == ["at once", ("a", 10), ("b", 10), ("c", 20)]


async def test_an_alarm_may_set_the_next(clock):
    """Hours pass in milliseconds."""
    rung = []

    def ring():
        rung.append(clock.now())
        clock.call_later(3600, ring)

    clock.call_later(3600, ring)
    await clock.advance(24 * 3600)
    assert rung == [3600 * hour for hour in range(1, 25)]


async def test_sleepers_wake_when_their_time_has_come(clock):
    """And not before; nothing is due at once but what asks for nothing."""
    woken = []

    async def sleep(seconds):
        await clock.sleep(seconds)
        woken.append((seconds, clock.now()))

    tasks = [asyncio.create_task(sleep(seconds)) for seconds in (0, 5, 60)]
    await clock.advance(4)
    assert woken == [(0, 0)]
    await clock.advance(60)
    assert woken == [(0, 0), (5, 5), (60, 60)]
    await asyncio.gather(*tasks)


async def test_a_sleeper_who_is_cancelled_leaves_nothing(clock):
    """No alarm, and nobody who is taken for asleep."""
    task = asyncio.create_task(clock.sleep(10))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await clock.advance(20)
    assert (clock.alarms, clock._asleep) == ([], set())


async def test_what_an_alarm_began_is_finished_before_time_goes_on(clock):
    """Though it takes real time, such as that of a socket."""
    seen = []

    async def work():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        seen.append((await reader.read(), clock.now()))
        writer.close()
        await writer.wait_closed()

    async def serve(_, writer):
        writer.write(b"hello")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tasks = []

    def begin():
        tasks.append(asyncio.create_task(work()))
        return tasks

    clock.call_later(10, begin)
    await clock.advance(1000)
    assert seen == [(b"hello", 10)]
    server.close()
    await server.wait_closed()


async def test_what_sleeps_on_the_clock_does_not_hold_it_up(clock):
    """A slow answer takes virtual time alone."""
    done = []

    async def work():
        await clock.sleep(5)
        done.append(clock.now())

    clock.call_later(10, lambda: [asyncio.create_task(work())])
    start = asyncio.get_running_loop().time()
    await clock.advance(100)
    assert done == [15]
    assert asyncio.get_running_loop().time() - start < 5


async def test_a_suspend_leaps_over_alarms(clock):
    """Now and the wall go on, and an alarm is as far off as it was."""
    rung = []
    clock.call_later(10, lambda: rung.append(clock.now()))
    wall = clock.wall()
    clock.suspend(3600)
    assert (clock.now(), clock.wall()) == (3600, wall + 3600)
    await clock.advance(9)
    assert rung == []
    await clock.advance(1)
    assert rung == [3610]


async def test_the_wall_can_be_set_alone(clock):
    """As users and daemons do."""
    clock.set_wall(1_000.0)
    assert (clock.now(), clock.wall()) == (0, 1_000)
    await clock.advance(5)
    assert clock.wall() == 1_005


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
async def test_time_goes_forward_and_ends_some_time(clock, seconds):
    """Anything else is a slip."""
    with pytest.raises(ValueError, match="0 or more"):
        await clock.advance(seconds)
    with pytest.raises(ValueError, match="0 or more"):
        clock.suspend(seconds)


async def test_time_does_not_go_on_while_alarms_ring_at_once(clock):
    """However many of them in a row: one that sets the next is not overtaken by the clock."""
    rung = []

    def ring():
        rung.append(clock.now())
        if len(rung) < 100:
            clock.call_later(0, ring)

    clock.call_later(5, ring)
    await clock.advance(10)
    assert rung == [5.0] * 100
