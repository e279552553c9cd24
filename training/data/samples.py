"""The samples of each stage: drawn by `training.data.draws`, read from a data set and turned into tensors.

Index ``step * batch_size + k`` is sample ``k`` of the global batch of that step, whoever asks for it and in
whatever order. Letters in shape comments: ``F`` frames, ``H W`` pixels, ``C h w`` latents, ``M`` side of a
map of body points.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from magicanimate.errors import InputError
from training.data.draws import (
    Kind,
    clip_frames,
    clip_interval,
    double_beta_pair,
    joint_kind,
    reference_frame,
    sample_generator,
    step_generator,
)
from training.data.sources import Frames, ImageSet, VideoFrames, VideoSet
from training.data.tensors import drawn_to_control, to_images

log = logging.getLogger(__name__)

Sample = dict[str, Any]
"""A sample's tensors by name:

- ``reference`` float32 ``3 H W`` and ``target`` float32 ``F 3 H W``, both in [-1, 1].
- ``control``: control images of the targets by signal, float32 ``F 3 H W`` in [0, 1]; ``reference_control``:
the
  reference's own, ``3 H W``.
- Of a set with precomputed values (`training.data.computed.ComputedVideos`), instead of images and part maps:
  ``latents`` float32 ``F C h w``, ``labels`` uint8 ``F H W`` and ``points`` uint8 ``F M M 4``, each with its
  ``reference_...``, and ``reference_photo_labels`` uint8 ``M M``.
- ``video``, ``frames`` int64 ``F`` and ``reference_frame``: where in the set the sample comes from. For an
image that
  belongs to no video, ``video`` is -1 and ``frames`` is its number in the image set.
"""

_DRAWS = 64
"""Number of failed draws in a row after which the data are given up."""


class DrawnSamples(Dataset):
    """Base of samples that are drawn at random, by seed and index only.

    If a file cannot be read, another sample is drawn in its place, the same one in every run, and training
    goes on.

    Attributes:
        skipped: messages about what could not be read, each once; every data loader worker has its own list.
    """

    def __init__(self, *, batch_size: int, steps: int, seed: int):
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __getitem__(self, index: int) -> Sample:
        # Without this, negative indices would silently be other steps.
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        step, k = divmod(index, self.batch_size)
        # The attempt is part of the seed, so that the replacement
        # is another sample, and the same in every run.
        for attempt in range(_DRAWS):
            try:
                return self.draw(sample_generator(self.seed, step, k, attempt=attempt), step)
            except InputError as error:
                self._skip(str(error))
        raise InputError(f"{_DRAWS} samples in a row cannot be read; the last one: {self.skipped[-1]}")

    def draw(self, rng: np.random.Generator, step: int) -> Sample:
        """Draw and read one sample of a step.

        Raises:
            InputError: it cannot be read.
        """
        raise NotImplementedError

    def _skip(self, sentence: str) -> None:
        if sentence not in self.skipped:
            self.skipped.append(sentence)
            log.warning("skipped: %s", sentence)


class PairSamples(DrawnSamples):
    """Reference and target from the same video, for the first stage (supplement, section 3).

    Their positions follow the double beta distribution. With a probability of tau_0 the sample is a single
    image instead, which is its own reference.
    """

    def __init__(
        self,
        videos: VideoSet,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        images: ImageSet | None = None,
        image_probability: float = 0.0,
        still_share: float = 0.0,
        target_still_share: float = 0.0,
        targets: int = 1,
    ):
        """Set the sources and their shares.

        Args:
            videos: the videos to draw from.
            batch_size: samples in a global batch.
            steps: steps of the run.
            seed: seed of the run.
            images: the image set; the videos' frames when ``None``.
            image_probability: tau_0, the probability of an image instead of a pair.
            still_share: probability that the reference of a pair is one of the video's stills. Like a user's
                photo, a still differs from the clip in pose, place and size.
            target_still_share: probability that a target of such a reference is a still, too.
            targets: number of targets per reference (F); an image is repeated.

        Raises:
            ValueError: stills are wanted, but the videos have none.
        """
        super().__init__(batch_size=batch_size, steps=steps, seed=seed)
        if videos.stills == 0 and (still_share or target_still_share):
            raise ValueError("these videos have no stills")
        self.videos, self.images = videos, images if images is not None else VideoFrames(videos)
        self.image_probability = image_probability
        self.still_share, self.target_still_share = still_share, target_still_share
        self.targets = targets

    def draw(self, rng: np.random.Generator, step: int) -> Sample:
        if rng.random() < self.image_probability:
            return _image_sample(self.images, int(rng.integers(len(self.images))), targets=self.targets)
        video, stills = int(rng.integers(len(self.videos))), self.videos.stills
        count = self.videos.num_frames(video) - stills
        reference, target = (stills + position for position in double_beta_pair(rng, count))
        # Further targets come from anywhere in the clip: the double beta distribution is one of pairs.
        targets = [target, *(stills + rng.integers(count, size=self.targets - 1)).tolist()]
        if rng.random() < self.still_share:
            reference = int(rng.integers(stills))
            # Drawn for all targets at once, so that the number of draws does not depend on their outcome.
            is_still = rng.random(self.targets) < self.target_still_share
            targets = [int(rng.integers(stills)) if k else t for k, t in zip(is_still, targets, strict=True)]
        return _video_sample(self.videos, video, reference, targets)


class ClipSamples(DrawnSamples):
    """A reference and a clip of the same video, or a single frame or image, for the second stage.

    This is image-video joint training (paper, section 3.5). The kind of sample is drawn once per step and
    holds for the whole batch, so that it can be stacked: F is ``length``, or 1.
    """

    def __init__(
        self,
        videos: VideoSet,
        *,
        length: int,
        interval: int,
        batch_size: int,
        steps: int,
        seed: int,
        images: ImageSet | None = None,
        image_probability: float = 0.0,
        frame_probability: float = 0.0,
    ):
        """Set the sources and their shares; videos that are too short are left out and reported.

        Args:
            videos: the videos to draw from.
            length, interval: frames of a clip, and the interval between them, which is smaller in short
                videos.
            batch_size, steps, seed, images: see `PairSamples`.
            image_probability, frame_probability: see `training.data.draws.joint_kind`.

        Raises:
            InputError: no video is long enough.
        """
        super().__init__(batch_size=batch_size, steps=steps, seed=seed)
        # Only for its check of the probabilities, before the first step.
        joint_kind(
            np.random.default_rng(0), image_probability=image_probability, frame_probability=frame_probability
        )
        self.length, self.interval = length, interval
        # Known from the index, so that no step draws a video that is too short.
        self._fitting = _long_enough(videos, length, interval, self._skip)
        self.videos, self.images = videos, images if images is not None else VideoFrames(videos)
        self.image_probability, self.frame_probability = image_probability, frame_probability

    def kind(self, step: int) -> Kind:
        """The kind of all samples of a step."""
        return joint_kind(
            step_generator(self.seed, step),
            image_probability=self.image_probability,
            frame_probability=self.frame_probability,
        )

    def draw(self, rng: np.random.Generator, step: int) -> Sample:
        kind = self.kind(step)
        if kind == "image":
            return _image_sample(self.images, int(rng.integers(len(self.images))))
        # Uniform over the videos, whatever their length.
        video, stills = int(rng.choice(self._fitting)), self.videos.stills
        count = self.videos.num_frames(video)
        length = self.length if kind == "clip" else 1
        # A clip is taken from the continuous part, never across stills.
        frames = stills + clip_frames(rng, count - stills, length=length, interval=self.interval)
        return _video_sample(self.videos, video, reference_frame(rng, count), frames.tolist())


class ImageSamples(DrawnSamples):
    """Single images, each its own reference, for the stages "controlnet" and "vae"; F = 1.

    Args:
        images: the images to draw from.
        batch_size, steps, seed: see `PairSamples`.
        bare: only return ``target``, as uint8 ``F 3 H W``, for the autoencoder: a sixteenth of the bytes.
    """

    def __init__(self, images: ImageSet, *, batch_size: int, steps: int, seed: int, bare: bool = False):
        super().__init__(batch_size=batch_size, steps=steps, seed=seed)
        self.images, self.bare = images, bare

    def draw(self, rng: np.random.Generator, step: int) -> Sample:
        image = int(rng.integers(len(self.images)))
        if self.bare:
            return {"target": torch.from_numpy(np.array(self.images.read(image).pixels)).movedim(-1, -3)}
        return _image_sample(self.images, image)


class ValidationSamples(Dataset):
    """Validation samples: always the same one of every video that is long enough.

    The reference is the video's first frame. A clip begins with the first frame that is no still; a single
    frame (``length`` 1) is the video's last one.

    Raises:
        InputError: no video is long enough.
    """

    def __init__(self, videos: VideoSet, *, length: int = 1, interval: int = 1):
        self.videos = videos
        self.length, self.interval = length, interval
        self._fitting = _long_enough(videos, length, interval, log.warning)

    def __len__(self) -> int:
        return len(self._fitting)

    def __getitem__(self, index: int) -> Sample:
        video, stills = self._fitting[index], self.videos.stills
        count = self.videos.num_frames(video)
        if self.length == 1:
            frames = [count - 1]
        else:
            step = clip_interval(count - stills, length=self.length, interval=self.interval)
            frames = [stills + step * i for i in range(self.length)]
        return _video_sample(self.videos, video, 0, frames)


def _long_enough(videos: VideoSet, length: int, interval: int, report) -> list[int]:
    """Numbers of the videos whose clips have ``length`` frames; ``report`` gets a sentence on others."""
    fitting, too_short = [], ""
    for video in range(len(videos)):
        frames = videos.num_frames(video) - videos.stills
        if clip_interval(frames, length=length, interval=interval):
            fitting.append(video)
        else:
            too_short = f"The video {videos.name(video)} has {frames} frames and a clip needs {length}."
            report(too_short)
    if not fitting:
        raise InputError(f"No video is long enough: {too_short or 'there is none.'}")
    return fitting


def _video_sample(videos: VideoSet, video: int, reference: int, frames: Sequence[int]) -> Sample:
    # In one call, so that a video file is opened once per sample.
    read = videos.read(video, [reference, *frames])
    return _sample(read, shown=0, targets=slice(1, None), video=video, reference=reference, frames=frames)


def _image_sample(images: ImageSet, image: int, *, targets: int = 1) -> Sample:
    video, frame = images.locate(image) if isinstance(images, VideoFrames) else (-1, image)
    return _sample(
        images.read(image),
        shown=0,
        targets=[0] * targets,
        video=video,
        reference=frame,
        frames=[frame] * targets,
    )


def _sample(
    read: Frames, *, shown: int, targets: slice | list[int], video: int, reference: int, frames: Sequence[int]
) -> Sample:
    sample: Sample = {
        "control": {name: drawn_to_control(drawn[targets]) for name, drawn in read.control.items()},
        "reference_control": {name: drawn_to_control(drawn[shown]) for name, drawn in read.control.items()},
        "video": video,
        "frames": torch.tensor(frames, dtype=torch.int64),
        "reference_frame": reference,
    }
    if read.pixels is not None:
        sample |= {"reference": to_images(read.pixels[shown]), "target": to_images(read.pixels[targets])}
    # Indexed before the copy: the arrays are memory maps of the whole set.
    for name in ("latents", "labels", "points"):
        if (found := getattr(read, name)) is not None:
            kind = np.float32 if name == "latents" else np.uint8  # autocast on a CPU cannot stack float16
            sample[name] = torch.from_numpy(np.array(found[targets], dtype=kind))
            sample[f"reference_{name}"] = torch.from_numpy(np.array(found[shown], dtype=kind))
    if read.photo_labels is not None:
        sample["reference_photo_labels"] = torch.from_numpy(np.array(read.photo_labels[shown]))
    return sample
