"""What the program leaves out when it starts, in a process of its own: imports cannot be taken back."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from magicanimate.device import without_collection
from tests.conftest import ROOT

WITHOUT_PEFT = "import sys; sys.modules['peft'] = None\n"  # as if it were not installed
START = """
import sys
from magicanimate.device import import_diffusers
from magicanimate.animator import Animator
import_diffusers()
animator = Animator({model!r}, device="cpu")
animator.load()
left_out = "transformers", "torchvision"
print([name for name in left_out if name in sys.modules])
"""
AFTERWARDS = """
import torch
from diffusers.utils.torch_utils import is_compiled_module
from torchvision.ops import roi_align
from transformers import CLIPTextModel
print(is_compiled_module(animator.pipe.unet), is_compiled_module(torch.compile(animator.pipe.unet)))
"""


def run(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_networks_load_without_what_they_do_not_need_and_it_can_be_had_later(tiny_model):
    script = WITHOUT_PEFT + START.format(model=str(tiny_model)) + AFTERWARDS
    assert run(script) == ["[]", "False True"]


def test_peft_which_needs_transformers_is_no_hindrance(tiny_model):
    pytest.importorskip("peft", reason="need peft: pip install -r requirements-lora.txt")
    assert run(START.format(model=str(tiny_model))) == ["['transformers', 'torchvision']"]


@pytest.mark.slow
def test_without_the_program_everything_is_imported_as_ever(tiny_model):
    script = START.format(model=str(tiny_model)).replace("import_diffusers()", "")
    assert run(script) == ["['transformers', 'torchvision']"]


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_is_as_it_was_afterwards(enabled):
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), without_collection():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
