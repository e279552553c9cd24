"""Evaluation: protocols, figures against libraries, intervals, reports, the page."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pretended_gpu import PretendedGPU
from magicanimate.errors import InputError
from tests.dancer_files import write_boxes
from tests.media_files import write_output
from tests.training_files import write_video
from training.__main__ import main
from training.evaluation import networks as networks_module
from training.evaluation.networks import (
    _LEAST_OF_I3D,
    NETWORKS,
    Features,
    Lpips,
    NetworkFile,
    NotComputed,
    find_network,
    frechet_network,
)
from training.evaluation.protocol import METRICS, load_protocol, protocol_names, published_rows
from training.evaluation.run import evaluate, resized
from training.evaluation.statistics import bootstrap, paired
from training.metrics import frechet, pixels


class Noisy:
    """The truth, as far as it is known, with noise; else the reference as every frame."""

    size, driving = 48, "densepose"

    def __init__(self, sigma: float = 8.0):
        self.sigma, self.about = sigma, {"results": f"noise {sigma}"}
        self.seen = []

    def __call__(self, clip):
        self.seen.append(clip)
        frames = len(clip.control["densepose"])
        still = np.repeat(clip.reference[None], frames, axis=0)
        shown = still if clip.truth is None else resized(clip.truth, self.size)
        noise = np.random.default_rng(len(self.seen)).normal(0, self.sigma, shown.shape)
        return np.clip(shown + noise, 0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, count in (("a", 8), ("b", 10), ("c", 9)):
        write_video(folder, name, count)
    return folder


@pytest.fixture
def own(tmp_path) -> Path:
    """A protocol of one's own."""
    saved = {
        **{"about": "tiny", "source": "here", "frames": 8, "size": 32, "fvd_frames": 4, "lpips": "squeeze"},
        "metrics": ["l1_published", "psnr", "psnr_first_reported", "ssim", "lpips", "fid", "fvd", "flicker"],
    }
    path = tmp_path / "own.json"
    path.write_text(json.dumps(saved))
    return path


def test_the_protocols_that_come_with_the_program():
    assert protocol_names() == ["cross-identity", "synthdance", "ted", "tiktok-disco", "tiktok-humanvid"]
    digests = {load_protocol(name).as_json()["digest"] for name in protocol_names()}
    assert len(digests) == 5
    humanvid = load_protocol("tiktok-humanvid")
    assert (humanvid.frames, humanvid.reference) == (24, "middle")
    disco = load_protocol("tiktok-disco")
    assert {"psnr", "psnr_first_reported"} <= set(disco.metrics) and disco.fvd_frames == 16


def test_published_figures_stand_by_their_protocol_only():
    disco, humanvid = (
        {row["method"]: row for row in published_rows(name)} for name in ("tiktok-disco", "tiktok-humanvid")
    )
    assert disco["MagicAnimate"]["figures"]["psnr"] == 18.22
    assert disco["MagicAnimate"]["figures"]["l1_published"] == pytest.approx(3.13e-4)
    assert disco["Animate-X"]["figures"]["fvd"] == 139.01 and "psnr" not in disco["Animate-X"]["figures"]
    assert humanvid["SteadyDancer"]["figures"]["fvd"] == 451.3
    assert humanvid["MagicAnimate"]["figures"] != disco["MagicAnimate"]["figures"]
    for row in [*disco.values(), *humanvid.values()]:
        assert row["source"] and row["figures"].keys() <= METRICS.keys()
    assert published_rows("cross-identity") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": "last"}, "reference in .* is 'last'; choose one of first, middle"),
        ({"metrics": ["beauty"]}, "metrics in .* name 'beauty'"),
        ({"frames": "many"}, "frames in .* is 'many'"),
        ({"strange": 1}, "wrong or missing keys: strange"),
    ],
)
def test_protocols_of_no_sense(own, change, words):
    own.write_text(json.dumps(json.loads(own.read_text()) | change))
    with pytest.raises(InputError, match=words):
        load_protocol(str(own))
    with pytest.raises(InputError, match="There is no protocol 'nothing'; choose from cross-identity"):
        load_protocol("nothing")


def test_ssim_is_the_librarys():
    torchmetrics = pytest.importorskip("torchmetrics.functional.image")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, 40, 36, 3), dtype=np.uint8)
    result = np.clip(truth + rng.normal(0, 30, truth.shape), 0, 255).astype(np.uint8)
    pair = [torch.from_numpy(x).movedim(-1, 1).double() for x in (result, truth)]
    _, places = torchmetrics.structural_similarity_index_measure(
        *pair, sigma=1.5, kernel_size=11, data_range=255.0, return_full_image=True
    )
    theirs = places[..., 5:-5, 5:-5].mean()  # the library goes on beyond the edge, on mirrored pixels
    assert pixels.ssim(truth, result) == pytest.approx(float(theirs), abs=1e-6)
    theirs = torchmetrics.peak_signal_noise_ratio(*pair, data_range=255.0)
    assert pixels.psnr(truth, result) == pytest.approx(float(theirs), abs=1e-5)


def test_bootstrap_intervals():
    assert bootstrap([]) is None and bootstrap([float("nan")]) is None
    same = bootstrap([2.0, 2.0, 2.0])
    assert (same.mean, same.low, same.high, same.videos) == (2, 2, 2, 3)
    values = np.random.default_rng(0).normal(10, 2, 400)
    found = bootstrap(values.tolist())
    error = 1.96 * values.std() / 20  # of the mean of 400, by the normal approximation
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.mean == pytest.approx(error, rel=0.15)
    assert found.mean - found.low == pytest.approx(error, rel=0.15)


def report_of(figures: dict[str, list[float]], digest: str = "d") -> dict:
    names = range(len(next(iter(figures.values()))))
    rows = [{"name": str(k), "figures": {key: values[k] for key, values in figures.items()}} for k in names]
    return {"protocol": {"name": "p", "digest": digest}, "videos": rows}


def test_paired_comparison_sees_what_means_do_not():
    """Videos differ by far more than the runs do: only pairs tell the runs apart."""
    rng = np.random.default_rng(1)
    hard = rng.normal(20, 5, 30)
    first = report_of({"psnr": hard.tolist(), "ssim": rng.normal(0.5, 0.1, 30).tolist()})
    second = report_of(
        {"psnr": (hard + rng.normal(0.5, 0.2, 30)).tolist(), "ssim": rng.normal(0.5, 0.1, 30).tolist()}
    )
    found = paired(first, second)
    assert found["psnr"]["difference"] == pytest.approx(0.5, abs=0.1) and found["psnr"]["p"] < 0.001
    assert 0.3 < found["psnr"]["low"] < found["psnr"]["high"] < 0.7
    assert found["ssim"]["p"] > 0.01
    assert paired(first, first)["psnr"]["p"] == 1
    with pytest.raises(InputError, match="of different protocols"):
        paired(first, report_of({"psnr": [1.0]}, digest="other"))
    with pytest.raises(InputError, match="of different videos"):
        paired(first, report_of({"psnr": [1.0]}))


def test_a_report(videos, own, tmp_path):
    noisy, out = Noisy(), tmp_path / "out"
    report = evaluate(load_protocol(str(own)), videos, noisy, out, networks=tmp_path / "networks")
    assert [row["name"] for row in report["videos"]] == ["a", "b", "c"]
    assert [len(clip.truth) for clip in noisy.seen] == [8, 8, 8]
    clip = noisy.seen[0]
    assert clip.reference.shape == (48, 48, 3) and clip.truth.shape == (8, 32, 32, 3)
    assert abs(int(np.median(clip.reference)) - int(np.median(clip.truth[0]))) <= 2
    again = resized(Noisy()(clip), 32)
    assert report["videos"][0]["figures"]["psnr"] == pytest.approx(pixels.psnr(clip.truth, again))
    figures = report["figures"]
    mean = np.mean([row["figures"]["psnr"] for row in report["videos"]])
    assert figures["psnr"]["mean"] == pytest.approx(mean) and figures["psnr"]["videos"] == 3
    assert figures["psnr"]["low"] <= mean <= figures["psnr"]["high"]
    for key in ("lpips", "fid"):
        assert "is not in" in figures[key]["not_computed"] and "mean" not in figures[key]
    saved = json.loads((out / "report.json").read_text())
    assert saved == json.loads(json.dumps(report))
    assert saved["protocol"]["size"] == 32 and saved["method"] == {"results": "noise 8.0"}

    rows = list(csv.DictReader((out / "report.csv").open()))
    assert [row["video"] for row in rows] == ["a", "b", "c", "mean", "low", "high"]
    assert float(rows[3]["psnr"]) == pytest.approx(mean) and rows[3]["lpips"] == ""

    page = (out / "index.html").read_text()
    assert "http" not in page.replace("https://download.pytorch.org", ""), "nothing is fetched"
    assert "LPIPS: not computed: squeezenet" in page
    for name in "abc":
        for what in ("reference.png", "driving.mp4", "result.mp4", "truth.mp4"):
            assert f"videos/{name}_{what}" in page and (out / "videos" / f"{name}_{what}").exists()


def test_published_rows_on_the_page(videos, own, tmp_path, monkeypatch):
    disco = own.with_name("tiktok-disco.json")
    disco.write_text(own.read_text())
    evaluate(load_protocol(str(disco)), videos, Noisy(), tmp_path / "out", networks=tmp_path, most=1)
    page = (tmp_path / "out" / "index.html").read_text()
    assert ">3.13<" in page and "Xu et al., CVPR 2024" in page and "SteadyDancer" not in page


def test_cross_identity_has_no_truth(videos, tmp_path):
    noisy = Noisy()
    report = evaluate(load_protocol("cross-identity"), videos, noisy, tmp_path, networks=tmp_path)
    assert report["figures"]["flicker"]["mean"] > 0 and report["figures"]["identity"]["mean"] > 0
    assert all(clip.truth is None for clip in noisy.seen)
    assert not list((tmp_path / "videos").glob("*truth*"))
    first = [int(np.median(clip.reference)) for clip in noisy.seen]
    assert max(first) - min(first) <= 2, "the first frame of the next video, and all begin alike"


def test_references_and_what_does_not_suit(videos, own, tmp_path):
    protocol = replace(load_protocol(str(own)), reference="middle", metrics=("psnr",))
    noisy = Noisy()
    evaluate(protocol, videos, noisy, tmp_path / "middle", networks=tmp_path, most=1)
    assert np.array_equal(noisy.seen[0].shown_reference, noisy.seen[0].truth[4])
    with pytest.raises(InputError, match="has no stills; choose another protocol"):
        evaluate(replace(protocol, reference="still"), videos, noisy, tmp_path / "x", networks=tmp_path)
    with pytest.raises(InputError, match="holds none of the videos that the protocol"):
        evaluate(replace(protocol, videos=("00335",)), videos, noisy, tmp_path / "x", networks=tmp_path)
    dancers = write_boxes(tmp_path / "boxes", identities=2, size=32, stills=2, frames=4)
    report = evaluate(replace(protocol, reference="still"), dancers, noisy, tmp_path / "d", networks=tmp_path)
    assert [row["frames"] for row in report["videos"]] == [4, 4], "stills are no part of the motion"


def test_the_codec_of_a_protocol_costs_something(videos, own, tmp_path):
    plain = replace(load_protocol(str(own)), metrics=("psnr",))
    coded = replace(plain, codec="h264", crf=40)
    found = [
        evaluate(each, videos, Noisy(), tmp_path / each.codec, networks=tmp_path)["figures"]["psnr"]["mean"]
        for each in (plain, coded)
    ]
    assert abs(found[0] - found[1]) > 0.1 and not (tmp_path / "h264" / ".judged.mp4").exists()


def test_results_that_are_there_already(videos, own, tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    for name in "abc":
        write_output(results / f"{name}.mp4", [np.full((48, 48, 3), 60, np.uint8)] * 8)
    words = ["evaluate", "--protocol", str(own), "--data", str(videos), "--out", str(tmp_path / "out")]
    assert main([*words, "--results", str(results), "--size", "48"]) == 0
    out = capsys.readouterr().out
    assert "PSNR, dB: " in out and "FVD: not computed: " in out and "index.html" in out
    (results / "b.mp4").unlink()
    assert main([*words, "--results", str(results), "--size", "48"]) == 2
    assert "There is no result for b" in capsys.readouterr().err
    write_output(results / "b.mp4", [np.full((48, 48, 3), 60, np.uint8)] * 7)
    assert main([*words, "--results", str(results), "--size", "48"]) == 2
    assert "has 7 frames, and the motion 8" in capsys.readouterr().err
    assert main(words) == 2
    assert "Give one of --model" in capsys.readouterr().err


def test_two_reports_are_compared(videos, own, tmp_path, capsys):
    protocol = replace(load_protocol(str(own)), metrics=("psnr", "flicker"))
    for sigma in (4, 12):
        evaluate(protocol, videos, Noisy(sigma), tmp_path / str(sigma), networks=tmp_path)
    assert main(["compare", str(tmp_path / "12"), str(tmp_path / "4")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("PSNR, dB: ") and "3 videos" in lines[1] and lines[2].startswith("flicker")


class _Pooled(torch.nn.Module):
    """A network of clips with random weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv3d(3, 6, 3)

    def forward(self, x):
        return self.layer(x / 255).abs().flatten(2).mean(2)


@pytest.fixture
def feature_networks(tmp_path, monkeypatch) -> Path:
    """Random weights in place of the published files, of one hash each."""
    torchvision = pytest.importorskip("torchvision")
    folder = tmp_path / "networks"
    folder.mkdir()
    torch.jit.script(_Pooled()).save(folder / "resnet-50-kinetics.pt")
    torch.manual_seed(0)
    weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(weights, folder / "squeeze.pth")
    monkeypatch.setitem(networks_module.NETWORKS, "lpips_squeeze", NetworkFile("squeeze.pth", "here"))
    return folder


def test_figures_of_random_networks(videos, own, tmp_path, feature_networks):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    protocol, noisy = replace(load_protocol(str(own)), metrics=("lpips", "fid", "fid_vid", "fvd")), Noisy()
    report = evaluate(protocol, videos, noisy, tmp_path / "out", networks=feature_networks)
    figures = report["figures"]
    assert figures["fid_vid"]["clip_length"] == 4 and figures["lpips"]["mean"] > 0
    assert figures["fid_vid"]["samples"] == (6, 6)
    assert figures["fvd"] == {"not_computed": "I3D takes clips of 9 frames or more, and these have 4"}
    assert figures["fid"]["not_computed"].startswith("weights-inception-2015-12-05-6726825d.pth (torch-fid")
    assert "sha256" in report["networks"]["fid_vid"] and "squeeze.pth" in report["networks"]["lpips"]
    results = [resized(Noisy.__call__(_again(k), clip), 32) for k, clip in enumerate(noisy.seen)]
    network, sides = _Pooled(), []
    for side in ([clip.truth for clip in noisy.seen], results):
        clips = np.concatenate([video.reshape(2, 4, 32, 32, 3) for video in side])
        sides.append(network(torch.from_numpy(clips).movedim(-1, 1).float()).detach().double().numpy())
    assert figures["fid_vid"]["mean"] == pytest.approx(frechet.frechet_distance(*sides), rel=1e-4)
    perfect = evaluate(protocol, videos, Noisy(0.0), tmp_path / "0", networks=feature_networks)["figures"]
    assert perfect["lpips"]["mean"] < figures["lpips"]["mean"]


def _shots(count: int, frames: int, seed: int) -> list[np.ndarray]:
    """Videos of noise around a colour each, so that they differ."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(40, 200, (count, 1, 1, 1, 3))
    return list(np.clip(colours + rng.normal(0, 30, (count, frames, 40, 36, 3)), 0, 255).astype(np.uint8))


def lively(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random weights that let differences through all layers; torch's own make them smaller in each."""
    weights = network.state_dict()
    return {key: value * 6**0.5 if value.ndim > 3 else value for key, value in weights.items()}


@pytest.mark.slow
def test_fid_is_torch_fidelitys(tmp_path, monkeypatch):
    """From pictures to the figure, with random weights in the layout of the published file."""
    fidelity = pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            pass

    empty, file = tmp_path / "empty.pth", tmp_path / NETWORKS["fid"].file
    torch.save({}, empty)
    torch.manual_seed(0)
    torch.save(lively(Untrained("none", ["2048"], feature_extractor_weights_path=empty)), file)
    with pytest.raises(InputError, match="is not the published file"):
        frechet_network("fid", tmp_path, clip_length=1)
    monkeypatch.setitem(NETWORKS, "fid", replace(NETWORKS["fid"], sha256=""))
    network = frechet_network("fid", tmp_path, clip_length=16)
    sides = [_shots(2, 3, seed) for seed in (0, 1)]
    both = frechet.Frechet(network, format="")
    for pair in zip(*sides, strict=True):
        both.add(*pair)
    ours = both.result()
    assert ours.samples == (6, 6) and ours.clip_length == 1 and file.name in ours.network
    assert ours.distance > 1e-3
    pictures = [[torch.from_numpy(f).movedim(-1, 0) for video in side for f in video] for side in sides]
    theirs = fidelity.calculate_metrics(
        **{"input1": _Pictures(pictures[0]), "input2": _Pictures(pictures[1]), "fid": True, "cuda": False},
        **{"feature_extractor_weights_path": str(file), "verbose": False, "cache": False, "batch_size": 6},
    )["frechet_inception_distance"]
    # theirs takes roots of 2042 eigenvalues that are 0 but for rounding
    assert ours.distance == pytest.approx(theirs, rel=1e-3)
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="weights of another network"):
        frechet_network("fid", tmp_path, clip_length=1)


class _Pictures(torch.utils.data.Dataset):
    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.pictures[index]


@pytest.mark.slow
def test_fvd_is_of_cd_fvds_features(tmp_path):
    i3d = pytest.importorskip("cdfvd.third_party.i3d.pytorch_i3d", reason="cd-fvd is not installed")
    from cdfvd.fvd import cdfvd

    file = tmp_path / NETWORKS["fvd"].file
    torch.manual_seed(0)
    torch.save(lively(i3d.InceptionI3d(400, in_channels=3)), file)
    network = frechet_network("fvd", tmp_path, clip_length=10)
    clips = np.stack(_shots(2, 10, 0))
    theirs = cdfvd("i3d", ckpt_path=str(file), n_real="full", compute_feats=True, device="cpu")
    theirs.add_real_stats(clips)
    features = theirs.real_stats.get_all()
    np.testing.assert_allclose(network.features(clips), features, rtol=1e-4, atol=1e-5)
    assert np.ptp(features, axis=0).max() > 1e-3, "the clips differ"
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="weights of another network"):
        frechet_network("fvd", tmp_path, clip_length=10)
    shortest = torch.zeros(1, 3, _LEAST_OF_I3D - 1, 224, 224)
    with pytest.raises(RuntimeError), torch.inference_mode():
        i3d.InceptionI3d(400, in_channels=3).eval()(shortest)


def test_networks_compute_where_they_are_asked_to(feature_networks):
    """On a GPU that is not there, which refuses what is not on it."""
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    lpips, videos = Lpips("squeeze", feature_networks), np.stack(_shots(2, 4, 0))
    features = Features(_Pooled(), lambda clips: torch.from_numpy(clips).movedim(-1, 1).float())
    with PretendedGPU():
        lpips.to("cuda")(*videos)
        assert features.to("cuda")(videos).shape == (2, 6)
        features.device = "cpu"
        with pytest.raises(RuntimeError, match="device"):
            features(videos)


@pytest.mark.parametrize(
    ("need", "package"), [("fid", "torch_fidelity"), ("fvd", "cdfvd"), ("lpips_squeeze", "torchmetrics")]
)
def test_without_its_package_a_figure_is_not_computed(tmp_path, monkeypatch, need, package):
    monkeypatch.setitem(NETWORKS, need, replace(NETWORKS[need], sha256=""))
    (tmp_path / NETWORKS[need].file).write_bytes(b"weights")
    for name in [name for name in sys.modules if name.partition(".")[0] == package] or [package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotComputed, match="the package .* is not installed"):
        if need == "lpips_squeeze":
            Lpips("squeeze", tmp_path)
        else:
            frechet_network(need, tmp_path, clip_length=16)


def test_absent_networks_are_fetched_if_that_is_wished(tmp_path, monkeypatch):
    """From a place on this machine; what comes is compared with the hash in its name."""
    published = tmp_path / "published.pth"
    published.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    wanted = NetworkFile("mine.pth", "here", published.as_uri(), digest[:8])
    monkeypatch.setitem(NETWORKS, "fid", wanted)
    folder = tmp_path / "networks"
    with pytest.raises(NotComputed, match="mine.pth .here. is not in the folder"):
        find_network("fid", folder)
    assert find_network("fid", folder, fetch=True) == (folder / "mine.pth", digest)
    published.unlink()
    assert find_network("fid", folder, fetch=True)[1] == digest, "fetched once"
    (folder / "mine.pth").unlink()
    with pytest.raises(NotComputed, match="mine.pth cannot be fetched from file:"):
        find_network("fid", folder, fetch=True)
    published.write_bytes(b"other weights")
    with pytest.raises(NotComputed, match="cannot be fetched .*hash"):
        find_network("fid", folder, fetch=True)
    assert list(folder.iterdir()) == [], "nothing half-written stays"


def _again(seen: int) -> Noisy:
    noisy = Noisy()
    noisy.seen = [None] * seen
    return noisy


def test_lpips_is_torchmetrics(tmp_path, feature_networks):
    functional = pytest.importorskip("torchmetrics.functional.image.lpips")
    rng = np.random.default_rng(0)
    truth, result = rng.integers(0, 256, (2, 2, 64, 64, 3), dtype=np.uint8)
    lpips = Lpips("squeeze", feature_networks)
    theirs = functional._LPIPS(pretrained=True, net="squeeze", pnet_rand=True).eval()
    theirs.net.load_state_dict(lpips._network.net.state_dict())
    pair = [torch.from_numpy(x).movedim(-1, 1).float() / 127.5 - 1 for x in (truth, result)]
    assert lpips(truth, result) == pytest.approx(float(theirs(*pair).mean()), rel=1e-5)
    assert lpips(truth, truth) == 0
    import torchvision

    torch.manual_seed(0)  # the backbone's layers are where torchvision has them
    whole = torchvision.models.squeezenet1_1(weights=None).features.eval()
    seen = theirs.net(pair[0])[-1]
    with torch.inference_mode():
        torch.testing.assert_close(seen, whole(pair[0]))


def test_another_file_of_a_published_name_is_refused(tmp_path):
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"something else")
    with pytest.raises(InputError, match="is not the published file: its SHA-256 begins with"):
        find_network("lpips_vgg", tmp_path)
    with pytest.raises(NotComputed, match=r"alexnet-owt-7be5be79.pth .torchvision.* is not in"):
        find_network("lpips_alex", tmp_path)
