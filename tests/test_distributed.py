"""Several processes share the windows of an animation."""

from __future__ import annotations

import itertools
import socket

import pytest
import torch

from magicanimate.acceleration.options import ProcessGroup
from magicanimate.acceleration.window_parallel import share_windows
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.sampling import Networks, Window
from tests import group_member
from tests.conftest import PATIENCE
from tests.rounding import assert_same_but_for_rounding


class Member(ProcessGroup):
    """A process of a group that exchanges nothing."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size


@pytest.mark.parametrize(("windows", "size"), [(1, 1), (7, 2), (2, 4), (12, 3)])
def test_every_window_is_somebodys(windows, size):
    shares = []

    def fuse(_, latents: torch.Tensor, timestep: torch.Tensor, own: list[Window]) -> tuple[torch.Tensor, ...]:
        shares.append([window.frames[0] for window in own])
        return latents.new_zeros(1, *latents.shape[1:]), latents.new_zeros(latents.shape[2])

    nothing = torch.zeros(())
    networks = Networks(encode=None, show=None, control=None, predict=None, fuse=fuse)
    step = [Window([i], nothing, nothing) for i in range(windows)]
    for rank in range(size):
        total, weight = share_windows(networks, Member(rank, size)).fuse(
            networks, torch.zeros(1, 4, windows, 2, 2), nothing, step
        )
        assert total.shape[1:] == (4, windows, 2, 2) and len(weight) == windows
    assert list(itertools.chain(*shares)) == list(range(windows))  # neighbours stay together
    assert max(map(len, shares)) == -(-windows // size)


@pytest.fixture(scope="module")
def seen(tiny_model, tmp_path_factory) -> list[dict]:
    """What two processes saw."""
    folder = tmp_path_factory.mktemp("group")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=group_member.run, args=(rank, 2, port, tiny_model, folder))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=PATIENCE)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_processes_give_the_result_of_one(seen, tiny_model):
    alone = group_member.animate(MagicAnimatePipeline.from_pretrained(tiny_model))
    assert_same_but_for_rounding(seen[0]["latents"], alone)
    assert_same_but_for_rounding(seen[0]["latents"], seen[1]["latents"])


def test_each_does_its_share(seen):
    """Three windows a step, two for the first process, one for the second, in two steps of two branches."""
    assert [member["calls"] for member in seen] == [2 * 2 * 2, 2 * 2 * 1]


def test_they_step_down_together_when_one_has_no_memory(seen):
    for member in seen:
        assert member["profile"] == "frugal"
        assert_same_but_for_rounding(member["after memory ran out"], member["latents"])


def test_they_end_together(seen):
    assert [member["one is told to stop"] for member in seen] == ["Cancelled", "Cancelled"]
    assert [member["one fails"] for member in seen] == ["InputError", "ArithmeticError"]
    assert seen[0]["the other is gone"] == "InputError"
