"""The panel under the clip: what to do with an ordinary video, and the DensePose clip made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from densepose_tools.engine import PUBLISHED_MIN_SCORE, Selection
from densepose_tools.one_click import MadeMotion, wish_of
from densepose_tools.treatment import Treatment
from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.motion_job import MotionJob
from magicanimate.webui.events import PRIVATE, Updates
from magicanimate.webui.studio import Studio
from magicanimate.wording import CORRECT_COLOURS, MAKE_CLIP, REMEDIES, without_folders

MAKE, CORRECT, AGAIN = MAKE_CLIP, CORRECT_COLOURS, "Make it again"
USES = "Animate uses it now."


@dataclass(frozen=True)
class _Offer:
    """What is said of a clip that cannot animate as it is, what its button does, and Animate's answer."""

    text: str
    button: str | None
    refusal: str


class MotionPanel:
    """Shows itself when a clip that cannot animate yet is put in, and makes one that can.

    Args:
        studio: does the work.
        clip: the player that holds the visitor's clip.
        animate: the button that should not be the first choice as long as the clip cannot animate.
    """

    def __init__(self, studio: Studio, clip: gr.Video, animate: gr.Button):
        self.studio, self.clip, self.animate = studio, clip, animate
        self.made = gr.State({})  # {clip as uploaded: motion clip made of it}
        self.waiting = gr.State("")  # what to say if this clip is animated as it is; empty if it can be
        with gr.Column(visible=False, elem_id="densepose", elem_classes="ma-panel") as self.box:
            self.notice = gr.HTML("", padding=False, elem_id="densepose-notice")
            self.job = MotionJob(studio, "densepose", MAKE)
            self.video = gr.Video(
                label="DensePose clip",
                interactive=False,
                autoplay=True,
                loop=True,
                visible=False,
                height=300,
                buttons=[],
                elem_id="densepose-clip",
            )
            with gr.Row():
                self.download = gr.DownloadButton("Download the DensePose clip", size="sm", visible=False)
                self.archive = gr.DownloadButton("Download what was found (npz)", size="sm", visible=False)
            with gr.Accordion("More on how it is made", open=False) as self.more:
                self.settings = settings()

    def connect(self) -> None:
        """Attach the handlers; every widget of the page is there now."""
        shown = [
            self.box,
            self.notice,
            self.job.start,
            self.job.status,
            self.video,
            self.download,
            self.archive,
        ]
        shown += [self.more, self.waiting, self.animate]
        self.clip.change(self._examine, self.clip, shown, concurrency_limit=4, **PRIVATE)
        self.job.connect(
            self._make,
            {self.clip, self.made, *self.settings.values()},
            [self.notice, self.video, self.download, self.archive, self.made, self.waiting, self.animate],
        )

    def _examine(self, clip: str | None, request: gr.Request) -> Updates:
        """A clip was put in, or taken away: say what it is and offer what it needs."""
        self.job.stop(request)
        hidden = gr.update(value=None, visible=False)
        updates: Updates = {
            self.box: gr.update(visible=False),
            self.job.status: gr.update(value="", visible=False),
            self.video: hidden,
            self.download: hidden,
            self.archive: hidden,
            self.waiting: "",
            self.animate: gr.update(variant="primary"),
        }
        offer = self._offer(clip) if clip else None
        if offer is None:
            return updates
        possible = offer.button is not None
        return updates | {
            self.box: gr.update(visible=True),
            self.notice: gr.update(
                value=views.message(offer.text, kind="info" if possible else "error"), visible=True
            ),
            self.job.start: gr.update(value=offer.button or MAKE, variant="primary", visible=possible),
            self.more: gr.update(visible=offer.button == MAKE),
            self.waiting: offer.refusal,
            self.animate: gr.update(variant="secondary"),
        }

    def _offer(self, clip: str) -> _Offer | None:
        """What to say of a clip and what to do with it; ``None`` if it animates as it is."""
        name = Path(clip).name
        try:
            found = self.studio.examine(Path(clip))
        except InputError as error:
            text = without_folders(str(error), clip)
            return _Offer(text, None, text)
        if found.kind == "ready":
            return None
        what = f"{name} {found.advice(REMEDIES.get(found.kind, ''))}."
        if found.kind == "recolourable":
            return _Offer(what, CORRECT, what)
        if found.kind != "ordinary":
            return _Offer(what, None, what)
        try:
            text = f"{what} {self.studio.forecast().sentence}"
        except InputError as error:
            text = f"{name} {found.reason}; Animate needs a DensePose clip, and none can be made: {error}"
            return _Offer(text, None, text)
        return _Offer(text, MAKE, what)

    def _make(self, data: dict, request: gr.Request) -> Iterator[Updates]:
        """Make the motion clip, updating the panel as it goes."""
        clip = data[self.clip]
        values = {name: data[widget] for name, widget in self.settings.items()}

        def made(new: MadeMotion) -> Updates:
            video = str(new.extraction.video)
            return {
                self.notice: gr.update(visible=False),
                self.job.start: gr.update(value=AGAIN, variant="secondary"),
                self.video: gr.update(value=str(new.extraction.playable), visible=True),
                self.download: gr.update(value=video, visible=True),
                self.archive: archive_download(new),
                self.made: {**data[self.made], clip: video},
                self.waiting: "",
                self.animate: gr.update(variant="primary"),
            }

        yield from self.job.run(request, clip, lambda: wish_of(values), made, then=USES)


def archive_download(new: MadeMotion) -> Updates:
    """The download of what was found; of a part map that was recoloured there is none."""
    archive = new.extraction.archive
    return gr.update(value=str(archive) if archive else None, visible=archive is not None)


def motion_of(clip: str | None, made: dict[str, str]) -> str | None:
    """What moves the photo: the clip, or what was made of it."""
    return made.get(clip, clip) if clip else clip


def settings(*, pointing: bool = False) -> dict[str, gr.components.Component]:
    """Widgets of how a motion clip is made, by the names of `densepose_tools.one_click.wish_of`.

    ``pointing`` adds the choice of a person in a picture, which has to be there.
    """
    choices = [("the largest", "largest"), ("all", "all")]
    with gr.Row():
        score = gr.Slider(
            PUBLISHED_MIN_SCORE,
            0.95,
            value=Selection().min_score,
            step=0.05,
            label="Score threshold",
            info=f"of a person; published clips: {PUBLISHED_MIN_SCORE}",
            min_width=260,
        )
        people = gr.Radio(
            choices + [("the one I point at", "point")] * pointing,
            value=Treatment().people,
            label="People",
            info="the largest is followed through the clip",
            min_width=200,
        )
    with gr.Row():
        start = gr.Number(0, label="From second", info="0: the beginning", minimum=0, min_width=120)
        end = gr.Number(0, label="To second", info="0: the end", minimum=0, min_width=120)
    steady = gr.Checkbox(
        Treatment().steady,
        label="Take out flicker: boxes that tremble, parts that change for a moment",
        container=False,
    )
    return {"min_score": score, "people": people, "start": start, "end": end, "steady": steady}
