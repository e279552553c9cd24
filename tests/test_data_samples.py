"""Samples: shapes and ranges, the mixture, the same in any order and process, and broken files on the way."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from magicanimate.errors import InputError
from tests.dancer_files import write_boxes
from tests.training_files import number_in, write_picture, write_video
from training.data.computed import ComputedVideos, compute_all
from training.data.dancers import DancerVideos
from training.data.images import ImageFolder
from training.data.samples import ClipSamples, ImageSamples, PairSamples, ValidationSamples
from training.data.sources import VideoFrames
from training.data.tensors import draw_labels, labels_of, to_images
from training.data.videos import VideoFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three videos of 40, 22 and 6 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for name, count in (("a", 40), ("b", 22), ("c", 6)):
        write_video(folder, name, count)
    return folder


@pytest.fixture(scope="module")
def videos(folder) -> VideoFolder:
    return VideoFolder(folder, size=32)


@pytest.fixture(scope="module")
def dancers(tmp_path_factory) -> DancerVideos:
    return DancerVideos(write_boxes(tmp_path_factory.mktemp("d"), identities=4, size=32, stills=3, frames=8))


def number(picture: torch.Tensor) -> int:
    """The number of a frame of the test videos from float32 3 H W in [-1, 1]."""
    return number_in(((picture + 1) * 127.5).numpy())


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_latents_are_computed_once_for_an_autoencoder(dancers, tmp_path):
    def shrink(images: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(images, 8)

    path = tmp_path / "latents.npy"
    latents = compute_all(dancers, path, shrink)
    assert latents.shape == (4, 11, 3, 4, 4) and latents.dtype == np.float16
    expected = shrink(to_images(dancers.rgb[1, 2:3]))[0]
    np.testing.assert_allclose(latents[1, 2], expected, atol=1e-3)
    ahead = compute_all(dancers, tmp_path / "ahead.npy", shrink, batch_size=24, threads=3)
    assert np.array_equal(ahead, latents), "several videos at once, read by several threads"
    made = path.stat().st_mtime_ns
    compute_all(dancers, path, lambda images: shrink(images) * 1.001)  # as rounding may differ
    assert path.stat().st_mtime_ns == made
    cut = path.read_bytes()[:100]
    path.unlink()  # what is mapped stays as it is
    path.write_bytes(cut)  # as after a full disk
    assert np.array_equal(compute_all(dancers, path, shrink), ahead)
    other = compute_all(dancers, path, lambda images: -shrink(images))
    np.testing.assert_allclose(other, -np.asarray(latents))


@pytest.mark.parametrize("size", [32, 16])
def test_computed_set_has_latents_and_labels_in_place_of_pictures(dancers, tmp_path, size):
    videos = DancerVideos(dancers.folder, size=size)
    files = {"latents": tmp_path / "l.npy", "photo_labels": tmp_path / "p.npy"}
    compute_all(videos, files["latents"], lambda images: functional.avg_pool2d(images, 8))
    compute_all(videos, files["photo_labels"], lambda images: (images[:, 0] > 0).to(torch.uint8))
    computed = ComputedVideos(videos, files)
    for samples in (
        PairSamples(computed, batch_size=1, steps=6, seed=0, still_share=0.5, targets=2),
        pickle.loads(
            pickle.dumps(ClipSamples(computed, length=4, interval=1, batch_size=1, steps=6, seed=0))
        ),
        ImageSamples(VideoFrames(computed), batch_size=1, steps=6, seed=0),
    ):
        for k in range(6):
            sample = samples[k]
            assert "target" not in sample and sample["control"] == {}
            video, frames, shown = sample["video"], sample["frames"].tolist(), sample["reference_frame"]
            read = videos.read(video, [shown, *frames])
            latents = functional.avg_pool2d(to_images(read.pixels), 8)
            torch.testing.assert_close(sample["latents"].float(), latents[1:], atol=1e-3, rtol=0)
            torch.testing.assert_close(sample["reference_latents"].float(), latents[0], atol=1e-3, rtol=0)
            ids = torch.stack([sample["reference_labels"], *sample["labels"]])
            drawn = torch.from_numpy(read.control["densepose"]).movedim(-1, 1) / 255
            assert torch.equal(labels_of(draw_labels(ids)), ids.long())
            assert (labels_of(drawn) == ids).float().mean() > 0.95, "scaled maps may differ at the edges"
            assert np.array_equal(sample["points"], dancers.points[video, frames])
            assert sample["reference_photo_labels"].shape == (size, size)
    shown = ValidationSamples(ComputedVideos(videos, files, pixels=True), length=4)[1]
    assert {"latents", "target", "reference"} <= shown.keys() and "densepose" in shown["control"]


def test_pair_is_what_its_numbers_say(videos):
    samples = PairSamples(videos, batch_size=4, steps=10, seed=0)
    assert len(samples) == 40
    for index in range(0, 40, 3):
        sample = samples[index]
        assert sample["reference"].shape == (3, 32, 32)
        assert sample["target"].shape == sample["control"]["densepose"].shape == (1, 3, 32, 32)
        assert sample["target"].dtype == torch.float32
        assert sample["target"].min() >= -1 and sample["control"]["densepose"].min() >= 0
        assert sample["control"]["densepose"].max() <= 1
        assert number(sample["reference"]) == sample["reference_frame"]
        assert number(sample["target"][0]) == int(sample["frames"][0])
        assert sample["reference_frame"] <= int(sample["frames"][0]) < videos.num_frames(sample["video"])
    with pytest.raises(IndexError):
        samples[40]


def test_samples_depend_on_seed_step_and_place_only(videos):
    def make(seed, batch_size=4):
        return PairSamples(videos, batch_size=batch_size, steps=10, seed=seed, image_probability=0.3)

    first, again = make(1), make(1)
    forwards = [first[i] for i in range(8)]
    backwards = [again[i] for i in reversed(range(8))]
    assert all(same(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert not all(same(forwards[i], make(2)[i]) for i in range(8))


def test_pair_mixture_of_dancers(dancers):
    """Shares of images, stills as references and stills as targets."""
    samples = PairSamples(
        dancers,
        batch_size=10,
        steps=40,
        seed=0,
        image_probability=0.2,
        still_share=0.5,
        target_still_share=0.25,
    )
    drawn = [samples[i] for i in range(400)]
    own = np.array([s["reference_frame"] == int(s["frames"][0]) for s in drawn])
    references = np.array([s["reference_frame"] < 3 for s in drawn])
    targets = np.array([int(s["frames"][0]) < 3 for s in drawn])
    # An image is any of the eleven pictures, three of them stills; some pairs meet in one frame by chance.
    assert 0.2 < own.mean() < 0.4
    assert abs(references.mean() - (0.2 * 3 / 11 + 0.8 * 0.5)) < 0.08
    # Of the targets, a quarter of those whose reference is a still.
    assert abs(targets.mean() - (0.2 * 3 / 11 + 0.8 * 0.5 * 0.25)) < 0.06
    assert all(torch.equal(s["reference"], s["target"][0]) for s, o in zip(drawn, own, strict=True) if o)


def test_stills_of_videos_without_any_are_refused(videos):
    with pytest.raises(ValueError, match="no stills"):
        PairSamples(videos, batch_size=1, steps=1, seed=0, still_share=0.5)


def test_images_of_an_image_set_are_their_own_reference(videos, tmp_path):
    write_picture(tmp_path, "x", 50)
    images = ImageFolder(tmp_path, size=32)
    samples = PairSamples(videos, batch_size=1, steps=20, seed=0, images=images, image_probability=1.0)
    sample = samples[7]
    assert (sample["video"], number(sample["target"][0])) == (-1, 50)
    assert torch.equal(sample["reference"], sample["target"][0])
    single = ImageSamples(images, batch_size=2, steps=3, seed=0)[5]
    assert same(single, sample)


def test_clips_are_consecutive_and_come_from_long_enough_videos(videos, caplog):
    samples = ClipSamples(videos, length=8, interval=4, batch_size=3, steps=6, seed=0)
    assert len(samples.skipped) == 1 and "c.mp4" in samples.skipped[0] and "c.mp4" in caplog.text
    for index in range(18):
        sample = samples[index]
        assert sample["target"].shape == (8, 3, 32, 32)
        assert sample["video"] in (0, 1)
        assert (sample["frames"].diff() == (4 if sample["video"] == 0 else 3)).all()
        assert [number(picture) for picture in sample["target"]] == sample["frames"].tolist()
        assert number(sample["reference"]) == sample["reference_frame"]
    with pytest.raises(InputError, match="No video is long enough.*41"):
        ClipSamples(videos, length=41, interval=1, batch_size=1, steps=1, seed=0)


def test_a_step_has_one_kind_and_so_one_shape(videos):
    samples = ClipSamples(
        videos,
        length=4,
        interval=2,
        batch_size=3,
        steps=40,
        seed=0,
        image_probability=0.3,
        frame_probability=0.3,
    )
    kinds = [samples.kind(step) for step in range(40)]
    assert set(kinds) == {"clip", "frame", "image"}
    for kind in ("clip", "frame", "image"):
        step = kinds.index(kind)
        batch = [samples[3 * step + k] for k in range(3)]
        assert {len(sample["frames"]) for sample in batch} == {4 if kind == "clip" else 1}
        own = [torch.equal(s["reference"], s["target"][0]) for s in batch]
        assert all(own) if kind == "image" else not all(own)


def test_clips_of_dancers_leave_the_stills_to_the_references(dancers):
    samples = ClipSamples(dancers, length=8, interval=4, batch_size=4, steps=20, seed=0)
    drawn = [samples[i] for i in range(80)]
    assert all(s["frames"].tolist() == list(range(3, 11)) for s in drawn)
    assert {s["reference_frame"] for s in drawn} >= {0, 1, 2, 3}


def test_fixed_samples_are_the_first_clip_and_the_last_frame(videos, dancers):
    clips = ValidationSamples(videos, length=8, interval=2)
    assert len(clips) == 2 and clips[1]["frames"].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    pairs = ValidationSamples(dancers)
    assert len(pairs) == 4 and pairs[2]["frames"].tolist() == [10] and pairs[2]["reference_frame"] == 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_loader_gives_the_same_batches_with_and_without_workers(videos, workers):
    samples = ClipSamples(videos, length=4, interval=2, batch_size=2, steps=3, seed=5, frame_probability=0.4)
    context = "spawn" if workers else None  # as in training
    batches = list(DataLoader(samples, batch_size=2, num_workers=workers, multiprocessing_context=context))
    for step, batch in enumerate(batches):
        for k in range(2):
            alone = samples[2 * step + k]
            assert torch.equal(batch["target"][k], alone["target"])
            assert torch.equal(batch["control"]["densepose"][k], alone["control"]["densepose"])
            assert int(batch["video"][k]) == alone["video"]
            assert torch.equal(batch["frames"][k], alone["frames"])


def test_samples_pickle(videos, dancers):
    for samples in (
        PairSamples(dancers, batch_size=2, steps=2, seed=0),
        ClipSamples(videos, length=4, interval=2, batch_size=2, steps=2, seed=0),
        ImageSamples(VideoFrames(dancers), batch_size=2, steps=2, seed=0),
    ):
        assert same(pickle.loads(pickle.dumps(samples))[3], samples[3])


def test_broken_file_is_replaced_named_once_and_the_rest_untouched(tmp_path, caplog):
    for name in ("a", "b", "c"):
        write_video(tmp_path, name, 9)
    found = VideoFolder(tmp_path, size=32)
    whole = PairSamples(found, batch_size=4, steps=8, seed=3)
    before = [whole[i] for i in range(32)]
    (tmp_path / "b.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:300])
    damaged, again = (PairSamples(found, batch_size=4, steps=8, seed=3) for _ in range(2))
    after = [damaged[i] for i in range(32)]
    broken = [sample["video"] == 1 for sample in before]
    assert 0 < sum(broken) < 32
    for old, new, was_broken in zip(before, after, broken, strict=True):
        assert new["video"] != 1
        assert was_broken or same(old, new)
    assert all(same(again[i], after[i]) for i in reversed(range(32))), "replaced alike in any order"
    assert len(damaged.skipped) == 1 and "b.mp4" in damaged.skipped[0]
    assert sum("b.mp4" in record.getMessage() for record in caplog.records) == 2  # once by each of the two


def test_nothing_that_reads_is_an_error(tmp_path):
    write_video(tmp_path, "a", 9)
    samples = PairSamples(VideoFolder(tmp_path, size=32), batch_size=1, steps=1, seed=0)
    (tmp_path / "a.densepose.mp4").unlink()
    with pytest.raises(InputError, match="a.densepose.mp4"):
        samples[0]
