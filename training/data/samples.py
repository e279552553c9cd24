"""The samples a stage learns from: what is drawn, read from a set and turned into tensors.

Index ``step * batch_size + k`` is sample ``k`` of the global batch of that step, whoever asks for it and in
whatever order. Letters in shape comments: ``F`` frames, ``H W`` pixels.
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
"""``reference`` float32 3 H W in [-1, 1]; ``target`` F 3 H W likewise; ``control`` name -> F 3 H W in [0, 1];
``reference_control`` name -> 3 H W, the reference's own.

Of a set that was computed beforehand (`training.data.computed.ComputedVideos`) in place of pictures and drawn
part maps: ``latents`` float32 F C h w, ``labels`` uint8 F H W, ``points`` uint8 F M M 4, each with its
``reference_...``, and ``reference_photo_labels`` uint8 M M.

``video``, ``frames`` int64 F and ``reference_frame``: where in the video set they come from. Of an image that
belongs to no video, ``video`` is -1 and ``frames`` its number in the image set."""

_DRAWS = 64
"""So many draws in a row may fail before the data is given up."""


class DrawnSamples(Dataset):
    """Samples drawn at random, by seed and index only.

    If a file cannot be read the sample is drawn anew, by the same numbers in every run, and training goes on.

    Attributes:
        skipped: a sentence for each thing that could not be read, each once; loader workers keep their own.
    """

    def __init__(self, *, batch_size: int, steps: int, seed: int):
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        step, k = divmod(index, self.batch_size)
        for attempt in range(_DRAWS):
            try:
                return self.draw(sample_generator(self.seed, step, k, attempt=attempt), step)
            except InputError as error:
                self._skip(str(error))
        raise InputError(f"{_DRAWS} samples in a row cannot be read; the last one: {self.skipped[-1]}")

    def draw(self, rng: np.random.Generator, step: int) -> Sample:
        """Draw and read one sample of a step; ``InputError`` if it cannot be read."""
        raise NotImplementedError

    def _skip(self, sentence: str) -> None:
        if sentence not in self.skipped:
            self.skipped.append(sentence)
            log.warning("skipped: %s", sentence)


class PairSamples(DrawnSamples):
    """Reference and target from one video (first stage); F = 1.

    Their positions follow the double beta distribution. With ``image_probability`` (tau_0) it is an image
    instead, which is its own reference.
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
        """Choose the mixture.

        Args:
            videos: to draw from.
            batch_size: samples of a global batch.
            steps: of the run.
            seed: of the run.
            images: the image set; the videos' frames when ``None``.
            image_probability: of an image instead of a pair.
            still_share: of the pairs, how many have one of the video's stills as reference (for a mini that
                learns from nothing: a still differs in pose, place and size, as a user's photo does).
            target_still_share: of the targets of such a reference, how many are stills too.
            targets: so many for one reference (F); an image is repeated.

        Raises:
            ValueError: stills are wanted and the videos have none.
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
            is_still = rng.random(self.targets) < self.target_still_share
            targets = [int(rng.integers(stills)) if k else t for k, t in zip(is_still, targets, strict=True)]
        return _video_sample(self.videos, video, reference, targets)


class ClipSamples(DrawnSamples):
    """A reference and a clip of one video, or what joint training puts in its place (second stage).

    What a step learns from (clip, one frame, image) holds for its whole batch: F = ``length``, or 1.
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
        """Choose clips and mixture; videos with fewer than ``length`` frames are left out and reported.

        Args:
            videos: to draw from.
            length, interval: frames of a clip and how far apart they are; shorter videos have them closer.
            batch_size, steps, seed, images: see ``PairSamples``.
            image_probability, frame_probability: see ``joint_kind``.

        Raises:
            InputError: no video is long enough.
        """
        super().__init__(batch_size=batch_size, steps=steps, seed=seed)
        joint_kind(
            np.random.default_rng(0), image_probability=image_probability, frame_probability=frame_probability
        )
        self.length, self.interval = length, interval
        self._fitting = _long_enough(videos, length, interval, self._skip)
        self.videos, self.images = videos, images if images is not None else VideoFrames(videos)
        self.image_probability, self.frame_probability = image_probability, frame_probability

    def kind(self, step: int) -> Kind:
        """What the batch of a step is made of."""
        return joint_kind(
            step_generator(self.seed, step),
            image_probability=self.image_probability,
            frame_probability=self.frame_probability,
        )

    def draw(self, rng: np.random.Generator, step: int) -> Sample:
        kind = self.kind(step)
        if kind == "image":
            return _image_sample(self.images, int(rng.integers(len(self.images))))
        video, stills = int(rng.choice(self._fitting)), self.videos.stills
        count = self.videos.num_frames(video)
        length = self.length if kind == "clip" else 1
        frames = stills + clip_frames(rng, count - stills, length=length, interval=self.interval)
        return _video_sample(self.videos, video, reference_frame(rng, count), frames.tolist())


class ImageSamples(DrawnSamples):
    """Single images, each its own reference (ControlNet stage, autoencoder); F = 1.

    Args:
        images: to draw from.
        batch_size, steps, seed: see ``PairSamples``.
        bare: give ``target`` only, as uint8 F 3 H W: a sixteenth of the bytes, for the autoencoder.
    """

    def __init__(self, images: ImageSet, *, batch_size: int, steps: int, seed: int, bare: bool = False):
        super().__init__(batch_size=batch_size, steps=steps, seed=seed)
        self.images, self.bare = images, bare

    def draw(self, rng: np.random.Generator, step: int) -> Sample:
        image = int(rng.integers(len(self.images)))
        if self.bare:
            return {"target": torch.from_numpy(np.array(self.images.read(image).pixels)).movedim(-1, -3)}
        return _image_sample(self.images, image)


class FixedSamples(Dataset):
    """One sample of every video that is long enough, the same ones always: to look at while training.

    The reference is the first frame. A clip begins with the first frame that is no still; a single frame
    (``length`` 1) is the video's last.

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
    """The videos whose clips hold ``length`` frames; ``report`` is told of the others."""
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
    for name in ("latents", "labels", "points"):
        if (found := getattr(read, name)) is not None:
            kind = np.float32 if name == "latents" else np.uint8  # autocast on a CPU cannot stack float16
            sample[name] = torch.from_numpy(np.array(found[targets], dtype=kind))
            sample[f"reference_{name}"] = torch.from_numpy(np.array(found[shown], dtype=kind))
    if read.photo_labels is not None:
        sample["reference_photo_labels"] = torch.from_numpy(np.array(read.photo_labels[shown]))
    return sample
