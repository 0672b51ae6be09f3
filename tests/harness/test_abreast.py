"""Generators in threads of their own: all that they yield, and nothing that outlives them."""

import threading
import time
from collections.abc import Generator

import pytest

from medbench.harness.ort.abreast import abreast


def counting(start: int, stop: int) -> Generator[int, None, None]:
    yield from range(start, stop)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_everything_is_yielded_and_each_in_its_order(count: int) -> None:
    found = list(abreast([counting(100 * k, 100 * k + 50) for k in range(count)]))
    assert sorted(found) == [100 * k + n for k in range(count) for n in range(50)]
    for k in range(count):
        mine = [one for one in found if one // 100 == k]
        assert mine == sorted(mine)


def test_one_generator_stays_in_this_thread() -> None:
    def where() -> Generator[int, None, None]:
        yield threading.get_ident()

    assert list(abreast([where()])) == [threading.get_ident()]
    assert threading.get_ident() not in list(abreast([where(), where()]))


def test_they_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3)

    def met() -> Generator[int, None, None]:
        yield meeting.wait(timeout=20)

    assert sorted(abreast([met(), met(), met()])) == [0, 1, 2]


def endless(ended: list[bool]) -> Generator[int, None, None]:
    try:
        while True:
            yield 1
            time.sleep(0.001)
    finally:
        ended.append(True)


def test_an_exception_ends_the_others_and_is_raised_here() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise OSError("disk")

    before = threading.active_count()
    ended: list[bool] = []
    with pytest.raises(OSError, match="disk"):
        for _ in abreast([endless(ended), failing()]):
            pass
    assert threading.active_count() == before
    assert ended == [True]


def test_who_stops_taking_ends_all() -> None:
    before = threading.active_count()
    ended: list[bool] = []
    for number, _ in enumerate(abreast([endless(ended), endless(ended)])):
        if number == 30:
            break
    assert threading.active_count() == before
    assert ended == [True, True]


def test_an_error_of_who_takes_ends_all() -> None:
    before = threading.active_count()
    ended: list[bool] = []
    taking = abreast([endless(ended), endless(ended)])
    next(taking)
    with pytest.raises(KeyboardInterrupt):
        taking.throw(KeyboardInterrupt())
    assert threading.active_count() == before
    assert ended == [True, True]


def test_a_failure_reaches_one_who_is_slow_to_take() -> None:
    def failing() -> Generator[int, None, None]:
        yield from range(100)  # more than wait to be taken
        raise OSError("disk")

    taking = abreast([failing(), counting(0, 0)])
    found = []
    for _ in range(100):
        time.sleep(0.002)
        found.append(next(taking))
    assert found == list(range(100))
    with pytest.raises(OSError, match="disk"):
        next(taking)


def test_threads_that_began_are_ended_when_one_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def second_fails(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    ended: list[bool] = []
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(abreast([endless(ended), endless(ended)]))
    assert threading.active_count() == before
    assert ended == [True]
