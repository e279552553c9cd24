"""Opens the data of a stage: what it learns from, and what is held out to look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from magicanimate.errors import InputError
from training.config import CLIP_STAGES, SIGNALS, StageConfig
from training.data.computed import ComputedVideos, LatentVideos, compute_all
from training.data.dancers import DancerVideos
from training.data.opening import open_images, open_videos
from training.data.samples import ClipSamples, FixedSamples, ImageSamples, PairSamples
from training.data.sources import ImageSet, VideoFrames, VideoSet, hold_out

MEASURED_PICTURES = 512
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class DataFolders:
    """Where the data lie.

    Attributes:
        videos: rendered dancers or real videos, see `training.data.opening.open_videos`.
        images: pictures for the joint training; the videos' frames serve when ``None``.
    """

    videos: Path
    images: Path | None = None

    def as_json(self) -> dict[str, str | None]:
        """The paths as text, absolute: a training may be resumed from another folder."""
        return {name: str(path.resolve()) if path else None for name, path in vars(self).items()}


@dataclass(frozen=True)
class Data:
    """The samples of a stage.

    Attributes:
        samples: to learn from, by global sample index.
        held_out: to look at, of videos that are never learned from.
        pictures: some training pictures, to measure latents with.
        fixed: the whole set of videos if all its latents can be computed beforehand.
        learned: real videos to learn from, if their latents can be kept (`StageConfig.cache_latents`).
    """

    samples: Dataset
    held_out: Dataset
    pictures: Dataset
    fixed: DancerVideos | None = None
    learned: VideoSet | None = None

    def with_latents(self, config: StageConfig, encode: Network, folder: Path, *, key: str) -> Data:
        """The same samples with latents of real videos, computed once, in place of pictures.

        Args:
            config: of the stage.
            encode: images ``B 3 H W`` in [-1, 1] -> latents ``B C h w``.
            folder: for the files.
            key: tells the autoencoder.

        Raises:
            InputError: there are no real videos, or other images, whose latents are not kept.
        """
        if self.learned is None:
            raise InputError(
                "--cache-latents is for real videos without --images; rendered dancers' are always kept."
            )
        key = f"{key} {config.size} {config.framing}"
        videos = LatentVideos(self.learned, folder, encode, key=key)
        return replace(self, samples=_samples(config, videos, None))

    def computed(
        self, config: StageConfig, networks: Mapping[str, Network], folder: Path, *, on_gpu: bool = False
    ) -> Data:
        """The same samples with what ``networks`` make of the pictures, computed once, in their place.

        A set whose pictures are not all there from the start stays as it is.

        Args:
            config: of the stage.
            networks: "latents", and "photo_labels" if the appearance encoder takes them, see
                `training.data.sources.Frames`: images ``B 3 H W`` in [-1, 1] -> ``B ...``.
            folder: for the files, named after the data, the size and the network.
            on_gpu: whether the networks compute there, which wants more images at once and read in time.
        """
        if self.fixed is None:
            return self
        files = {name: folder / computed_file(self.fixed, name) for name in networks}
        for name, network in networks.items():
            many = {"batch_size": 128, "threads": min(16, os.cpu_count() or 1)} if on_gpu else {}
            compute_all(self.fixed, files[name], network, **many)
        train, _ = hold_out(ComputedVideos(self.fixed, files), config.holdout)
        _, held_out = hold_out(ComputedVideos(self.fixed, files, pixels=True), config.holdout)
        return replace(self, samples=_samples(config, train, None), held_out=_to_look_at(config, held_out))


def computed_file(videos: DancerVideos, name: str) -> str:
    """What to call a file of `Data.computed`."""
    return f"{videos.folder.resolve().name}_{videos.size}_{name}.npy"


def open_data(config: StageConfig, folders: DataFolders, *, index_folder: Path | None = None) -> Data:
    """Open the folders as the stage wants them.

    Args:
        config: of the stage.
        folders: where the data lie.
        index_folder: for an index of the data, if their own folder cannot be written to.

    Raises:
        InputError: a folder is missing, holds too little or does not fit the settings.
    """
    shared = {"size": config.size, "signals": SIGNALS[config.driving], "index_folder": index_folder}
    shared |= {"framing": config.framing}
    videos = open_videos(folders.videos, **shared)
    images = open_images(folders.images, **shared) if folders.images else None
    try:
        train, held_out = hold_out(videos, config.holdout)
        samples = _samples(config, train, images)
    except ValueError as error:
        raise InputError(f"{folders.videos} does not fit the settings: {error}") from error
    computable = isinstance(videos, DancerVideos) and videos.rgb.shape[2] % config.size == 0
    return Data(
        samples=samples,
        held_out=_to_look_at(config, held_out),
        pictures=ImageSamples(VideoFrames(train), batch_size=1, steps=MEASURED_PICTURES, seed=0),
        fixed=videos if computable and images is None else None,
        learned=train if not isinstance(videos, DancerVideos) and images is None else None,
    )


def _to_look_at(config: StageConfig, videos: VideoSet) -> FixedSamples:
    length = config.num_frames if config.stage in CLIP_STAGES else 1
    return FixedSamples(videos, length=length, interval=config.interval)


def _samples(config: StageConfig, videos: VideoSet, images: ImageSet | None) -> Dataset:
    """What the stage learns from; the thresholds tau are explained at `training.data.draws.joint_kind`."""
    place = {"batch_size": config.samples_a_step, "steps": config.steps, "seed": config.seed}
    if config.stage in ("vae", "controlnet"):
        return ImageSamples(images or VideoFrames(videos), bare=config.stage == "vae", **place)
    if config.stage in CLIP_STAGES:
        return ClipSamples(
            videos,
            length=config.num_frames,
            interval=config.interval,
            images=images,
            image_probability=config.tau_1,
            frame_probability=config.tau_2 - config.tau_1,
            **place,
        )
    return PairSamples(
        videos,
        images=images,
        image_probability=config.tau_0,
        still_share=config.still_share,
        target_still_share=config.target_still_share,
        targets=config.targets,
        **place,
    )
