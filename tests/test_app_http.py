"""The running program as other programs, careless people and other people's web pages meet it."""

from __future__ import annotations

import http.client
import http.server
import json
import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from magicanimate.config import MediaLimits
from magicanimate.errors import Cancelled
from magicanimate.media.writer import read_metadata
from magicanimate.results import inspect
from magicanimate.webui import server
from magicanimate.webui.gallery.result_panel import ALL_STYLES, file_url, style_sheets
from magicanimate.webui.jobs.animation_job import ANIMATE
from magicanimate.webui.scratch import Scratch
from magicanimate.webui.security import Login, LoginDelays, key_of
from magicanimate.webui.service import AnimationService
from tests.conftest import PATIENCE, ROOT
from tests.hostile_files import ELF, HTML, SVG, gif_of
from tests.inputs import write_motion, write_photo

FRAMES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a photo and a clip, as the guide names them; its "results" are the program's."""
    folder = tmp_path_factory.mktemp("user")
    write_photo(folder / "me.png").rename(folder / "me.jpg")  # what is in a file counts, not its name
    write_motion(folder / "dance.mp4", FRAMES)
    (folder / "secret.txt").write_text("the secret")
    return folder


@contextmanager
def running(model: Path, folder: Path, *words: str) -> Iterator[tuple[gr.Blocks, AnimationService]]:
    """The program with uploads and results in a folder; what it changes of the environment is put back."""
    own = ["--model", str(model), "--output", str(folder / "results"), "--port", "18800"]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "no_proxy", "NO_PROXY"):
            patch.setenv(name, os.environ.get(name, ""))
        args = server.build_parser().parse_args([*own, *words])
        with Scratch(folder) as scratch, server.running(args, scratch) as program:
            yield program


def scratch_of(folder: Path) -> Path:
    """Where the program in a folder keeps uploads."""
    (found,) = folder.glob("magicanimate-*")
    return found


@pytest.fixture(scope="module")
def served(tiny_model, folder) -> Iterator[tuple[gr.Blocks, AnimationService]]:
    with running(tiny_model, folder) as program:
        yield program


@pytest.fixture(scope="module")
def address(served) -> str:
    return served[0].local_url.rstrip("/")


@pytest.fixture(scope="module")
def client(address) -> Client:
    return Client(address, verbose=False)


def animate(client: Client, photo: Path, motion: Path, **settings) -> tuple[str, dict]:
    files = {"photo": handle_file(photo), "motion": handle_file(motion)}
    return client.predict(**files, settings=settings, api_name="/animate")


def refused(client: Client, photo: Path, motion: Path, **settings) -> str:
    """The sentence with which something is refused."""
    with pytest.raises(AppError) as error:
        animate(client, photo, motion, **settings)
    assert "Traceback" not in str(error.value)
    return str(error.value)


def guide_code(language: str, first_word: str) -> str:
    """The block of code in the guide that begins so."""
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"```{language}\n({re.escape(first_word)}.*?)```", text, flags=re.S)
    return code


def test_the_guides_python_example_runs(address, folder, monkeypatch, capsys):
    code = guide_code("python", "import time")
    assert "http://127.0.0.1:7860" in code
    assert "num_inference_steps" not in code  # the model's own are the best: the mini gains nothing by more
    code = code.replace("http://127.0.0.1:7860", address)
    monkeypatch.chdir(folder)
    exec(compile(code, "guide.md", "exec"), {})
    video, _, frames = capsys.readouterr().out.splitlines()[-1].rpartition(" ")
    assert frames == str(FRAMES)
    assert read_metadata(video)["seed"] == 7
    assert inspect(Path(video)).credentials.state == "valid"


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("sh")), reason="needs curl and sh")
def test_the_guides_curl_example_runs(address, folder):
    code = guide_code("sh", "API=").replace("http://127.0.0.1:7860", address)
    env = {**os.environ, "no_proxy": "127.0.0.1"}
    run = subprocess.run(
        ["sh", "-c", code], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=env
    )
    events = re.findall(r"event: (\w+)\ndata: (.*)", run.stdout)
    assert events, run.stderr + run.stdout
    assert {name for name, _ in events[:-1]} <= {"generating", "heartbeat"} and events[-1][0] == "complete"
    video, report = json.loads(events[-1][1])
    assert report["num_frames"] == FRAMES
    assert httpx.get(video["url"], trust_env=False).content[4:8] == b"ftyp"


def test_two_at_once_get_their_own(address, folder):
    found: dict[int, tuple[str, dict]] = {}

    def work(seed: int) -> None:
        own = Client(address, verbose=False, download_files=str(folder / f"got{seed}"))
        found[seed] = animate(own, folder / "me.jpg", folder / "dance.mp4", seed=seed, num_inference_steps=1)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (11, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE)
    assert {seed: report["seed"] for seed, (_, report) in found.items()} == {11: 11, 12: 12}
    assert {seed: read_metadata(video)["seed"] for seed, (video, _) in found.items()} == {11: 11, 12: 12}
    assert found[11][1]["output"] != found[12][1]["output"]


def test_a_caller_who_leaves_takes_the_job_along(served, address, folder, monkeypatch):
    """Also while a job has no news for long, as within a large window."""
    began, stopped = threading.Event(), threading.Event()

    def silent(request, on_progress, should_stop):
        began.set()
        while not should_stop():
            time.sleep(0.01)
        stopped.set()
        raise Cancelled("stopped")

    monkeypatch.setitem(served[1].queue._runners, ANIMATE, silent)
    call = f"{address}/gradio_api/call/animate"
    files = [
        {"path": uploaded(address, path.name, path.read_bytes()), "meta": {"_type": "gradio.FileData"}}
        for path in (folder / "me.jpg", folder / "dance.mp4")
    ]
    event = httpx.post(call, json={"data": [*files, {}]}, trust_env=False).json()["event_id"]
    with httpx.stream("GET", f"{call}/{event}", trust_env=False, timeout=PATIENCE) as reply:
        assert next(reply.iter_lines())
        assert began.wait(PATIENCE) and not stopped.is_set()
    left = time.monotonic()
    assert stopped.wait(PATIENCE)
    print(f"stopped {time.monotonic() - left:.2f} seconds after the caller had left")


def test_two_endpoints_are_for_programs(client):
    described = client.view_api(print_info=False, return_format="dict")
    assert set(described["named_endpoints"]) == {"/animate", "/animate_several"}
    assert not described["unnamed_endpoints"]


def test_several_photos_are_taken_and_what_they_cannot_be_is_refused(client, folder):
    photo, motion = handle_file(folder / "me.jpg"), handle_file(folder / "dance.mp4")

    def refused(**settings) -> str:
        given = {"photos": [photo, photo], "motion": motion, "settings": settings}
        with pytest.raises(AppError) as error:
            client.predict(**given, api_name="/animate_several")
        return str(error.value)

    assert "Several photos need another background" in refused()
    assert "names photo 3, and there are 2" in refused(background="transparent", cast="1,3")


def test_settings_that_cannot_be_are_refused(client, folder):
    files = folder / "me.jpg", folder / "dance.mp4"
    assert "There is no setting 'sed'" in refused(client, *files, sed=1)
    assert "num_inference_steps must be between 1 and 100" in refused(
        client, *files, num_inference_steps=1000
    )
    assert "width must be a multiple of 8. Try 32 or 40" in refused(client, *files, width=33)
    assert "not of the form" in str(
        pytest.raises(
            AppError,
            client.predict,
            handle_file(files[0]),
            handle_file(files[1]),
            [1],
            api_name="/animate",
        ).value
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("program.png", ELF, "not a picture"),
        ("page.jpg", HTML, "holds text, not a picture"),
        ("drawing.svg", SVG, "holds text"),
    ],
)
def test_a_photo_is_judged_by_its_content(client, folder, tmp_path, name, content, said):
    file = tmp_path / name
    file.write_bytes(content)
    assert said in refused(client, file, folder / "dance.mp4")


@pytest.mark.parametrize(
    ("gif", "said"),
    [
        (gif_of(16000, 16000, 3), "16000x16000 pixels and the limit is"),
        (gif_of(60000, 60000, 3), "no frame that can be decoded"),
        (gif_of(4000, 4000, 15000), "unpacks to 15000 frames of 16.0 million pixels"),
        (gif_of(64, 64, 30000), "the limit is 20000"),
    ],
    ids=["wide", "wider", "wide and long", "long"],
)
def test_a_bomb_of_a_gif_does_not_go_off(client, folder, tmp_path, gif, said):
    bomb = tmp_path / "bomb.gif"
    bomb.write_bytes(gif)
    assert len(gif) < 10**6
    began = time.process_time()
    assert said in refused(client, folder / "me.jpg", bomb)
    assert time.process_time() - began < 60  # hundreds of times what a refusal takes


def uploaded(address: str, name: str, content: bytes) -> str:
    """Where the server put an upload."""
    reply = httpx.post(f"{address}/gradio_api/upload", files={"files": (name, content)}, trust_env=False)
    assert reply.status_code == 200
    return reply.json()[0]


def test_an_upload_has_a_limit(served, address, monkeypatch):
    assert served[0].max_file_size == MediaLimits().max_file_bytes
    monkeypatch.setattr(served[0], "max_file_size", 1000)
    files = {"files": ("me.png", bytes(2000))}
    assert httpx.post(f"{address}/gradio_api/upload", files=files, trust_env=False).status_code == 413


@pytest.mark.parametrize("name", ["page.html", "drawing.svg", "../../page.xhtml"])
def test_an_upload_is_never_served_as_a_page(address, folder, name):
    path = uploaded(address, name, SVG)
    assert Path(path).resolve().is_relative_to(scratch_of(folder))
    reply = httpx.get(f"{address}/gradio_api/file={path}", trust_env=False)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in reply.headers["content-security-policy"]


def test_only_the_programs_own_folders_are_served(address, folder):
    results = folder / "results"
    (results / "mine.json").write_text("{}")
    assert httpx.get(f"{address}/gradio_api/file={results}/mine.json", trust_env=False).status_code == 200
    place = urlsplit(address)
    prefixes = ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/svelte/")
    for path in (
        f"{folder}/secret.txt",
        f"{results}/../secret.txt",
        f"{results}/%2e%2e/secret.txt",
        f"{results}/..%2fsecret.txt",
        f"{results}/....//secret.txt",
        f"{scratch_of(folder)}/../secret.txt",
        f"file://{folder}/secret.txt",
        str(ROOT / "app.py"),
        "/etc/passwd",
    ):
        for prefix in prefixes:
            raw = http.client.HTTPConnection(
                place.hostname, place.port, timeout=PATIENCE
            )  # leaves paths alone
            raw.request("GET", prefix + path)
            reply = raw.getresponse()
            assert reply.status in (403, 404, 405), prefix + path
            assert b"secret" not in reply.read().replace(b"secret.txt", b"")
            raw.close()


def test_a_call_cannot_name_a_file_of_the_computer(address, folder):
    data = [{"path": str(folder / "secret.txt"), "meta": {"_type": "gradio.FileData"}}] * 2
    call = f"{address}/gradio_api/call/animate"
    event = httpx.post(call, json={"data": [*data, {}]}, trust_env=False).json()["event_id"]
    reply = httpx.get(f"{call}/{event}", trust_env=False, timeout=PATIENCE).text
    assert "event: error" in reply and "the secret" not in reply


def called(address: str, data: object) -> str:
    """What the server answers to a call with this data, as text."""
    url = f"{address}/gradio_api/call/animate"
    reply = httpx.post(url, json={"data": data}, trust_env=False)
    if reply.status_code != 200:
        return reply.text
    return httpx.get(f"{url}/{reply.json()['event_id']}", trust_env=False, timeout=PATIENCE).text


@pytest.mark.parametrize("scheme", ["http", "HTTP", "ftp", "file"])
def test_nothing_is_fetched_for_anybody(address, scheme):
    """Not from this computer, and not from public addresses either."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"{scheme}://127.0.0.1:{server.server_port}/me.png"
        file = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}
        for data in ([file, file, {}], [[file], None, {}], [None, None, {"deep": [file]}]):
            answer = called(address, data)
            assert "fetches nothing from other sites" in answer, answer
        server.shutdown()
    assert asked == []


@pytest.mark.parametrize(
    "data",
    [
        [5, 5, 5],
        ["a", "b", "c"],
        [[], [], []],
        [{"path": 5}, {"path": []}, {}],
        [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, None, {}],
        [None, None, [1]],
        [None, None, {"seed": [1]}],
        [None],
        {"photo": 1},
    ],
)
def test_values_of_other_kinds_are_refused_in_a_sentence(address, data, caplog):
    secret = "do not log me"
    with caplog.at_level(logging.INFO):
        answer = called(address, data if isinstance(data, dict) else [*data, secret][: max(3, len(data))])
    assert "should not have" not in answer and "Traceback" not in answer, answer
    assert secret not in caplog.text


def test_uploads_are_bounded(served, address, folder):
    url = f"{address}/gradio_api/upload"
    chunks = httpx.post(url, content=iter([b"x"]), trust_env=False)
    assert chunks.status_code == 411 and "how long" in chunks.text
    head = {"content-length": str(5 * 2**30), "content-type": "multipart/form-data; boundary=x"}
    place = urlsplit(address)
    raw = http.client.HTTPConnection(place.hostname, place.port, timeout=PATIENCE)
    raw.putrequest("POST", "/gradio_api/upload")
    for name, value in head.items():
        raw.putheader(name, value)
    raw.endheaders()
    reply = raw.getresponse()
    assert reply.status == 413 and b"too large" in reply.read()


def test_other_sites_are_turned_away(address):
    calls = (("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload"), ("GET", "/"))
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example:7860"}):
        for method, path in calls:
            reply = httpx.request(method, address + path, headers=headers, trust_env=False)
            assert reply.status_code == 403, (headers, path)
            assert "--allow-origin" in reply.text
    assert httpx.get(address, headers={"Origin": address}, trust_env=False).status_code == 200


def test_an_error_nobody_foresaw_is_a_number_for_the_caller(served, client, folder, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError(f"{folder} is none of your business")

    monkeypatch.setattr(served[1], "submit", broken)
    with caplog.at_level(logging.ERROR):
        said = refused(client, folder / "me.jpg", folder / "dance.mp4")
    number = re.search(r"error ([0-9a-f]{6})\)", said)[1]
    assert "none of your business" not in said
    (record,) = [record for record in caplog.records if number in record.message]
    assert "none of your business" in str(record.exc_info[1])


@contextmanager
def signed_in(address: str, name: str, password: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, trust_env=False) as visitor:
        assert visitor.post("/login", data={"username": name, "password": password}).status_code == 200
        yield visitor


def test_who_has_no_password_gets_nothing(tiny_model, tmp_path):
    with running(tiny_model, tmp_path, "--auth", "me:secret") as (blocks, _):
        address = blocks.local_url.rstrip("/")
        mine = tmp_path / "results" / "mine.json"
        mine.write_text("{}")
        with httpx.Client(base_url=address, trust_env=False) as visitor:
            for path in ("/config", "/gradio_api/info", f"/{file_url(mine)}"):
                assert visitor.get(path).status_code == 401, path
            assert visitor.post("/gradio_api/upload", files={"files": ("a", b"a")}).status_code == 401
            assert visitor.post("/login", data={"username": "me", "password": "guess"}).status_code == 400
        with signed_in(address, "me", "secret") as visitor:
            assert visitor.get(f"/{file_url(mine)}").status_code == 200


def test_results_of_others_cannot_be_guessed(tiny_model, folder, tmp_path):
    accounts = tmp_path / "accounts"
    accounts.write_text("anna:one\nben:two\n")
    with running(tiny_model, tmp_path, "--auth", str(accounts)) as (blocks, service):
        address = blocks.local_url.rstrip("/")
        anna = Client(address, auth=("anna", "one"), verbose=False, download_files=str(tmp_path / "got"))
        video, report = animate(anna, folder / "me.jpg", folder / "dance.mp4", num_inference_steps=1)
        assert read_metadata(video)["seed"] == report["seed"]  # she has got it
        result = Path(report["output"])
        (job,) = service.queue.jobs("anna")
        assert str(result) in job.results and service.queue.jobs("ben") == []
        (tmp_path / "link").symlink_to(tmp_path / "results")
        with signed_in(address, "ben", "two") as ben:
            for path in (
                str(result),
                str(result.with_suffix(".json")),
                f"{scratch_of(tmp_path)}/../results/{result.name}",
                f"{tmp_path}/link/{result.name}",
                os.path.relpath(result),
                f"/{result}",
            ):
                for key in ("", "?key=", f"?key={'0' * 32}", f"?key={key_of('another')}", "?key=%ff"):
                    # Encoded, since the client would work out the dots itself.
                    reply = ben.get(f"/gradio_api/file={path.replace('..', '%2e%2e')}{key}")
                    assert (reply.status_code, reply.text[:23]) == (403, "This file is only for t"), (
                        path + key
                    )
            assert ben.get(f"/gradio_api/file/{result}").status_code == 403
        with signed_in(address, "anna", "one") as visitor:  # as it stands in her page
            assert visitor.get(f"/{file_url(result)}").content == result.read_bytes()
            part = visitor.get(f"/{file_url(result)}", headers={"Range": "bytes=0-3"})
            assert (part.status_code, len(part.content)) == (206, 4)
            upload = visitor.post("/gradio_api/upload", files={"files": ("a.txt", b"abc")}).json()[0]
            assert visitor.get(f"/gradio_api/file={upload}").content == b"abc"


def test_guessing_passwords_takes_longer_with_every_guess(tiny_model, tmp_path, monkeypatch):
    now, waited = 0.0, []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    def login(accounts):
        return Login(accounts, delays=LoginDelays(lambda: now), wait=wait)

    monkeypatch.setattr("magicanimate.webui.security.Login", login)
    with (
        running(tiny_model, tmp_path, "--auth", "me:secret") as (blocks, _),
        httpx.Client(base_url=blocks.local_url.rstrip("/"), trust_env=False) as visitor,
    ):

        def tried(name: str, password: str, address: str) -> int:
            headers = {"X-Forwarded-For": address}  # as a proxy on this computer says it
            data = {"username": name, "password": password}
            return visitor.post("/login", data=data, headers=headers).status_code

        for name in ("me", "me", "you", "you", "her"):  # from one address
            assert tried(name, "guess", "10.0.0.1") == 400
        assert waited == [0.0, 0.2, 0.4, 0.8, 1.6]
        assert tried("me", "guess", "10.0.0.2") == 400  # of one account
        assert waited.pop() == 0.4
        assert tried("her", "guess", "10.0.0.3") == 400 and waited.pop() == 0.2
        assert tried("me", "secret", "10.0.0.4") == 200 and waited.pop() == 0.8
        assert tried("me", "secret", "10.0.0.4") == 200 and waited.pop() == 0.0
        now += 601
        assert tried("you", "guess", "10.0.0.1") == 400 and waited.pop() == 0.0


def test_all_style_sheets_come_in_one(address):
    """Time and again, compressed for who can unpack it."""
    for encoding in ("gzip", "identity", "gzip"):
        answer = httpx.get(f"{address}/assets/{ALL_STYLES}", headers={"Accept-Encoding": encoding})
        assert answer.headers["content-type"].startswith("text/css")
        assert answer.headers.get("content-encoding", "identity") == encoding
        assert all(sheet.read_bytes() in answer.content for sheet in style_sheets())
