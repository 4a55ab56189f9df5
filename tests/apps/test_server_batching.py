# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The queue in front of the model: what goes together, what waits, what is refused and what is left."""

import threading

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")

from transformers_wallaroo.apps import Stopped
from transformers_wallaroo.apps.server.batching import Closing, QueueFull, Scheduler, Work
from transformers_wallaroo.apps.server.service import StopTexts

from live import SECONDS, until


class Runs:
    """What a scheduler runs: it notes the batches and, while `go` is not set, holds them."""

    def __init__(self, fail=()):
        self.batches, self.go, self.fail = [], threading.Event(), set(fail)

    def __call__(self, batch):
        self.batches.append([work.item for work in batch])
        while not self.go.wait(0.005):
            if all(work.left.is_set() for work in batch):
                raise Stopped
        if any(work.item in self.fail for work in batch):
            raise RuntimeError("it fails")
        for work in batch:
            work.future.set_result(work.item)


@pytest.fixture
def start():
    """Starts schedulers, and stops them at the end."""
    started = []

    def make(runs, **options):
        scheduler = Scheduler(runs, **{"max_batch": 4, "batch_wait": 0.0, "max_queue": 8, **options})
        scheduler.start()
        started.append(scheduler)
        return scheduler

    yield make
    for scheduler in started:
        scheduler.stop()
        assert not scheduler.alive


def results(works):
    return [work.future.result(SECONDS) for work in works]


def hold(scheduler, runs):
    """Has the thread busy with one entry, so that the test decides what waits."""
    work = Work("first")
    scheduler.submit([work])
    until(lambda: runs.batches == [["first"]])
    return work


def test_equal_keys_go_together_in_order_of_arrival(start):
    runs = Runs()
    scheduler = start(runs)
    works = [hold(scheduler, runs)]
    for item, key in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("alone", None), ("a3", "a"), ("b2", "b")]:
        works.append(Work(item, key))
        scheduler.submit(works[-1:])
    runs.go.set()
    assert results(works) == ["first", "a1", "b1", "a2", "alone", "a3", "b2"]
    assert runs.batches == [["first"], ["a1", "a2", "a3"], ["b1", "b2"], ["alone"]]


def test_batches_are_no_larger_than_allowed(start):
    runs = Runs()
    scheduler = start(runs, max_batch=2)
    first = hold(scheduler, runs)
    works = [Work(index, "a") for index in range(5)]
    scheduler.submit(works)
    runs.go.set()
    results([first, *works])
    assert runs.batches[1:] == [[0, 1], [2, 3], [4]]


def test_first_of_a_batch_waits_for_others_but_not_when_it_is_full(start):
    runs = Runs()
    runs.go.set()
    scheduler = start(runs, batch_wait=SECONDS, max_batch=2)
    works = [Work(0, "a"), Work(1, "a")]
    scheduler.submit(works[:1])
    assert scheduler.waiting == 1 and runs.batches == []
    scheduler.submit(works[1:])
    assert results(works) == [0, 1] and runs.batches == [[0, 1]]


def test_no_wait_for_what_goes_alone(start):
    runs = Runs()
    runs.go.set()
    work = Work(0)
    start(runs, batch_wait=SECONDS).submit([work])
    assert results([work]) == [0]


def test_full_queue_takes_all_of_a_request_or_none(start):
    runs = Runs()
    scheduler = start(runs, max_queue=3)
    first = hold(scheduler, runs)
    scheduler.submit([Work(0), Work(1)])
    with pytest.raises(QueueFull) as caught:
        scheduler.submit([Work(2), Work(3)])
    assert caught.value.retry_after >= 1 and scheduler.waiting == 2
    last = Work(4)
    scheduler.submit([last])
    runs.go.set()
    assert results([first, last]) == ["first", 4]


def test_who_leaves_makes_room(start):
    runs = Runs()
    scheduler = start(runs, max_queue=1)
    first, second, third = hold(scheduler, runs), Work("second"), Work("third")
    scheduler.submit([second])
    scheduler.leave([second])
    scheduler.submit([third])
    runs.go.set()
    assert results([first, third]) == ["first", "third"]
    assert ["second"] not in runs.batches


def test_a_batch_is_stopped_when_all_have_left(start):
    runs = Runs()
    scheduler = start(runs, batch_wait=SECONDS, max_batch=2)
    works = [Work(0, "a"), Work(1, "a")]
    scheduler.submit(works)
    until(lambda: scheduler.running == 2)
    scheduler.leave(works[:1])
    with pytest.raises(TimeoutError):
        works[1].future.result(0.05)
    scheduler.leave(works[1:])
    for work in works:
        assert isinstance(work.future.exception(SECONDS), Stopped)
    until(lambda: scheduler.running == 0)


def test_failure_of_one_is_not_that_of_its_neighbours(start):
    runs = Runs(fail=[1])
    scheduler = start(runs, batch_wait=SECONDS, max_batch=3)
    runs.go.set()
    works = [Work(index, "a") for index in range(3)]
    scheduler.submit(works)
    assert results([works[0], works[2]]) == [0, 2]
    with pytest.raises(RuntimeError, match="it fails"):
        works[1].future.result(SECONDS)
    assert runs.batches == [[0, 1, 2], [0], [1], [2]]
    assert scheduler.alive


def test_refusing_finishes_what_is_there(start):
    runs = Runs()
    scheduler = start(runs)
    first, second = hold(scheduler, runs), Work(2)
    scheduler.submit([second])
    scheduler.refuse()
    with pytest.raises(Closing):
        scheduler.submit([Work(3)])
    runs.go.set()
    assert results([first, second]) == ["first", 2]
    until(lambda: not scheduler.alive)


def test_stopping_fails_what_waits_and_what_runs(start):
    runs = Runs()
    scheduler = start(runs)
    first, second = hold(scheduler, runs), Work(2)
    scheduler.submit([second])
    scheduler.stop()
    for work in (first, second):
        assert isinstance(work.future.exception(SECONDS), Stopped)
    assert not scheduler.alive


def test_batches_are_told(start):
    told = []
    runs = Runs()
    runs.go.set()
    works = [Work(0, "a"), Work(1, "a")]
    scheduler = start(
        runs, on_batch=lambda batch, seconds: told.append((len(batch), seconds)), batch_wait=SECONDS, max_batch=2
    )
    scheduler.submit(works)
    until(lambda: told)
    assert told[0][0] == 2 and told[0][1] >= 0


@pytest.mark.parametrize(
    ("stops", "pieces", "said"),
    [
        (["END"], ["one ", "two END three"], "one two "),
        (["END"], ["one E", "N", "D two"], "one "),
        (["END"], ["one EN", "E END"], "one ENE "),
        (["b", "ab"], ["xaby"], "x"),
        (["aab"], ["a", "a", "a", "b", "c"], "a"),
        ([], ["one ", "two"], "one two"),
        (["END"], ["one EN"], "one EN"),
    ],
)
def test_stop_texts(stops, pieces, said):
    texts = StopTexts(stops)
    text = "".join(texts.take(piece) for piece in pieces)
    assert texts.found is any(stop in "".join(pieces) for stop in stops)
    assert text + texts.rest() == said
