"""A finished result on the page: the video, its strip, the download and the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.request_checks import side_by_side_path

Updates = dict[gr.components.Component, Any]


class ResultPanel:
    """Builds itself where it is made, with nothing to show yet."""

    def __init__(self) -> None:
        self.video = gr.Video(
            label="Result",
            interactive=False,
            autoplay=True,
            loop=True,
            height=420,
            elem_id="result",
            buttons=["download"],
        )
        self.strip = gr.Video(
            label="Side by side",
            interactive=False,
            autoplay=True,
            loop=True,
            visible=False,
            elem_id="side-by-side",
            buttons=["download"],
        )
        self.download = gr.DownloadButton("Download the video", visible=False, elem_id="download")
        with gr.Accordion("Settings of this result", open=False, visible=False) as self.settings_box:
            self.settings = gr.JSON(show_label=False)
            self.settings_file = gr.DownloadButton("Download the settings", size="sm")

    @property
    def widgets(self) -> list[gr.components.Component]:
        """What `show` updates."""
        return [
            self.video, self.strip, self.download, self.settings_box, self.settings, self.settings_file
        ]  # fmt: skip

    def show(self, output: Path | str) -> Updates:
        """Show a result by the path of its video.

        Raises:
            InputError: it is not there any more.
        """
        output = Path(output)
        file = output.with_suffix(".json")
        if not output.exists() or not file.exists():
            raise InputError(f"The result {output} is not there any more.")
        strip = side_by_side_path(output)
        return {
            self.video: gr.update(value=str(output)),
            self.strip: gr.update(value=str(strip) if strip.exists() else None, visible=strip.exists()),
            self.download: gr.update(value=str(output), visible=True),
            self.settings_box: gr.update(visible=True),
            self.settings: json.loads(file.read_text(encoding="utf-8")),
            self.settings_file: gr.update(value=str(file)),
        }

    def connect(self) -> None:
        """Nothing here asks for anything."""
