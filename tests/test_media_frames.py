"""The store of frames on disk."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from magicanimate.media.prepare import FrameStore


def random_frames(count: int, *, width: int = 7, height: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def filled(frames: np.ndarray) -> FrameStore:
    store = FrameStore(frames.shape[2], frames.shape[1])
    for frame in frames:
        store.append(frame)
    return store


def test_indexing_is_that_of_an_array():
    frames = random_frames(9)
    with filled(frames) as store:
        assert len(store) == 9 and store.shape == (9, 5, 7, 3)
        for index in (0, 8, -1, -9, np.int64(3)):
            np.testing.assert_array_equal(store[index], frames[index])
        for index in (slice(2, 5), slice(None), slice(-3, None), slice(8, 1, -3), slice(4, 4), slice(7, 99)):
            np.testing.assert_array_equal(store[index], frames[index])
        for index in ([3, 1, 1, -1], np.array([8, 0]), range(2, 4), []):
            np.testing.assert_array_equal(store[index], frames[np.array(index, dtype=int)])
        np.testing.assert_array_equal(np.stack(list(store)), frames)


def test_reading_and_appending_can_alternate():
    frames = random_frames(4)
    with FrameStore(7, 5) as store:
        for number, frame in enumerate(frames):
            store.append(frame)
            np.testing.assert_array_equal(store[number], frame)
            np.testing.assert_array_equal(store[0], frames[0])


def test_what_is_given_out_is_a_copy():
    frames = random_frames(2)
    with filled(frames) as store:
        store[0][:] = 0
        store[:][:] = 0
        np.testing.assert_array_equal(store[:], frames)


def test_parts_of_arrays_can_be_appended():
    large = random_frames(1, width=20, height=10)[0]
    with FrameStore(7, 5) as store:
        store.append(large[::2, :14:2])
        np.testing.assert_array_equal(store[0], large[::2, :14:2])


@pytest.mark.parametrize("index", [9, -10, [0, 9]])
def test_index_out_of_range(index):
    with filled(random_frames(9)) as store, pytest.raises(IndexError):
        store[index]


def test_wrong_frames_are_refused():
    with FrameStore(7, 5) as store:
        with pytest.raises(ValueError, match="expected"):
            store.append(np.zeros((7, 5, 3), dtype=np.uint8))
        with pytest.raises(ValueError, match="float"):
            store.append(np.zeros((5, 7, 3)))
        assert len(store) == 0
    with pytest.raises(ValueError, match="pixel"):
        FrameStore(0, 5)


def test_nothing_is_left_after_closing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = filled(random_frames(3))
    store.close()
    store.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError):
        store[0]
    with pytest.raises(ValueError):
        store.append(random_frames(1)[0])


def test_nothing_is_left_when_forgotten_or_at_exit(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = filled(random_frames(3))
    del store
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    code = (
        "import sys, tempfile, numpy as np; tempfile.tempdir = sys.argv[1]\n"
        "from magicanimate.media.prepare import FrameStore\n"
        "store = FrameStore(4, 4); store.append(np.zeros((4, 4, 3), np.uint8))"
    )
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []


def test_threads_may_read_together():
    frames = random_frames(50, width=32, height=32)
    wrong = []
    with filled(frames) as store:

        def read(seed: int) -> None:
            for index in np.random.default_rng(seed).integers(0, 50, 200):
                if not np.array_equal(store[int(index)], frames[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
