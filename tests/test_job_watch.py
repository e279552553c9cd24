"""What a page learns of the queue when it looks now and then."""

from __future__ import annotations

import pytest

from magicanimate.webui.jobs.running_panel import JobPoller, ViewState
from tests.waiting_work import end_of, submit, wait_until_running


@pytest.fixture
def watch(queue) -> JobPoller:
    return JobPoller(queue)


def test_an_empty_queue_is_no_news(watch):
    news = watch.poll(ViewState(), "")
    assert not news.changed and not news.relisted and news.ended is None
    assert watch.poll(news.seen, "") == news


def test_a_page_follows_the_job_that_runs(queue, work, watch):
    first, second = submit(queue, "a", "b")
    wait_until_running(queue, first)
    news = watch.poll(ViewState(), "")
    assert (
        news.changed and news.relisted and news.seen.current.job.id == first.id and news.preview == "picture"
    )
    assert [(placed.job.title, placed.before) for placed in news.seen.listed] == [("a", 0), ("b", 1)]
    again = watch.poll(news.seen, "")
    assert (again.changed, again.relisted, again.preview, again.ended) == (False, False, None, None)
    work.go.release(1)
    wait_until_running(queue, second)
    news = watch.poll(again.seen, "")
    assert news.ended.id == first.id and news.seen.current.job.id == second.id
    work.go.release(1)
    end_of(queue, second)
    news = watch.poll(news.seen, "")
    assert news.ended.id == second.id and news.seen.current.job.state == "done"
    assert watch.poll(news.seen, "").ended is None


def test_a_page_that_is_opened_later_tells_of_the_job_that_ended_last(queue, work, watch):
    first, second = submit(queue, "a", "b")
    work.go.release(2)
    end_of(queue, second)
    news = watch.poll(ViewState(), "")
    assert news.ended.id == second.id == news.seen.current.job.id
    assert watch.poll(news.seen, "").ended is None
    queue.remove(second.id)  # it is not replaced by an older one
    news = watch.poll(news.seen, "")
    assert news.changed and news.seen.current is None and news.ended is None
    assert not watch.poll(news.seen, "").changed


def test_turning_to_a_job_tells_of_it_again(queue, work, watch):
    first, second = submit(queue, "a", "b")
    work.go.release(1)
    wait_until_running(queue, second)
    seen = watch.poll(ViewState(), "").seen
    news = watch.poll(watch.turn_to(seen, queue.get(first.id)), "")
    assert news.ended.id == first.id and news.seen.current.job.id == second.id  # what runs stays in view
    assert news.changed and news.preview == "picture"


def test_others_are_seen_only_as_a_number(queue, work, watch):
    submit(queue, "a", owner="me")
    (yours,) = submit(queue, "b", owner="you")
    wait_until_running(queue, queue.jobs("me")[0])
    news = watch.poll(ViewState(), "you")
    assert [(placed.job.title, placed.before) for placed in news.seen.listed] == [("b", 1)]
    assert news.seen.current is None and watch.poll(ViewState(), "nobody").seen.listed == ()
    assert watch.poll(watch.turn_to(news.seen, yours), "you").seen.current.before == 1
