"""Photos of every kind, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media.outputs import read_metadata
from magicanimate.media.photo import load_photo
from magicanimate.webui.gallery.results import thumbnail
from tests.media_files import numbered, write_clip, write_sound


def quarters(width: int = 16, height: int = 8) -> np.ndarray:
    """Red, green, blue and yellow quarters: any turn or mirroring shows."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    picture[height // 2 :, width // 2 :] = (255, 255, 0)
    return picture


def refused(source, **options) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(InputError) as caught:
        load_photo(source, **options)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm", "tga"])
def test_plain_pictures_come_back_as_they_are(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(quarters()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    photo = load_photo(path)
    assert photo.dtype == np.uint8 and photo.flags.writeable
    np.testing.assert_array_equal(photo, quarters())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(undo[orientation](quarters()))).save(path, exif=exif)
    np.testing.assert_array_equal(load_photo(path), quarters())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_refuse(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(quarters(64, 64)).save(path, quality=95, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert load_photo(path).shape == (64, 64, 3)


def test_alpha_lies_over_white(tmp_path):
    picture = np.zeros((1, 3, 4), dtype=np.uint8)
    picture[0, :, 3] = (0, 128, 255)
    Image.fromarray(picture).save(tmp_path / "alpha.png")
    np.testing.assert_allclose(load_photo(tmp_path / "alpha.png")[0, :, 0].astype(int), [255, 127, 0], atol=1)
    over = load_photo(tmp_path / "alpha.png", alpha_over=(0, 0, 200))
    np.testing.assert_allclose(over[0, :, 2].astype(int), [200, 100, 0], atol=1)


def test_other_kinds_of_transparency(tmp_path):
    grey = Image.fromarray(np.array([[[10, 255], [10, 0]]], dtype=np.uint8), "LA")
    grey.save(tmp_path / "la.png")
    assert load_photo(tmp_path / "la.png")[0].tolist() == [[10] * 3, [255] * 3]
    indexed = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    indexed.putpalette([9, 8, 7, 1, 2, 3])
    indexed.save(tmp_path / "p.png", transparency=1)
    assert load_photo(tmp_path / "p.png")[0].tolist() == [[9, 8, 7], [255, 255, 255]]
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    keyed.save(tmp_path / "trns.png", transparency=(1, 2, 3))
    assert load_photo(tmp_path / "trns.png")[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    values = np.array([[0, 257 * 50, 257 * 128, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert load_photo(tmp_path / "deep.png")[0, :, 1].tolist() == [0, 50, 128, 255]
    Image.fromarray(values).save(tmp_path / "deep.tif")
    assert load_photo(tmp_path / "deep.tif")[0, :, 1].tolist() == [0, 50, 128, 255]


def test_dark_sixteen_bit_grey_stays_dark(tmp_path):
    Image.fromarray(np.full((2, 2), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert load_photo(tmp_path / "dark.png").max() <= 1


def test_floating_point_grey(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)).save(tmp_path / "float.tif")
    assert load_photo(tmp_path / "float.tif")[0, :, 0].tolist() == [0, 128, 255, 0]


def test_one_bit_and_cmyk(tmp_path):
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert load_photo(tmp_path / "bit.png")[0].tolist() == [[0] * 3, [255] * 3]
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    red = load_photo(tmp_path / "cmyk.jpg")[16, 16].astype(int)
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def test_colours_are_converted_from_the_embedded_profile(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A profile whose red is sRGB's green and the reverse, under another name.
    swapped = srgb.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "Odd1".encode("utf-16-be"))
    Image.new("RGB", (8, 8), (200, 40, 90)).save(tmp_path / "odd.png", icc_profile=swapped)
    np.testing.assert_allclose(load_photo(tmp_path / "odd.png")[4, 4].astype(int), (40, 200, 90), atol=3)
    Image.fromarray(quarters()).save(tmp_path / "srgb.png", icc_profile=srgb)
    np.testing.assert_array_equal(load_photo(tmp_path / "srgb.png"), quarters())


def test_a_profile_that_does_not_fit_is_left_aside(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(quarters()).save(tmp_path / "lab.png", icc_profile=lab)
    np.testing.assert_array_equal(load_photo(tmp_path / "lab.png"), quarters())


def test_first_frame_of_an_animation(tmp_path):
    first, second = (Image.fromarray(frame) for frame in (quarters(), quarters()[::-1]))
    first.save(tmp_path / "two.png", save_all=True, append_images=[second])
    np.testing.assert_array_equal(load_photo(tmp_path / "two.png"), quarters())
    first.save(tmp_path / "two.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(load_photo(tmp_path / "two.gif"), quarters())


def test_an_opened_image_is_taken_too():
    np.testing.assert_array_equal(load_photo(Image.fromarray(quarters())), quarters())


def test_missing_empty_and_folder(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    assert "empty.png is empty" in refused(tmp_path / "empty.png")
    assert "not a file" in refused(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif"])
def test_truncated_pictures(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    assert "cut." in refused(path)


def test_not_pictures(tmp_path):
    (tmp_path / "page.png").write_text("<html><body>404</body></html>")
    assert "holds text" in refused(tmp_path / "page.png")
    (tmp_path / "noise.png").write_bytes(bytes(range(256)))
    assert "not a picture" in refused(tmp_path / "noise.png")
    clip = write_clip(tmp_path / "clip.mp4", numbered(2))
    assert "is a video" in refused(clip)
    write_sound(tmp_path / "sound.mp4", 0.2).rename(tmp_path / "sound.jpg")
    refused(tmp_path / "sound.jpg")


def test_postscript_is_never_run(tmp_path, monkeypatch):
    """Pillow would start Ghostscript, which runs what is in the file, whatever the file is called."""

    def no_program(*args, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", no_program)
    monkeypatch.setattr("subprocess.check_call", no_program)
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n"
    for name in ("photo.eps", "photo.png", "photo.jpg"):
        (tmp_path / name).write_text(text)
        assert "PostScript" in refused(tmp_path / name)
        assert thumbnail(tmp_path / name) is None and read_metadata(tmp_path / name) is None
    assert "PostScript" in refused(text.encode())
    with Image.open(tmp_path / "photo.eps") as image, pytest.raises(OSError, match="Ghostscript"):
        image.load()  # as other libraries would


def test_formats_are_allowed_by_name(tmp_path):
    for name, kind in (("a.dds", "DDS"), ("b.blp", "BLP"), ("c.sgi", "SGI"), ("d.pcx", "PCX")):
        picture = Image.fromarray(quarters())
        (picture.quantize() if kind == "BLP" else picture).save(tmp_path / name, kind)
        assert "is not a picture that can be read" in refused(tmp_path / name)


@pytest.mark.parametrize("suffix", ["heic", "avif", "jp2", "gif"])
def test_pictures_of_phones_and_others(tmp_path, suffix):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / f"photo.{suffix}"
    large = np.kron(quarters(), np.ones((8, 8, 1), dtype=np.uint8))
    if suffix == "heic":
        pillow_heif.from_pillow(Image.fromarray(large)).save(path, quality=95)
    else:
        Image.fromarray(large).save(path)
    photo = load_photo(path)
    assert photo.shape == large.shape and np.abs(photo.astype(int) - large).mean() < 12


def test_large_jpegs_are_made_smaller_while_they_are_decoded(tmp_path):
    large = np.kron(quarters(), np.ones((20, 20, 1), dtype=np.uint8))  # 320 x 160
    Image.fromarray(large).save(tmp_path / "large.jpg", quality=95)
    photo = load_photo(tmp_path / "large.jpg", limits=MediaLimits(max_pixels=15_000))
    assert photo.shape == (80, 160, 3)
    assert np.abs(photo.astype(int) - large[::2, ::2]).mean() < 6
    assert "320x160" in refused(tmp_path / "large.jpg", limits=MediaLimits(max_pixels=10_000))
    Image.fromarray(large).save(tmp_path / "large.png")
    assert "320x160" in refused(tmp_path / "large.png", limits=MediaLimits(max_pixels=15_000))


def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
    Image.fromarray(quarters()).save(tmp_path / "photo.png")
    Image.init()  # one of its plugins makes a picture when it is imported
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    assert "16x8 pixels" in refused(tmp_path / "photo.png", limits=MediaLimits(max_pixels=100))
    assert "limit is 10 B;" in refused(tmp_path / "photo.png", limits=MediaLimits(max_file_bytes=10))


def test_decompression_bombs(tmp_path):
    """A header that announces 60000 x 60000 pixels with nothing behind it."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT")
    assert "pixels" in refused(tmp_path / "bomb.png")


def test_real_photos(shared):
    assert load_photo(shared / "samples/demo4.png").shape == (1024, 1024, 3)
    assert load_photo(shared / "samples/dalle2.jpeg").shape == (540, 540, 3)
