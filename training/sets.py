"""Opens the data of a stage: the samples it is trained on, and the held-out ones it is checked with."""

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
from training.data.samples import ClipSamples, ImageSamples, PairSamples, ValidationSamples
from training.data.sources import ImageSet, VideoFrames, VideoSet, hold_out

MEASURED_PICTURES = 512
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class DataFolders:
    """Folders of the training data.

    Attributes:
        videos: rendered dancers or real videos, see `training.data.opening.open_videos`.
        images: single images for image-video joint training; the videos' frames are used when ``None``.
    """

    videos: Path
    images: Path | None = None

    def as_json(self) -> dict[str, str | None]:
        """Absolute paths as text: a run may be resumed from another working directory."""
        return {name: str(path.resolve()) if path else None for name, path in vars(self).items()}


@dataclass(frozen=True)
class Data:
    """The samples of a stage.

    Attributes:
        samples: training samples, by global sample index.
        held_out: validation samples, of videos that are never trained on.
        pictures: some training pictures, for measuring latents.
        dancers: the whole set of rendered dancers, if everything of it can be computed before training.
        real_videos: the real videos to train on, if their latents can be cached
            (`StageConfig.cache_latents`).
    """

    samples: Dataset
    held_out: Dataset
    pictures: Dataset
    dancers: DancerVideos | None = None
    real_videos: VideoSet | None = None

    def with_latents(self, config: StageConfig, encode: Network, folder: Path, *, key: str) -> Data:
        """The same samples with cached latents of the real videos in place of their pictures.

        Args:
            config: settings of the stage.
            encode: images, float32 ``B 3 H W`` in [-1, 1] -> latents ``B C h w``.
            folder: for the files.
            key: identifies the autoencoder.

        Raises:
            InputError: there are no real videos, or there are other images, whose latents are not cached.
        """
        if self.real_videos is None:
            raise InputError(
                "--cache-latents is for real videos without --images; rendered dancers' are always kept."
            )
        key = f"{key} {config.size} {config.framing}"
        videos = LatentVideos(self.real_videos, folder, encode, key=key)
        return replace(self, samples=_samples(config, videos, None))

    def computed(
        self, config: StageConfig, networks: Mapping[str, Network], folder: Path, *, on_gpu: bool = False
    ) -> Data:
        """The same samples with the precomputed outputs of frozen ``networks`` in place of the pictures.

        Only for sets whose pictures are all known beforehand (``dancers``); others are returned as they are.

        Args:
            config: settings of the stage.
            networks: "latents", and "photo_labels" if the appearance encoder takes them (see
                `training.data.sources.Frames`); each maps images, float32 ``B 3 H W`` in [-1, 1], to ``B
                ...``.
            folder: for the files, named after the data, the size and the network.
            on_gpu: whether the networks compute on a GPU, which needs larger batches and faster reading.
        """
        if self.dancers is None:
            return self
        files = {name: folder / computed_file(self.dancers, name) for name in networks}
        for name, network in networks.items():
            # On a CPU few pictures at once are faster, as their
            # activations stay in its caches (see compute_all).
            many = {"batch_size": 128, "threads": min(16, os.cpu_count() or 1)} if on_gpu else {}
            compute_all(self.dancers, files[name], network, **many)
        # A photo is warped in pixels.
        pixels = config.first_latents == "warped_photo"
        train, _ = hold_out(ComputedVideos(self.dancers, files, pixels=pixels), config.holdout)
        # Validation needs the pictures themselves, to compare results with.
        _, held_out = hold_out(ComputedVideos(self.dancers, files, pixels=True), config.holdout)
        return replace(
            self, samples=_samples(config, train, None), held_out=_validation_samples(config, held_out)
        )


def computed_file(videos: DancerVideos, name: str) -> str:
    """File name of a network's outputs in `Data.computed`."""
    return f"{videos.folder.resolve().name}_{videos.size}_{name}.npy"


def open_data(config: StageConfig, folders: DataFolders, *, index_folder: Path | None = None) -> Data:
    """Open the data folders and make the samples of a stage.

    Args:
        config: settings of the stage.
        folders: the data folders.
        index_folder: for an index of the data, if their own folder is read-only.

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
    # Labels are taken of every n-th pixel, so n has to be whole; other images have no precomputed latents.
    computable = isinstance(videos, DancerVideos) and videos.rgb.shape[2] % config.size == 0
    return Data(
        samples=samples,
        held_out=_validation_samples(config, held_out),
        pictures=ImageSamples(VideoFrames(train), batch_size=1, steps=MEASURED_PICTURES, seed=0),
        dancers=videos if computable and images is None else None,
        real_videos=train if not isinstance(videos, DancerVideos) and images is None else None,
    )


def _validation_samples(config: StageConfig, videos: VideoSet) -> ValidationSamples:
    length = config.num_frames if config.stage in CLIP_STAGES else 1
    return ValidationSamples(videos, length=length, interval=config.interval)


def _samples(config: StageConfig, videos: VideoSet, images: ImageSet | None) -> Dataset:
    """The training samples of a stage; `training.data.draws.joint_kind` explains the thresholds tau."""
    place = {"batch_size": config.samples_a_step, "steps": config.steps, "seed": config.seed}
    # No motion and no reference to learn from: single images, each its own reference.
    if config.stage in ("vae", "controlnet"):
        return ImageSamples(images or VideoFrames(videos), bare=config.stage == "vae", **place)
    if config.stage in CLIP_STAGES:
        return ClipSamples(
            videos,
            length=config.num_frames,
            interval=config.interval,
            images=images,
            image_probability=config.tau_1,
            # The thresholds are cumulative: the middle range is the single frames'.
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
