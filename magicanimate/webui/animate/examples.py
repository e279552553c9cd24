"""The examples that come with the program: pictures to choose from, and a finished one on the stage."""

from __future__ import annotations

import filecmp
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magicanimate.webui import views
from magicanimate.webui.gallery.player import file_url
from magicanimate.webui.texts import tr

# Tells Python which example was chosen; its video plays while the pointer or the focus is on it.
ON_LOAD = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-index]");
  if (button) trigger("click", { index: Number(button.dataset.index) });
});
const play = (event, on) => {
  const video = event.target.closest?.("button[data-index]")?.querySelector("video");
  if (!video) return;
  if (on && !video.src) video.src = video.dataset.src;
  video.hidden = !on;
  if (on) video.play().catch(() => {});
  else video.pause();
};
for (const name of ["pointerover", "focusin"]) element.addEventListener(name, (event) => play(event, true));
for (const name of ["pointerout", "focusout"]) element.addEventListener(name, (event) => play(event, false));
"""


_INVITATION = "A finished example. Press Animate to make it yourself, or add a photo and a dance of your own."


@dataclass(frozen=True)
class Example:
    """A photo and a clip, and perhaps what the mini made of them."""

    photo: Path
    motion: Path

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.photo.stem.removesuffix("_photo").capitalize()

    @property
    def files(self) -> tuple[str, str]:
        """Photo and clip, as the form takes them."""
        return str(self.photo), str(self.motion)

    def is_pair(self, photo: str, motion: str) -> bool:
        """Whether these are its files, wherever they were copied to."""
        return all(
            Path(given).name == own.name and Path(given).is_file() and filecmp.cmp(given, own, shallow=False)
            for given, own in ((photo, self.photo), (motion, self.motion))
        )

    @property
    def result(self) -> Path | None:
        """The finished video, if it is there."""
        path = self.motion.with_name(self.motion.name.replace("_motion", "_result"))
        return path if path != self.motion and path.is_file() else None


def example_list(examples: Sequence[Example]) -> str:
    """The examples as buttons."""
    buttons = "".join(
        f'<button type="button" data-index="{index}" aria-label="{tr("Example")}: {html.escape(each.name)}" '
        f'title="{html.escape(each.name)}"><img alt="" src="{_url(each.photo)}">{_video(each)}</button>'
        for index, each in enumerate(examples)
    )
    return f'<div class="ma-examples"><span>{tr("Examples")}</span>{buttons}</div>'


def stage_of(examples: Sequence[Example]) -> str:
    """The finished video of the first of some examples, large; what will be here where there is none."""
    for each in examples:
        if each.result is not None:
            return (
                f'<figure class="ma-example"><video src="{_url(each.result)}" autoplay loop muted '
                f'playsinline aria-label="{tr("A finished example")}"></video><figcaption>'
                f"{tr(_INVITATION)}"
                "</figcaption></figure>"
            )
    return views.caption(tr("Your video will appear here."))


def _video(example: Example) -> str:
    if example.result is None:
        return ""
    return f'<video hidden muted loop playsinline data-src="{_url(example.result)}"></video>'


def _url(path: Path) -> str:
    return html.escape(file_url(path))
