"""What a page learns of the queue when it looks now and then."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from magicanimate.webui.jobs.running_panel import JobUpdate, ViewState, poll_queue, switch_to
from tests.waiting_work import end_of, submit, wait_until_running


@pytest.fixture
def poll(queue) -> Callable[[ViewState, str], JobUpdate]:
    return partial(poll_queue, queue)


def test_an_empty_queue_is_no_update(poll):
    update = poll(ViewState(), "")
    assert not update.changed and not update.relisted and update.ended is None
    assert poll(update.seen, "") == update


def test_a_page_follows_the_job_that_runs(queue, work, poll):
    first, second = submit(queue, "a", "b")
    wait_until_running(queue, first)
    update = poll(ViewState(), "")
    assert (
        update.changed
        and update.relisted
        and update.seen.current.job.id == first.id
        and update.preview == "picture"
    )
    assert [(placed.job.title, placed.before) for placed in update.seen.listed] == [("a", 0), ("b", 1)]
    again = poll(update.seen, "")
    assert (again.changed, again.relisted, again.preview, again.ended) == (False, False, None, None)
    work.go.release(1)
    wait_until_running(queue, second)
    update = poll(again.seen, "")
    assert update.ended.id == first.id and update.seen.current.job.id == second.id
    work.go.release(1)
    end_of(queue, second)
    update = poll(update.seen, "")
    assert update.ended.id == second.id and update.seen.current.job.state == "done"
    assert poll(update.seen, "").ended is None


def test_a_page_that_is_opened_later_tells_of_the_job_that_ended_last(queue, work, poll):
    first, second = submit(queue, "a", "b")
    work.go.release(2)
    end_of(queue, second)
    update = poll(ViewState(), "")
    assert update.ended.id == second.id == update.seen.current.job.id
    assert poll(update.seen, "").ended is None
    queue.remove(second.id)  # it is not replaced by an older one
    update = poll(update.seen, "")
    assert update.changed and update.seen.current is None and update.ended is None
    assert not poll(update.seen, "").changed


def test_turning_to_a_job_tells_of_it_again(queue, work, poll):
    first, second = submit(queue, "a", "b")
    work.go.release(1)
    wait_until_running(queue, second)
    seen = poll(ViewState(), "").seen
    update = poll(switch_to(queue.get(first.id), seen), "")
    assert update.ended.id == first.id and update.seen.current.job.id == second.id  # what runs stays in view
    assert update.changed and update.preview == "picture"


def test_others_are_seen_only_as_a_number(queue, work, poll):
    submit(queue, "a", owner="me")
    (yours,) = submit(queue, "b", owner="you")
    wait_until_running(queue, queue.jobs("me")[0])
    update = poll(ViewState(), "you")
    assert [(placed.job.title, placed.before) for placed in update.seen.listed] == [("b", 1)]
    assert update.seen.current is None and poll(ViewState(), "nobody").seen.listed == ()
    assert poll(switch_to(yours, update.seen), "you").seen.current.before == 1
