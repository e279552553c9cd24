"""Which frames are chosen: stretch, stride, resampling, variable rates."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from magicanimate.media.motion import (
    as_rate,
    average_rate,
    count_picks,
    is_regular,
    plan_picks,
    source_timing,
)


def even(count: int, rate: float) -> np.ndarray:
    return np.arange(count) / rate


def picks(times, nominal, *, last=None, **options) -> list[int]:
    """The picks, after checking that they were counted rightly beforehand."""
    source = source_timing(times, nominal, last=last)
    timing = plan_picks(source, **options)
    assert count_picks(source, **options) == len(timing.picks)
    return timing.picks.tolist()


def test_constant_rate_gives_every_frame_once():
    assert picks(even(50, 25), Fraction(25)) == list(range(50))


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24), Fraction(60), Fraction(24000, 1001)])
def test_milliseconds_do_not_make_a_rate_variable(rate):
    times = np.round(even(200, float(rate)), 3)
    assert is_regular(times, rate)
    timing = plan_picks(source_timing(times, rate))
    assert timing.rate == rate and not timing.resampled and timing.picks.tolist() == list(range(200))


def test_wrong_nominal_rate_is_not_believed():
    assert average_rate(even(100, 24), Fraction(90_000)) == 24
    assert average_rate(even(100, 30000 / 1001), None) == Fraction(30000, 1001)
    assert average_rate([0.0], None) == 25
    assert average_rate([0.0], Fraction(12)) == 12


def test_start_and_end():
    assert picks(even(50, 25), Fraction(25), start=0.4, end=0.6) == [10, 11, 12, 13, 14]
    assert picks(even(50, 25), Fraction(25), start=1.92) == [48, 49]
    assert picks(even(50, 25), Fraction(25), start=0.41, end=0.5) == [11, 12]
    assert picks(even(50, 25), Fraction(25), end=99.0) == list(range(50))
    assert picks(even(50, 25), Fraction(25), start=2.0) == []
    assert picks(even(50, 25), Fraction(25), start=7.0, end=8.0) == []


def test_stride_divides_the_rate():
    timing = plan_picks(source_timing(even(10, 30), Fraction(30)), stride=3)
    assert timing.picks.tolist() == [0, 3, 6, 9] and timing.rate == 10
    assert picks(even(10, 30), Fraction(30), stride=4, start=0.1) == [3, 7]


def test_fewer_frames_a_second_drop_and_more_repeat():
    assert picks(even(10, 10), Fraction(10), fps=5.0) == [0, 2, 4, 6, 8]
    assert picks(even(4, 10), Fraction(10), fps=20.0) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert picks(even(12, 30), Fraction(30), fps=25.0) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    timing = plan_picks(source_timing(even(60, 30), Fraction(30)), fps=24.0)
    assert timing.rate == 24 and len(timing.picks) == 48 and timing.resampled
    assert plan_picks(source_timing(even(60, 30), Fraction(30)), fps=24.0, stride=2).rate == 12


def test_the_same_fps_changes_nothing():
    timing = plan_picks(source_timing(even(20, 30000 / 1001), Fraction(30000, 1001)), fps=29.97002997)
    assert timing.picks.tolist() == list(range(20)) and not timing.resampled


def test_variable_rate_is_resampled_to_its_average_by_time():
    # Ten frames in the first second, then one at 2 s, one at 3 s.
    times = np.concatenate([even(10, 10), [2.0, 3.0]])
    timing = plan_picks(source_timing(times, None))
    assert timing.resampled
    assert float(timing.rate) == pytest.approx(11 / 3, rel=1e-3)
    shown = times[timing.picks]
    points = np.arange(len(timing.picks)) / float(timing.rate)
    assert (shown <= points + 2e-3).all()
    # The latest frame that is not after the point.
    for point, time in zip(points, shown, strict=True):
        assert not ((times > time + 2e-3) & (times <= point)).any()
    assert timing.picks.tolist() == [0, 2, 5, 8, 9, 9, 9, 9, 10, 10, 10, 11]


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30000, 1001), Fraction(25)])
def test_a_clip_with_a_pause_keeps_its_rate(rate):
    dance = np.round(even(60, float(rate)), 3)
    times = np.concatenate([dance, dance[-1] + 3 + dance])
    timing = plan_picks(source_timing(times, Fraction(17)))
    assert timing.rate == rate and timing.resampled
    assert len(timing.picks) == pytest.approx((times[-1] + 1 / float(rate)) * float(rate), abs=1)
    assert set(timing.picks.tolist()) == set(range(120))


def test_frames_that_are_not_seen_do_not_make_a_rate():
    """As where two cuts overlap after joining: some frames give way at once."""
    times = np.concatenate([even(60, 30), 2 + np.arange(40) * 1e-4, 2.004 + even(60, 30)])
    timing = plan_picks(source_timing(times, None))
    assert timing.rate == 30 and len(timing.picks) == pytest.approx(120, abs=1)


def test_variable_rate_at_a_given_rate():
    times = [0.0, 0.1, 0.5, 0.6]
    assert picks(times, None, fps=10.0, end=0.7) == [0, 1, 1, 1, 1, 2, 3]
    assert picks(times, None, fps=10.0, start=0.45, end=0.6) == [1, 2]


def test_rates_as_fractions():
    assert as_rate(29.97002997002997) == Fraction(30000, 1001)
    assert as_rate(23.976023976) == Fraction(24000, 1001)
    assert as_rate(25.0) == 25 and as_rate(29.97) == Fraction(2997, 100)
    assert as_rate(Fraction(30000, 1001)) == Fraction(30000, 1001)


def test_a_long_last_frame_counts():
    times = [0.0, 0.1, 0.5]
    assert not is_regular(times, Fraction(4))
    assert picks(times, None, fps=10.0, last=0.3) == [0, 1, 1, 1, 1, 2, 2, 2]


def test_start_within_a_variable_clip():
    times = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 2.0])
    assert len(picks(times, None, start=0.33)) == int(np.ceil((2.0 + 2.0 / 5 - 0.33) * 2.5))


def test_counting_makes_no_list():
    assert count_picks(source_timing(even(1000, 1), Fraction(1)), fps=1e9) == 10**12
