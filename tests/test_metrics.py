"""Each figure against an independent computation or a case whose value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from magicanimate.errors import InputError
from training.metrics import frechet, parts, pixels


def videos(seed: int = 0, *, frames: int = 3, size: tuple[int, int] = (24, 20)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 256, (frames, *size, 3), dtype=np.uint8)
    noise = rng.normal(0, 20, truth.shape)
    return truth, np.clip(truth + noise, 0, 255).astype(np.uint8)


def test_pixel_errors_against_loops():
    truth, result = videos()
    total = squares = 0
    for a, b in zip(truth.ravel().tolist(), result.ravel().tolist(), strict=True):
        total, squares = total + abs(a - b), squares + (a - b) ** 2
    count = truth.size
    assert pixels.l1(truth, result) == pytest.approx(total / count / 255)
    assert pixels.l1_published(truth, result) == pytest.approx(total / count / (24 * 20))
    assert pixels.psnr(truth, result) == pytest.approx(10 * math.log10(255**2 / (squares / count)))


def test_psnr_of_known_errors():
    grey = np.full((2, 4, 4, 3), 100, np.uint8)
    assert pixels.psnr(grey, grey) == math.inf
    assert pixels.psnr(grey, grey + np.uint8(10)) == pytest.approx(28.1308, abs=1e-4)  # 20 log10 25.5
    assert pixels.psnr(np.zeros_like(grey), np.full_like(grey, 255)) == 0


def test_the_overflowing_psnr_wraps_twice():
    truth = np.full((2, 4, 4, 3), 16, np.uint8)
    assert pixels.psnr_overflowing(truth, truth) == 100
    darker = np.full_like(truth, 15)  # difference 255 modulo 256, its square 1
    assert pixels.psnr_overflowing(truth, darker) == pytest.approx(10 * math.log10(255**2))
    far = np.full_like(truth, 32)  # 16 squared is 256, which is 0
    assert pixels.psnr_overflowing(truth, far) == 100
    assert pixels.psnr(truth, far) < 25
    truth, result = videos()
    errors = [
        [(int(b) - int(a)) ** 2 % 256 for a, b in zip(t.flat, r.flat, strict=True)]
        for t, r in zip(truth, result, strict=True)
    ]
    expected = np.mean([10 * math.log10(255**2 / np.mean(frame)) for frame in errors])
    assert pixels.psnr_overflowing(truth, result) == pytest.approx(expected)


def test_sharpness_of_known_pictures():
    """Half the contrast is a quarter of the energy; what is not on the mask does not count."""
    rng = np.random.default_rng(0)
    truth = rng.integers(100, 156, (2, 16, 16, 3)).astype(np.uint8)
    mask = np.zeros((2, 16, 16), bool)
    mask[:, 4:12, 3:9] = True
    result = (128 + (truth.astype(int) - 128) / 2).round().astype(np.uint8)
    result[~mask] = 255
    assert pixels.gradient_energy(truth, truth, mask) == 1
    assert pixels.gradient_energy(truth, result, mask) == pytest.approx(0.25, abs=0.01)
    assert math.isnan(pixels.gradient_energy(truth, truth, np.zeros_like(mask)))


def test_heads_are_judged_where_they_are_large():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, 48, 48, 3)).astype(np.uint8)
    labels = np.zeros((3, 48, 48), np.uint8)
    labels[0, 10:30, 40:44] = 23  # narrow and at the edge
    labels[1, 10:14, 10:14] = 24  # small
    result = truth.copy()
    result[1:] = 0
    assert pixels.head_ssim(truth, result, labels) == pytest.approx(1)
    labels[2, 5:40, 5:30] = 24
    assert pixels.head_ssim(truth, result, labels) == pytest.approx(0.5, abs=0.02)
    assert math.isnan(pixels.head_ssim(truth, result, np.zeros_like(labels)))


def test_masks_limit_figures_to_the_person():
    truth, result = videos()
    mask = np.zeros(truth.shape[:3], bool)
    mask[:, 6:18, 6:14] = True
    inside = (slice(None), slice(6, 18), slice(6, 14))
    assert pixels.l1(truth, result, mask) == pytest.approx(pixels.l1(truth[inside], result[inside]))
    assert pixels.psnr(truth, result, mask) == pytest.approx(pixels.psnr(truth[inside], result[inside]))
    windows = pixels.ssim_map(truth, result)[:, 1:13, 1:9]  # the map begins 5 pixels further in
    assert pixels.ssim(truth, result, mask) == pytest.approx(windows.mean())
    none = np.zeros_like(mask)
    for figure in (pixels.l1, pixels.psnr, pixels.ssim, pixels.temporal_error):
        assert math.isnan(figure(truth, result, none))


def test_ssim_of_one_window_by_the_formula():
    truth, result = videos(size=(13, 12))
    offsets = np.arange(11) - 5
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    expected = []
    for channel in range(3):
        x, y = (v[1, 2:13, 1:12, channel].astype(float) for v in (truth, result))
        mx, my = (kernel * x).sum(), (kernel * y).sum()
        vx, vy, cov = (
            (kernel * (p - mp) * (q - mq)).sum()
            for p, mp, q, mq in ((x, mx, x, mx), (y, my, y, my), (x, mx, y, my))
        )
        c1, c2 = 6.5025, 58.5225
        expected.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert pixels.ssim_map(truth, result)[1, 2, 1] == pytest.approx(np.mean(expected), abs=1e-9)


def test_ssim_of_known_pictures():
    truth, result = videos()
    assert pixels.ssim(truth, truth) == pytest.approx(1)
    assert pixels.ssim(truth, result) < pixels.ssim(truth, truth)
    black, white = np.zeros((1, 16, 16, 3), np.uint8), np.full((1, 16, 16, 3), 255, np.uint8)
    assert pixels.ssim(black, white) == pytest.approx(6.5025 / (255**2 + 6.5025))  # luminance term alone
    with pytest.raises(ValueError, match="smaller than the window"):
        pixels.ssim(truth[:, :8], truth[:, :8])


def test_feature_distance_of_known_directions():
    x = np.zeros((2, 3, 4, 4), np.float32)
    x[:, 0] = 5
    y = np.roll(x, 1, axis=1)  # perpendicular
    assert pixels.feature_distance([x], [x * 7]) == pytest.approx(0)
    assert pixels.feature_distance([x, x], [y, x]) == pytest.approx(1)  # mean of 2 and 0
    assert pixels.feature_distance([x], [-x]) == pytest.approx(4)


def test_temporal_error_ignores_what_does_not_change():
    truth, _ = videos(frames=5)
    truth = truth // 2
    assert pixels.temporal_error(truth, truth + np.uint8(40)) == 0
    flickering = truth.copy()
    flickering[1::2] += 10
    assert pixels.temporal_error(truth, flickering) == pytest.approx(10)
    mask = np.zeros(truth.shape[:3], bool)
    mask[0, 0, 0] = True  # counts in the first change only
    flickering = truth.copy()
    flickering[1:, 0, 0] += 6
    assert pixels.temporal_error(truth, flickering, mask) == pytest.approx(6)
    assert math.isnan(pixels.temporal_error(truth[:1], truth[:1]))


def test_flicker_of_known_motions():
    ramp = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 4, 3), 10, np.uint8)
    assert pixels.flicker(ramp) == 0
    blinking = np.zeros_like(ramp)
    blinking[::2] = 10
    assert pixels.flicker(blinking) == 20
    assert math.isnan(pixels.flicker(ramp[:2]))


# Lab, Lab, difference: from the test data that Sharma et al. published with the formula (table 1).
CIEDE2000 = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0009), 7.1792),
    ((50, -0.0010, 2.4900), (50, 0.0009, -2.4900), 4.8045),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((50, 2.5, 0), (56, -27, -3), 31.9030),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def test_colour_difference_against_published_pairs():
    first, second, expected = (np.array(column) for column in zip(*CIEDE2000, strict=True))
    np.testing.assert_allclose(parts.delta_e(first, second), expected, atol=1e-4)
    np.testing.assert_allclose(parts.delta_e(second, first), expected, atol=1e-4)


def test_lab_of_known_colours():
    rgb = np.array([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255), (119, 119, 119)], np.uint8)
    expected = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86), (50.03, 0, 0)]
    np.testing.assert_allclose(parts.srgb_to_lab(rgb), expected, atol=0.02)


def test_identity_compares_parts_that_both_show():
    labels = np.zeros((2, 8, 8), np.uint8)
    labels[:, :4, :4], labels[:, 4:, :4], labels[0, :4, 4:] = 2, 23, 3
    labels[0, 7, 7] = 5  # too small to judge
    video = np.full((2, 8, 8, 3), 120, np.uint8)
    photo = parts.part_colours(video[:1], labels[:1])
    assert np.isfinite(photo[0, :, 0]).nonzero()[0].tolist() == [2, 3, 23]
    assert parts.identity_difference(photo, parts.part_colours(video, labels)) == 0
    other = video.copy()
    other[1, :4, :4] = (200, 40, 40)  # the torso, in one of two frames
    found = parts.part_colours(other, labels)
    one = parts.delta_e(parts.srgb_to_lab(video[1, 0, 0]), parts.srgb_to_lab(other[1, 0, 0]))
    assert parts.identity_difference(photo, found) == pytest.approx(float(one) / 2 / 3)
    nobody = parts.part_colours(video, np.zeros_like(labels))
    assert math.isnan(parts.identity_difference(photo, nobody))


def test_part_agreement_by_hand():
    driving = np.array([[[0, 0, 1, 1], [2, 2, 2, 2]]])
    found = np.array([[[0, 1, 1, 1], [2, 2, 3, 3]]])
    # part 1: 2 of 3; part 2: 2 of 4; part 3 is not in the driving map
    assert parts.pose_agreement(driving, found) == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert parts.pose_agreement(driving, driving) == 1
    assert math.isnan(parts.pose_agreement(np.zeros_like(driving), found))
    counts = parts.PartCounts(4)
    counts.add(driving[0, :1], found[0, :1])
    counts.add(driving[0, 1:], found[0, 1:])
    np.testing.assert_allclose(counts.iou(), [1 / 2, 2 / 3, 2 / 4, 0])
    assert counts.accuracy() == 5 / 8
    with pytest.raises(ValueError, match="not in 0..3"):
        counts.add(np.array([7]), np.array([1]))


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    first = rng.normal(0, 1, (500, 1))
    second = 3 * first + 2  # one dimension: (m1 - m2)^2 + (s1 - s2)^2
    gap, spread = first.mean() - second.mean(), first.std(ddof=1) - second.std(ddof=1)
    assert frechet.frechet_distance(first, second) == pytest.approx(gap**2 + spread**2)
    assert frechet.frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_against_a_general_matrix_root():
    """The trace of the root from the eigenvalues of the unsymmetric product, where that is well behaved."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    second = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 1
    c1, c2 = np.cov(first.T), np.cov(second.T)
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(complex)).real.sum()
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * root
    assert frechet.frechet_distance(first, second) == pytest.approx(expected)
    few = rng.normal(size=(4, 50))  # fewer samples than features: singular
    assert frechet.frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet.frechet_distance(few, few + 1) == pytest.approx(50)


def test_frechet_distance_is_that_of_the_libraries():
    """Where covariances are regular; of what is written here instead, and why, see `frechet_distance`."""
    rng = np.random.default_rng(2)
    first = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    second = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 1
    ours = frechet.frechet_distance(first, second)
    torchmetrics = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")
    moments = [torch.tensor(x) for f in (first, second) for x in (f.mean(0), np.cov(f.T))]
    assert float(torchmetrics._compute_fid(*moments)) == pytest.approx(ours)
    fidelity = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    sides = [fidelity.fid_features_to_statistics(torch.tensor(f)) for f in (first, second)]
    theirs = fidelity.fid_statistics_to_metric(*sides, verbose=False)
    assert theirs[fidelity.KEY_METRIC_FID] == pytest.approx(ours)


def gathered(truths, results, network, format: str = "") -> frechet.FrechetResult:
    both = frechet.Frechet(network, format=format)
    for pair in zip(truths, results, strict=True):
        both.add(*pair)
    return both.result()


def test_videos_become_clips_and_features():
    """Colour means and the spread over time serve as features."""

    def features(clips: np.ndarray) -> np.ndarray:
        return np.concatenate([clips.mean((1, 2, 3)), clips.std(1).mean((1, 2))], 1)

    network = frechet.FeatureNetwork("means", 4, features)
    sets = [[videos(seed, frames=9)[0] for seed in range(first, first + 6)] for first in (0, 6)]
    got = gathered(*sets, network, format="24x20 arrays")
    clips = [np.concatenate([v[:8].reshape(2, 4, 24, 20, 3) for v in s]) for s in sets]
    assert got.distance == pytest.approx(frechet.frechet_distance(*map(features, clips)))
    assert got.samples == (12, 12) and got.clip_length == 4 and got.format == "24x20 arrays"
    assert got.network == "means"
    with pytest.raises(InputError, match="two or more clips"):
        gathered(sets[0][:1], [v[:4] for v in sets[1][:1]], network)


def test_wrong_videos_are_refused():
    truth, result = videos()
    with pytest.raises(ValueError, match="uint8"):
        pixels.psnr(truth / 255, result)
    with pytest.raises(ValueError, match="differ in shape"):
        pixels.psnr(truth, result[:, :10])
    with pytest.raises(ValueError, match="mask must be bool"):
        pixels.psnr(truth, result, truth[..., 0])
