"""The loss on the attention to the reference, from body points."""

from __future__ import annotations

import math

import pytest
import torch

from training.attention_loss import WatchedAttention, point_losses, watched_tokens

SIDE, POINTS = 4, 64  # tokens, points of a side


def points_map(*places: tuple[int, int, tuple[int, int, int], int], side: int = SIDE) -> torch.Tensor:
    """Body points, M M 4: nobody but in one token's square of each (row, column, place in cm, person)."""
    out, cell = torch.zeros(POINTS, POINTS, 4, dtype=torch.uint8), POINTS // side
    for row, column, place, person in places:
        square = slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell)
        out[square] = torch.tensor([*place, person], dtype=torch.uint8)
    return out


def looking(at: dict[int, int]) -> WatchedAttention:
    """A reader whose tokens attend to their own place, but for those in ``at``: token -> another place."""
    attention = torch.eye(SIDE * SIDE)
    for token, there in at.items():
        attention[token] = 0
        attention[token, there] = 1
    reader = WatchedAttention()
    reader.attention = attention[None]
    return reader


def loss(
    reader: WatchedAttention, reference: torch.Tensor, target: torch.Tensor, *, side: int = SIDE
) -> float:
    return float(point_losses({"block": reader}, reference[None], target[None, None], size=(side, side)))


HAND, KNEE = (30, 128, 130), (140, 128, 60)
WORST = -math.log(1e-4) / 2  # halved as background is one of the two
NOTHING = pytest.approx(0, abs=1e-3)


def test_a_place_is_looked_for_where_it_is_and_background_at_its_own():
    reference, target = points_map((0, 1, HAND, 1), (1, 1, KNEE, 1)), points_map((3, 2, HAND, 1))
    here, hand, knee = 3 * SIDE + 2, 1, SIDE + 1
    assert loss(looking({here: hand}), reference, target) == NOTHING
    assert loss(looking({here: knee}), reference, target) == pytest.approx(WORST, rel=1e-3)
    # Of the 16 tokens 13 show background in both.
    assert loss(looking({here: hand, 4: 6}), reference, target) == pytest.approx(WORST / 13, rel=1e-3)


def test_the_nearer_of_two_places_is_wanted_more():
    near, far = (33, 128, 130), (38, 128, 130)
    reference, target = points_map((0, 0, near, 1), (0, 1, far, 1)), points_map((2, 2, HAND, 1))
    here = 2 * SIDE + 2
    losses = [loss(looking({here: there}), reference, target) for there in (0, 1, 5)]
    assert losses[0] < losses[1] < losses[2]


def test_what_the_reference_does_not_show_costs_nothing():
    target = points_map((0, 1, KNEE, 1))
    assert loss(looking({1: 9}), points_map((0, 1, HAND, 1)), target) == NOTHING
    assert loss(looking({1: 9}), points_map((0, 1, KNEE, 2)), target) == NOTHING, "another person's knee"
    assert loss(looking({1: 9}), points_map(), target) == NOTHING


@pytest.mark.parametrize("side", [4, 8, 32])
def test_blocks_of_every_size_are_judged_by_the_same_points(side):
    """The largest blocks have 32 tokens each way, of which every second is watched."""
    # A wall of places, 1.5 cm from each to the next.
    body = torch.zeros(POINTS, 2 * POINTS, 4, dtype=torch.uint8)
    body[..., 0] = torch.arange(2 * POINTS) * 3 // 2
    body[..., 2] = (torch.arange(POINTS) * 3 // 2)[:, None]
    body[..., 3] = 1
    here, there = body[:, POINTS // 2 : 3 * POINTS // 2], body[:, :POINTS]  # moved by half of the picture

    def looking_around(shift: int) -> WatchedAttention:
        """Evenly at the 5 x 5 tokens around the own place moved to the right by ``shift`` tokens."""
        row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        across = (column.flatten()[None] - column.flatten()[:, None] - shift).abs() <= 2
        down = (row.flatten()[None] - row.flatten()[:, None]).abs() <= 2
        near = (across & down).float()
        reader = WatchedAttention()
        reader.attention = (near / near.sum(1, keepdim=True).clamp_min(1))[watched_tokens(side * side)][None]
        return reader

    right, wrong = (loss(looking_around(shift), there, here, side=32) for shift in (side // 2, -side // 2))
    assert right < 0.6 * wrong


def test_samples_are_judged_one_by_one_and_have_a_gradient():
    torch.manual_seed(0)
    reader = WatchedAttention()
    reader.attention = torch.rand(4, 16, 16, requires_grad=True)
    references = torch.stack([points_map((0, 1, HAND, 1)), points_map()])
    targets = torch.stack([points_map((2, 2, HAND, 1)), points_map((1, 1, HAND, 1))])
    targets = torch.stack([targets, targets.flip(0)])
    losses = point_losses({"block": reader}, references, targets, size=(SIDE, SIDE))
    assert losses.shape == (2,) and torch.isfinite(losses).all()
    losses.sum().backward()
    assert torch.isfinite(reader.attention.grad).all() and reader.attention.grad[:, 10].any()
    alone = WatchedAttention()
    alone.attention = reader.attention[2:].detach()
    again = point_losses({"block": alone}, references[1:], targets[1:], size=(SIDE, SIDE))
    torch.testing.assert_close(again, losses[1:].detach())
