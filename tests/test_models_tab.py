"""The models in the page: fetched from a stand-in for the Hub, paused, resumed, used without a restart."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from magicanimate.checkpoints import layout as layout_module
from magicanimate.checkpoints.disk import downloads_folder
from magicanimate.config import Progress
from magicanimate.errors import Cancelled, InputError
from magicanimate.webui.models import ModelFetch
from magicanimate.webui.page import Page
from magicanimate.webui.service import AnimationService
from tests.conftest import PATIENCE
from tests.published_layout import TINY_TEXT, TINY_UNET, TINY_VAE, write_single_file
from tests.test_hub import converted, hub_server, published  # noqa: F401  (fixtures)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def wait_for(fetch: ModelFetch, state: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while fetch.status.state != state:
        assert time.monotonic() < deadline, fetch.status
        time.sleep(0.01)


def test_a_download_is_paused_gone_on_with_and_given_up(home, monkeypatch):
    begun = threading.Event()

    def fetch(*, on_progress, should_stop):
        downloads_folder().mkdir(parents=True, exist_ok=True)
        (downloads_folder() / "part").write_bytes(b"1")
        on_progress(Progress("download", 1, 2))
        begun.set()
        while not should_stop():
            time.sleep(0.001)
        raise Cancelled("stopped")

    monkeypatch.setattr("magicanimate.webui.models.fetch_full", fetch)
    fetching = ModelFetch()
    assert fetching.status.state == "idle"
    fetching.start()
    assert begun.wait(PATIENCE)
    fetching.pause()
    assert fetching.status.state == "paused" and fetching.status.progress.step == 1
    assert ModelFetch().status.state == "paused"  # as the next start of the program finds it
    fetching.start()
    wait_for(fetching, "running")
    fetching.cancel()
    assert fetching.status.state == "idle" and not downloads_folder().exists()


def test_a_failure_is_a_sentence_and_may_be_tried_again(home, monkeypatch):
    def fetch(**_):
        raise InputError("There is no connection.")

    monkeypatch.setattr("magicanimate.webui.models.fetch_full", fetch)
    fetching = ModelFetch()
    fetching.start()
    wait_for(fetching, "failed")
    assert fetching.status.error == "There is no connection."


def test_a_base_that_does_not_fit_is_refused_before_anything_is_fetched(home, tiny_model, tmp_path):
    service = AnimationService(tiny_model, tmp_path / "out", device="cpu")
    tab = Page(service, [], queue_size=2, training=True).models
    other = tmp_path / "other.safetensors"
    save_file({"lora_unet_conv_in.lora_up.weight": torch.ones(1)}, other)
    told = tab._use_folder(str(other))[tab.note]
    assert "other.safetensors is a LoRA" in told and str(tmp_path) not in told
    service.close()


def test_the_full_model_is_fetched_in_the_page_and_used(
    home,
    hub_server,  # noqa: F811
    tiny_model,
    tmp_path,
    monkeypatch,
):
    service = AnimationService(tiny_model, tmp_path / "out", device="cpu")
    page = Page(service, [], queue_size=2, training=True)
    tab, press = page.models, lambda action, model="full": SimpleNamespace(action=action, model=model)
    told = tab._update()
    assert "Download (11 GB)" in told[tab.list] and " free on this disk" in told[tab.list]
    assert tab._act(press("start"))[tab.timer].active
    wait_for(tab.fetch, "done")
    told = tab._update()
    assert ">Use<" in told[tab.list] and "Download" not in told[tab.list] and not told[tab.timer].active
    used = tab._act(press("use"))
    assert service.model_name == "full" and "Full model" in used[page.animate.badge]
    assert "In use" in used[tab.list] and "next video" in used[tab.note]
    back = tab._use_folder(f'"{tiny_model}"')
    assert service.model_name == str(tiny_model) and "In use" in back[tab.list]
    # A base model is combined with the full one, which is here now; a single file says no sizes.
    for name, config in {"unet": TINY_UNET, "vae": TINY_VAE, "text_encoder": TINY_TEXT}.items():
        monkeypatch.setitem(layout_module._SD15, name, config)
    base = write_single_file(tmp_path / "mine.safetensors")
    assert "base model" in tab._announce(str(base)) and tab._announce(str(tiny_model)) == ""
    used = tab._use_folder(str(base))
    assert service.model_name == str(home / "bases" / "mine") and "In use" in used[tab.list]
    other = tmp_path / "other.safetensors"
    save_file({"lora_unet_conv_in.lora_up.weight": torch.ones(1)}, other)
    assert "is a LoRA" in tab._use_folder(str(other))[tab.note]
    tab._use_folder(str(tiny_model))
    wrong = tab._use_folder(str(tmp_path / "none"))
    assert "none" in wrong[tab.note] and service.model_name == str(tiny_model)
    service.close()
