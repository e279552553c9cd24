"""The page's texts in the language it is shown in.

Texts are written in English where they are used, and translated by ``static/texts_LANGUAGE.json``. The
labels and explanations of settings are here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from magicanimate.config import AnimationRequest
from magicanimate.files import read_json_object
from magicanimate.webui import STATIC

LANGUAGES = {"en": "English", "de": "Deutsch", "es": "Español", "ja": "日本語", "ko": "한국어", "zh": "中文"}

_table: Mapping[str, str] = {}


def use(language: str) -> None:
    """Show the page in one of `LANGUAGES` from now on; what is not translated stays English."""
    global _table
    _table = {} if language == "en" else read_table(language)


def read_table(language: str) -> dict[str, str]:
    """The texts of a language, by the English ones."""
    return read_json_object(STATIC / f"texts_{language}.json")


def tr(text: str, **values: object) -> str:
    """A text in the page's language.

    Args:
        text: English, with ``{name}`` for values.
        values: what is put in. "count" also chooses the singular, which a text has before ``|``:
            ``tr("{count} job|{count} jobs", count=2)``.
    """
    found = _table.get(text, text)
    if "|" in found:
        one, _, many = found.partition("|")
        found = one if values.get("count") == 1 else many
    return found.format(**values) if values else found


_OTHERWISE = (
    (re.compile(r"\bmotion clip\b"), "dance video"),  # what the page calls the visitor's file
    (re.compile(r",? or raise max_\w+"), ""),  # of Python
    (re.compile(r" \((?:or with )?--[\w-]+[^)]*\)"), ""),  # of the command line
    (re.compile(r"leave --start-from-photo out"), "turn off “Begin in the photo's pose”"),
    (
        re.compile(r"leave --stream or --detail out"),
        "turn off “Refine faces and hands” or “Play the beginning while the rest is made”",
    ),
    (
        re.compile(r"leave --stream or --closed-loop out"),
        "turn off “Play the beginning while the rest is made” or “Closed loop”",
    ),
    (re.compile(r" \(Full, or --model full\)"), ""),
    (re.compile(r"run the same again, it goes"), "try again, it goes"),
    (re.compile(r", which `convert --base` takes"), ", to be used under “Models”"),
    (re.compile(r", which `animate --lora` takes"), ", to be put into the folder of LoRAs"),
    (
        re.compile(r".+ shows nobody.*\. Point at somebody\.", re.DOTALL),
        "Nobody is where you clicked; click on a person in the picture.",
    ),
)
"""Words in the library's sentences that the page replaces, or leaves out if they mean nothing there."""

_SAID = (
    "The photo {name} is not a picture that can be read; save it as JPEG or PNG.",
    "The photo {name} holds text, not a picture; download or export the picture itself.",
    "The photo {name} is a video; give a picture such as JPEG or PNG.",
    "The photo {name} is damaged or cut off; copy or download it again.",
    "The photo {name} is empty; copy or download it again.",
    "The photo {name} has {size} pixels and the limit is {limit} (for instance {example}); scale it down.",
    "The dance video {name} is not a video that can be read, or it is damaged; export it as mp4 (H.264) or "
    "download it again.",
    "The dance video {name} holds text, not a video; download the video itself.",
    "The dance video {name} is a still picture; give a video, or a folder of numbered frames.",
    "The dance video {name} has only sound, no picture; give a video.",
    "The dance video {name} has no frame that can be decoded; export or download it again.",
    "The dance video {name} is empty; copy or download it again.",
    "The dance video {name} has {size} pixels and the limit is {limit} (for instance {example}); "
    "scale it down.",
    "The dance video {name} is used for {seconds} seconds and the limit is {limit}; choose a stretch with "
    "start and end.",
    "The dance video {name} is {seconds} seconds long and no frame is left between start {start} and end "
    "{end}; choose an earlier start.",
    "The dance video {name} is cut off ({held} of {frames} frames are there); copy or download it again, or "
    "choose an end up to {seconds} seconds.",
    "end is {end} and start {start}; the end must come after the start.",
    "Windows of {size} frames cannot overlap by {overlap}; the overlap is at least 0 and less than the "
    "window.",
    "The queue is full; try again when one of the jobs that wait has ended.",
    "This job has begun already, so it cannot be changed; make a new one.",
    "This job is not in the list any more; make a new one.",
    "This result is not there any more; it may have been moved or deleted.",
    "The settings have no name yet; type one.",
    "Something went wrong; the log tells more of job {job}.",
    "One video is too few: one is kept for checking. Add more videos.",
    "Too few videos: {found} found, {kept} kept for checking. Keep {keep} (under More).",
    "{name} was made for few steps; it works best with {settings}.",
    "Memory may be short: {reason}. Choose a smaller size, or close other programs.",
    "Nobody is pointed at yet; click on the person in the picture.",
    "The photo {name} has {size} and the limit is {limit}; make it smaller.",
    "The dance video {name} has {size} and the limit is {limit}; make it smaller.",
    "The photo {name} has far too many pixels (the limit is {limit}); scale it down.",
    "The photo {name} unpacks to far too much data; save it anew as PNG or JPEG.",
    "The dance video {name} gives {count} frames and the limit is {limit}; choose a stretch with start "
    "and end, a lower fps or a larger stride.",
    "The clip {name} is coded in a way that cannot be decoded here, is damaged, or has more than {limit} "
    "pixels; export it as mp4 (H.264).",
    "{width}x{height} pixels are too many for this checkpoint, which was trained at {own}; choose at most "
    "{most} in all, for instance {size}.",
    "{size} pixels with windows of {window} frames need about {needed} GB, and {device} has {total} GB in "
    "all; choose a smaller size or shorter windows.",
    "The memory of {device} does not hold {size} pixels with windows of {window} frames; choose a smaller "
    "size.",
    "The scheduler {name} does not work with this checkpoint and {steps} steps ({reason}); choose another "
    "or more steps.",
    "Nobody is recognised in the photo {name}, so nobody can be cut out of it; choose another photo, or "
    "leave the background as it is.",
    "The people cover the whole driving video, so nothing of its background is seen; choose another "
    "background.",
    "The mask {name} has {frames} frames of {size} and the result {count} of {other}; save one with the "
    "same settings.",
    "The mask is of another size; show it again.",
    "{name} has no frame {number}; show the mask again.",
    "The stroke lies outside of the picture; draw it again.",
    "Refine whose face and hands? {who} is no number of a person; write numbers from the left such as 1 or "
    "1,3.",
    "Faces and hands are refined when the first result is complete; turn off “Refine faces and hands” or "
    "“Play the beginning while the rest is made”.",
    "A closed loop joins the end to the beginning, so no frame is done before all are; turn off “Play the "
    "beginning while the rest is made” or “Closed loop”.",
    "The dance video's own background cannot be kept with Mirror or Fit the dancer to the photo; turn "
    "these off, or choose another background.",
    "A DensePose clip has no background to keep; add the ordinary video that it was made of as the dance "
    "video, or choose another background.",
    "No torso is recognised in the {what}, so its pose cannot be led from the photo's to the clip's; turn "
    "off “Begin in the photo's pose”.",
    "There are several people in the {what}, and only one can be led from the photo's pose to the clip's; "
    "turn off “Begin in the photo's pose”.",
    "Only one dancer can be given a photo's build; choose one person.",
    "Nobody is seen in the clip {name}; choose one that shows a person, or lower the score threshold.",
    "Nobody is seen in the photo {name}; choose one that shows a person.",
    "No torso is seen, so the build cannot be told; choose a picture of the whole body.",
    "There is no LoRA {name}; choose one of the folder {folder}, perhaps with a weight behind it, such as "
    "style.safetensors:0.7.",
    "The LoRA {name} has the weight {weight}; choose {range}.",
    "LoRAs need the package peft, which is not installed; run `{command}`.",
    "{name} has layers for which there is no place, and which are left out: {layers}.",
    "The photo {name} is cropped to {size}, which cannot hold the people in it; pad it, or choose another "
    "size.",
    "The window of {size} cannot hold the people in {name} all the time; pad the clip, or choose another "
    "size.",
    "{name} has no settings of MagicAnimate inside; drop a result that was made here.",
    "{name} is no result; drop an {kinds} file.",
    "The name has {count} letters; {most} are the most.",
    "There are settings named “{name}” already; overwrite them or choose another name.",
    "There are no settings named “{name}”, or their file is damaged.",
    "The result {name} is not there any more, or has lost its settings.",
    "This result is not in the trash any more.",
    "No file manager was found on this machine; the results are in {folder}.",
    "What was sent cannot be used: a value is missing or of another kind than is wanted here, or a file "
    "was not uploaded.",
    "This program fetches nothing from other sites; upload the file itself.",
    "Something went wrong that should not have (error {number}); the window in which the program runs "
    "says more under that number.",
    "This is too large: {most} are the most that is kept of one visitor.",
    "Too much is being uploaded at the same time; try again in a moment.",
    "{name} has no checkpoint yet; let it train a little longer.",
    "{folder} is being worked on already; stop that first.",
    "{name} is no folder here; give its whole path.",
    "{shows}, and {cast} says of {count} who they become; give a photo's number for each dancer, from left "
    "to right.",
    "{shows}, too few for {photos} photos; leave photos out, or choose a clip of as many dancers, "
    "converted for all of its people.",
    "{shows}, too many for {photos} photos; add photos, or say which photo each dancer becomes, from left "
    "to right.",
    "The dance video shows 1 dancer apart from each other",
    "The dance video shows {count} dancers apart from each other",
    "The cast is {cast}, which names no photos; write the number of a photo for each dancer, from left to "
    "right, such as 2,1.",
    "The cast {cast} names photo {photo}, and there are {count}; give that photo, too, or write another "
    "number.",
    "Nobody becomes photo {photo} in the cast {cast}; write its number for a dancer, or leave the photo out.",
    "shows nobody, only the background colour; choose a stretch in which a person is seen",
    "has no frames; give a clip with at least one",
    "has the viridis colours but they run smoothly into each other as in a heat map; give a map of "
    "DensePose body parts, one flat colour each",
    "Nobody is where you clicked; click on a person in the picture.",
    "The background {name} has no frame that can be decoded; export it again.",
    "Keypoints cannot be led from the photo's pose to the clip's; turn off “Begin in the photo's pose”.",
    "{name} is {what}; give a LoRA for Stable Diffusion 1.5.",
    "a LoRA for Flux",
    "a LoRA for a diffusion transformer such as Stable Diffusion 3",
    "a LoRA for Stable Diffusion XL",
    "a motion LoRA of AnimateDiff, whose temporal layers are not those of MagicAnimate",
    "a ControlNet",
    "a whole checkpoint, to be used under “Models”",
    "a LoHa or LoKr (LyCORIS), which is not read",
    "a DoRA, which is not read",
    "a textual inversion",
    "The LoRA is for {model}, whose texts have a width of {width}, and this checkpoint's have {own}; give "
    "a LoRA that was made for this checkpoint's kind.",
    "{name} is {what}, and MagicAnimate's layers fit Stable Diffusion 1.5 only; give a model that was "
    "fine-tuned from that.",
    "a diffusion transformer such as Stable Diffusion 3 or Flux",
    "a model that predicts velocity (v-prediction), where MagicAnimate's layers expect noise",
    "a LoRA, to be put into the folder of LoRAs",
    "an inpainting model (its UNet also takes a mask and the picture behind it)",
    "a model that edits pictures by instructions (InstructPix2Pix)",
    "a model that also takes a depth map",
    "The full model is not here yet, which brings all but the base model; fetch it first.",
    "{name} does not exist; check the path.",
    "{name} is not a weight file by its name; expected one of {kinds}.",
    "{folder} is neither a folder nor one of the models {names}.",
    "{folder} has no model_index.json of a MagicAnimate pipeline; give a converted checkpoint's folder.",
    "The checkpoint {folder} cannot be loaded ({reason}); convert or fetch it again.",
    "{what} cannot be fetched ({reason}) after {count} attempts; check the connection and try again, it "
    "goes on where it stopped.",
    "{what} needs {needed} of free disk and {folder} has {free}; {fix}.",
    "the converted checkpoint",
    "free some or choose another disk",
    "the full model ({size} to download and its converted copy)",
    "free some, or set {variable} to a folder on another disk",
    "The photos and clips {whose} take {kept}, and no more than {most} are kept; remove some jobs or "
    "results, or use smaller files.",
    "of your jobs",
    "of all jobs and results",
    "The file {name} is not there any more ({reason}).",
    "The output {name} cannot be written ({reason}); free some room or choose another place.",
    "There are values that are not finite in {where}: the checkpoint's weights are damaged, the guidance "
    "is far too strong, or {dtype} is too narrow for this checkpoint.",
    "Give the folder of {what}.",
    "the data",
    "the runs",
    "the pictures",
    "{what} must be more than 0, not {value}; or leave it empty.",
    "The number of steps",
    "The batch size",
    "The learning rate",
    "The number of videos kept for checking",
    "Give the number of people to render, 1 or more.",
    "Nothing can be started in {folder} ({reason}); choose a folder that can be written to.",
    "Rendering people needs {packages}, not installed yet; run `{command}` in {folder} and start the "
    "program again.",
    "Out of memory on {device} with the profile {before}; going on with {after} ({summary}).",
)
"""Sentences of the library that are translated, and what is put into them, as patterns."""


def said(sentence: str) -> str:
    """A sentence of the library, such as an error, in the words and the language of the page.

    A sentence that is not in `_SAID` stays English.
    """
    for pattern, words in _OTHERWISE:
        sentence = pattern.sub(words, sentence)
    for text in _SAID:
        if found := _pattern(text).fullmatch(sentence):
            return tr(text, **{name: said(value) for name, value in found.groupdict().items()})
    return sentence


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """A pattern for a text in which values stand in place of ``{name}``."""
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(text)), re.DOTALL)


_LABELS = {
    "seed": "Seed",
    "random_seed": "New seed each time",
    "seeds": "Videos at once",
    "preset": "Quality",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance",
    "size": "Size",
    "width": "Width",
    "height": "Height",
    "fit": "Fit",
    "start": "Start",
    "end": "End",
    "stride": "Every n-th frame",
    "fps": "Frame rate",
    "people": "Who dances",
    "fit_dancer": "Fit the dancer to the photo",
    "speed": "Speed",
    "mirror": "Mirror",
    "boomerang": "Boomerang",
    "reference_strength": "Photo strength",
    "controlnet_conditioning_scale": "Pose strength",
    "fusion": "Fusion",
    "context_length": "Context length",
    "context_overlap": "Context overlap",
    "closed_loop": "Closed loop: join the end to the beginning",
    "context_offset": "Shift context windows from step to step",
    "scheduler": "Scheduler",
    "side_by_side": "Also make a side-by-side video",
    "sound": "Keep the sound",
    "credentials": "Sign the video as AI-generated",
    "check_motion": "Convert ordinary videos",
    "background": "Background",
    "background_colour": "Background colour",
    "background_file": "Background picture or video",
    "mask": "Mask",
    "other_photos": "Photos of the other dancers",
    "cast": "Who becomes whom",
    "mask_grow": "Grow the cut-out",
    "mask_feather": "Soften its edge",
    "detail": "Refine faces and hands",
    "detail_who": "Whose",
    "start_from_photo": "Begin in the photo's pose",
    "lora": "LoRAs",
    "stream": "Play the beginning while the rest is made",
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
}
"""Labels of settings; a setting that is not here is labelled by its own name."""


_EXPLAINED = {
    "preset": "Faster settings look rougher",
    "num_inference_steps": "More steps: finer, slower",
    "guidance_scale": "How strictly to follow the photo; 1 is fastest",
    "fit": "Crop: fill the frame. Pad: show everything. Stretch: distort (as the original code does). "
    "Auto: crop where the dancer stays in the frame, else pad",
    "start": "Seconds",
    "end": "Seconds; 0 is the end",
    "stride": "2: every other frame",
    "fps": "0: as in the clip",
    "speed": "2 is twice as fast",
    "reference_strength": "1 as trained, 0 not at all",
    "controlnet_conditioning_scale": "1 as trained",
    "fusion": "Which layers use the photo (leave as it is)",
    "context_length": "Frames made together",
    "context_overlap": "More hides seams, takes longer",
    "scheduler": "How noise becomes a picture",
    "background": "What the person is in front of",
    "mask_grow": "Pixels; below 0 cuts closer",
    "mask_feather": "Pixels",
    "cast": "Each dancer's photo, from left to right, such as 2,1; empty for the photos in their order",
    "detail": "Makes small faces or hands once more, enlarged; takes longer",
    "detail_who": "Counted from the left, such as 1 or 1,3; empty for everyone",
    "start_from_photo": "Extra frames that lead from the photo's pose into the dance",
    "lora": "Style files in the folder “loras” of the program's data; “:0.7” behind a name weakens it",
    "prompt": "May stay empty",
    "negative_prompt": "What to avoid",
}
_NAMES = {
    "exact": "Best",
    "balanced": "Good",
    "fast": "Fast",
    "draft": "Draft",
    "still": "As in the photo",
    "photo": "Redrawn from the photo",
    "clip": "As in the dance video",
    "colour": "A colour",
    "file": "A picture or video",
    "transparent": "Transparent",
    "faces": "Faces",
    "faces+hands": "Faces and hands",
    "midup": "Middle and up (as trained)",
    "full": "All",
    "default": "Automatic",
    "largest": "The largest person",
    "all": "Everyone",
    "point": "The person I click on",
}
"""Labels of choices, if they are not just the name with a capital letter."""


def label_of(name: str) -> str:
    """The label of a setting."""
    return tr(_LABELS.get(name) or name.replace("_", " ").capitalize())


def labels() -> dict[str, str]:
    """The labels of all settings that results record, in the order of the page."""
    names = dict.fromkeys([*_LABELS, *(n for n, each in AnimationRequest.table().items() if each.page)])
    return {name: label_of(name) for name in names}


def explained(name: str) -> str | None:
    """A line on what a setting does: the page's own, or the command line's help."""
    known = AnimationRequest.table().get(name)
    text = _EXPLAINED.get(name) or ("" if name in _LABELS or known is None else known.help)
    return tr(text[:1].upper() + text[1:]) or None


def choice_name(choice: str) -> str:
    """The label of a choice."""
    return tr(_NAMES.get(choice) or (choice.capitalize() if choice.islower() else choice))
