"""Fixtures for all tests."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# The networks of the tests are tiny: threads would only wait for each other, the more so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what is put into the background deaf to Ctrl-C, and so would be the programs of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 400
"""Seconds after which a test gives up waiting. Slowness alone must not reach it: it only ends what hangs."""


def pytest_terminal_summary(terminalreporter) -> None:
    """Say in one line what was left out, and what it needs."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        each = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"Left out: {each}.")


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This program's own folder, so that tests leave that of the user alone."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAGICANIMATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real samples beside the checkout; users do not have it."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("need ../shared (reference numbers and real samples), which only developers have")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of the mini's kind with every part, random weights and 32 x 32 pixels."""
    import torch

    from magicanimate.models.unet import VideoUNet
    from magicanimate.pipeline import MagicAnimatePipeline
    from training.initial_networks import NewNetworks, build_scheduler
    from training.presets import tiny_network

    config, new = tiny_network(), NewNetworks(tiny_network())
    with torch.random.fork_rng():  # temporal layers of a training begin as zeros, and would show nothing here
        unet_config = new.video_unet().config
    torch.manual_seed(0)
    pipe = MagicAnimatePipeline(
        vae=new.autoencoder(),
        unet=VideoUNet.from_config(unet_config),
        appearance_encoder=new.appearance_encoder(),
        controlnet=new.controlnet("controlnet"),
        scheduler=build_scheduler(),
        empty_prompt=new.empty_prompt(),
        kind="mini",
        default_width=config.size,
        default_height=config.size,
        default_steps=2,
        default_guidance_scale=2.0,
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a part segmenter that knows the figure of the test clips."""
    from tests.small_segmenter import write_segmenter

    return write_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from tests.browser_page import launched

    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published layout at tiny size; not to be written to."""
    from tests.published_layout import write_published_layout

    return write_published_layout(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def converted(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline folder made of it; not to be written to."""
    from magicanimate.checkpoints.convert import convert_checkpoint

    return convert_checkpoint(published, tmp_path_factory.mktemp("converted") / "full")


@pytest.fixture
def layout(published: Path, tmp_path: Path) -> Path:
    """A copy of the published layout to break; files are links until they are replaced."""
    return shutil.copytree(published, tmp_path / "published", copy_function=os.link)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory) -> Path:
    """Rendered "dancers" for tiny trainings: coloured boxes."""
    from tests.dancer_files import write_boxes

    return write_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory) -> Path:
    """Folder of runs with the stages of the mini, a few steps each."""
    from tests.training_runs import train

    folder = tmp_path_factory.mktemp("runs")
    for stage in ("vae", "base", "stage2", "distill", "sharpen"):
        train(stage, data_folder, folder)
    return folder


@pytest.fixture
def work(tmp_path: Path):
    """A runner of jobs that wait until they are let go."""
    from tests.waiting_work import Work

    return Work(tmp_path)


@pytest.fixture
def queue(tmp_path: Path, work):
    """A queue of such jobs, in ``tmp_path``."""
    from magicanimate.webui.jobs.queue import JobQueue

    queue = JobQueue(tmp_path, {"work": work})
    yield queue
    queue.close()
