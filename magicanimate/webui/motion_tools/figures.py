"""What is told in numbers of a motion clip that was made: flicker, and how the dancer's build was changed."""

from __future__ import annotations

from densepose_tools.body import either_side
from densepose_tools.one_click import MadeMotion

_LITTLE = 0.03
"""Changes of less than this share are none."""


def figures(new: MadeMotion) -> str:
    """The numbers as HTML; empty if there are none."""
    made = new.extraction
    parts = []
    if made.flicker is not None:
        before, after = made.flicker
        parts.append(
            "<p><b>Flicker</b> (share of the body that changes for a moment): "
            f"<b>{before:.2%}</b> before, <b>{after:.2%}</b> after.</p>"
        )
    if made.stretch is not None:
        rows = "".join(
            f"<tr><th scope='row'>{name.capitalize()}</th><td>{_change(along, 'longer', 'shorter')}</td>"
            f"<td>{_change(across, 'wider', 'narrower')}</td></tr>"
            for name, (along, across) in either_side(made.stretch).items()
        )
        parts.append(
            "<p><b>Build</b>: how the dancer was changed to match the photo:</p>"
            f"<table><thead><tr><th>Limb</th><th>Length</th><th>Width</th></tr></thead>{rows}</table>"
        )
    return f'<div class="ma-figures">{"".join(parts)}</div>' if parts else ""


def _change(factor: float, more: str, less: str) -> str:
    if abs(factor - 1) < _LITTLE:
        return "as it is"
    return f"{abs(factor - 1):.0%} {more if factor > 1 else less}"
