"""The queue of jobs: order, changes, cancelling, and what is left of it after the program was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from densepose_tools import motion_steps
from magicanimate.errors import InputError
from magicanimate.webui.jobs.queue import JobQueue
from tests.conftest import ROOT
from tests.waiting_work import end_of, submit, wait_until_running


def titles(queue: JobQueue, **which) -> list[str]:
    return [job.title for job in queue.jobs(**which)]


def test_jobs_run_in_order_and_tell_of_their_progress(queue, work, tmp_path):
    first, second = submit(queue, "first", "second")
    running = wait_until_running(queue, first)
    assert running.state == "running" and running.started is not None
    assert (running.progress.step, running.progress.preview) == (2, "picture")
    assert (queue.get(second.id).state, queue.position(second.id)) == ("waiting", 1)
    work.go.release(2)
    done = end_of(queue, second)
    assert (done.state, done.results, done.progress) == ("done", (str(tmp_path / "second.txt"),), None)
    assert (
        done.summary == "second is done."
        and work.begun == ["first", "second"]
        and queue.get(first.id).state == "done"
    )


def test_order_can_be_changed_and_jobs_taken_out(queue, work):
    jobs = submit(queue, "a", "b", "c", "d")
    wait_until_running(queue, jobs[0])
    queue.move(jobs[3].id, by=-1)
    queue.move(jobs[1].id, by=-1)  # is the first that waits already
    assert titles(queue) == ["a", "b", "d", "c"]
    queue.cancel(jobs[1].id)
    queue.remove(jobs[2].id)
    assert queue.get(jobs[1].id).state == "cancelled" and queue.get(jobs[2].id) is None
    work.go.release(2)
    assert end_of(queue, jobs[3]).state == "done"
    assert work.begun == ["a", "d"]


def test_a_waiting_job_can_be_changed_in_its_place(queue, work):
    first, second, third = submit(queue, "a", "b", "c")
    wait_until_running(queue, first)
    queue.edit(second.id, {"name": "B"}, title="B")
    with pytest.raises(InputError, match="begun already"):
        queue.edit(first.id, {"name": "A"})
    work.go.release(3)
    end_of(queue, third)
    assert work.begun == ["a", "B", "c"]


def test_a_cancelled_job_says_what_was_kept_and_the_next_one_runs(queue, work, tmp_path):
    first, second = submit(queue, "a", "b")
    wait_until_running(queue, first)
    queue.cancel(first.id)
    stopped = end_of(queue, first)
    assert (stopped.state, stopped.results) == ("cancelled", (str(tmp_path / "a.webp"),))
    wait_until_running(queue, second)
    queue.remove(second.id)  # runs: is only stopped
    assert end_of(queue, second).state == "cancelled"
    queue.remove(second.id)
    assert titles(queue) == ["a"]


def test_errors_are_a_sentence_and_end_nothing_else(queue, work, caplog):
    wrong = queue.submit("work", {"name": "a", "wrong": "The photo is upside down."})
    work.go.release(1)
    assert end_of(queue, wrong).error == "The photo is upside down."
    defect = queue.submit("work", {"nameless": 1})
    failed = end_of(queue, defect)
    assert failed.state == "failed" and "KeyError" not in failed.error and defect.id in failed.error
    assert "KeyError: 'name'" in caplog.text
    (good,) = submit(queue, "b")
    work.go.release(1)
    assert end_of(queue, good).state == "done"


def test_again_repeats_a_request(queue, work):
    (job,) = submit(queue, "a", owner="me")
    work.go.release(2)
    end_of(queue, job)
    again = end_of(queue, queue.again(job.id))
    assert work.begun == ["a", "a"] and again.owner == "me" and again.id != job.id
    with pytest.raises(InputError, match="not in the list"):
        queue.again("nothing")


def test_owners_see_their_own_but_wait_for_all(queue, work):
    (mine,) = submit(queue, "mine", owner="me")
    (yours,) = submit(queue, "yours", owner="you")
    assert titles(queue, owner="me") == ["mine"] and titles(queue) == ["mine", "yours"]
    wait_until_running(queue, mine)
    assert queue.position(yours.id) == 1
    queue.move(yours.id, by=-1)
    assert titles(queue) == ["mine", "yours"]
    work.go.release(2)
    end_of(queue, yours)


def test_too_many_are_turned_away(tmp_path, work):
    queue = JobQueue(tmp_path, {"work": work}, most_waiting=1)
    wait_until_running(queue, submit(queue, "a")[0])
    submit(queue, "b")
    with pytest.raises(InputError, match="queue is full"):
        submit(queue, "c")
    queue.close()


def test_uploads_are_kept_until_nothing_names_them(queue, work, tmp_path):
    upload = tmp_path / "upload" / "me.png"
    upload.parent.mkdir()
    upload.write_bytes(b"picture")
    requests = [{"name": name, "photo": str(upload)} for name in ("a", "b")]
    requests[0]["others"] = [str(upload), str(upload)]  # a list of files is kept, too
    first, second = (
        queue.submit("work", request, uploads=[name for name in request if name != "name"])
        for request in requests
    )
    assert first.request["others"] == [first.request["photo"]] * 2
    upload.unlink()  # as when the browser's session ends
    kept = Path(first.request["photo"])
    assert kept.name == "me.png" and kept.read_bytes() == b"picture" and second.request["photo"] == str(kept)
    work.go.release(2)
    end_of(queue, second)
    queue.remove(first.id)
    assert kept.exists()
    (tmp_path / "result.json").write_text(json.dumps({"photo": str(kept)}))
    queue.remove(second.id)
    assert kept.exists()  # a result can be made again
    (tmp_path / "result.json").unlink()
    (third,) = submit(queue, "c")
    queue.cancel(third.id)
    end_of(queue, third)
    queue.remove(third.id)
    assert not kept.exists() and not kept.parent.exists()
    with pytest.raises(InputError, match="me.png cannot be kept"):
        queue.submit("work", requests[0], uploads=["photo"])


def upload(tmp_path: Path, name: str, size: int) -> dict[str, str]:
    """A request with an upload of so many bytes."""
    (tmp_path / name).write_bytes(name.encode() * size)
    return {"name": name, "photo": str(tmp_path / name)}


def test_kept_uploads_are_bounded_for_each_owner_and_in_all(tmp_path, work):
    queue = JobQueue(tmp_path / "out", {"work": work}, per_owner=250, in_all=450)

    def wanted(name: str, owner: str, size: int = 100):
        return queue.submit("work", upload(tmp_path, name, size), owner=owner, uploads=["photo"])

    first = wait_until_running(queue, wanted("a", "anna"))
    second = wanted("b", "anna")
    with pytest.raises(InputError, match=r"of your jobs take 200 B, and no more than 250 B are kept"):
        wanted("c", "anna")
    queue.cancel(second.id)  # came to nothing, so it makes room
    third = wanted("d", "anna")
    assert queue.get(second.id) is None and not Path(second.request["photo"]).exists()
    ben = [wanted("e", "ben"), wanted("f", "ben")]
    with pytest.raises(InputError, match="of all jobs and results take 400 B"):
        wanted("g", "carl")
    assert [job.id for job in queue.jobs()] == [first.id, third.id, *(job.id for job in ben)]
    work.go.release(4)
    end_of(queue, ben[1])
    with pytest.raises(InputError, match="of all jobs and results"):  # what has a result is not forgotten
        wanted("g", "carl")
    queue.close()


def test_uploads_of_jobs_that_leave_the_list_go_with_them(tmp_path, work, monkeypatch):
    monkeypatch.setattr("magicanimate.webui.jobs.queue._OVER_KEPT", 2)
    queue = JobQueue(tmp_path / "out", {"work": work})
    work.go.release(4)
    for name in "abc":
        last = queue.submit("work", upload(tmp_path, name, 10), title=name, uploads=["photo"])
        end_of(queue, last)
    end_of(queue, submit(queue, "d")[0])  # the sweep after "c" is done by now
    assert titles(queue) == ["c", "d"]
    assert [path.name for path in (tmp_path / "out" / ".jobs" / "inputs").glob("*/*")] in (
        ["c"],
        ["b", "c"],
        ["c", "b"],
    )
    queue.close()


def test_a_clock_that_is_set_back_makes_no_job_disappear(tmp_path, work, monkeypatch):
    monkeypatch.setattr("magicanimate.webui.jobs.queue._OVER_KEPT", 2)
    queue = JobQueue(tmp_path, {"work": work})
    work.go.release(3)
    for name, now in (("a", 3000.0), ("b", 2000.0), ("c", 1000.0)):
        monkeypatch.setattr("magicanimate.webui.jobs.queue.time.time", lambda now=now: now)
        end_of(queue, submit(queue, name)[0])
    assert titles(queue) == ["b", "c"]
    queue.close()


def test_closing_keeps_what_has_not_ended_for_the_next_time(tmp_path, work):
    queue = JobQueue(tmp_path, {"work": work})
    running, waiting = submit(queue, "a", "b")
    wait_until_running(queue, running)
    with pytest.raises(InputError, match="Another MagicAnimate works on"):
        JobQueue(tmp_path, {"work": work})
    queue.close()
    queue = JobQueue(tmp_path, {"work": work})
    assert [job.state for job in queue.jobs()] == ["interrupted", "interrupted"]
    assert work.begun == ["a"]  # nothing begins by itself
    assert queue.go_on() == 2
    work.go.release(2)
    assert end_of(queue, waiting).state == "done" and work.begun == ["a", "a", "b"]
    queue.close()


def test_files_that_are_no_jobs_are_passed_over(tmp_path, work, caplog):
    (tmp_path / ".jobs").mkdir()
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"request": {}}')):
        (tmp_path / ".jobs" / f"{name}.json").write_text(text)
    queue = JobQueue(tmp_path, {"work": work})
    assert queue.jobs() == [] and caplog.text.count("is passed over") == 3
    queue.close()


_KILLED = """
import sys, time
from pathlib import Path
from magicanimate.webui.jobs.queue import JobResult
from densepose_tools import motion_steps
from magicanimate.webui.jobs.queue import JobQueue

def work(request, on_progress, should_stop):
    if request["name"] == "slow":
        print("running", flush=True)
        time.sleep(600)
    return JobResult()

folder = Path(sys.argv[1])
queue = JobQueue(folder, {"work": work})
for name in ("quick", "slow", "waits"):
    queue.submit("work", {"name": name, "photo": sys.argv[2]}, title=name, uploads=["photo"])
time.sleep(600)
"""


def test_a_killed_program_loses_no_job(tmp_path, work):
    upload = tmp_path / "me.png"
    upload.write_bytes(b"picture")
    output = tmp_path / "out"
    output.mkdir()
    words = [sys.executable, "-c", _KILLED, str(output), str(upload)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        with pytest.raises(InputError, match="Another MagicAnimate"):
            JobQueue(output, {"work": work})
        process.kill()
    assert process.returncode != 0
    upload.unlink()
    queue = JobQueue(output, {"work": work})
    assert [(job.title, job.state) for job in queue.jobs()] == [
        ("quick", "done"),
        ("slow", "interrupted"),
        ("waits", "interrupted"),
    ]
    work.go.release(2)
    assert queue.go_on() == 2
    last = end_of(queue, queue.jobs()[-1])
    assert last.state == "done" and work.begun == ["slow", "waits"]
    assert Path(last.request["photo"]).read_bytes() == b"picture"
    queue.close()


def test_prepared_clips_are_bounded_and_those_of_results_stay(tmp_path):
    """The oldest go first; without a bound all that no result names."""
    places = []
    for age, name in enumerate(("new", "shown", "old", "oldest")):
        place = tmp_path / motion_steps.FOLDER / name
        place.mkdir(parents=True)
        (place / "a.mp4").write_bytes(bytes(100))
        os.utime(place, (1000 - age, 1000 - age))
        places.append(place)
    named = {str(tmp_path / motion_steps.FOLDER / "shown" / "a.mp4")}

    def left() -> list[str]:
        return [place.name for place in places if place.exists()]

    motion_steps.sweep(tmp_path, named, most=300)
    assert left() == ["new", "shown", "old", "oldest"]
    motion_steps.sweep(tmp_path, named, most=150)
    assert left() == ["new", "shown"]
    motion_steps.sweep(tmp_path, named)
    assert left() == ["shown"]
