"""What is refused and why, which frame is taken, and how a recipe is followed.

tests/test_images_golden.py has the pixels of every kind of image, tests/test_images_limits.py
what a file may cost, tests/test_images_fuzz.py broken files.
"""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from pipeline import images
from pipeline.errors import ImageError
from pipeline.images import Preprocessing, decode, preprocess
from pipeline.images.headers import FORMATS, SNIFF_BYTES, sniff
from tests.image_files import ORIENTATION, chunk, noise, png, png_of, saved, tiff_of


def pixels(height: int = 24, width: int = 31, seed: int = 0) -> np.ndarray:
    return noise(height, width, 3, seed)


def picture() -> Image.Image:
    return Image.fromarray(pixels())


def refusal(content: bytes) -> ImageError:
    with pytest.raises(ImageError) as raised:
        decode(content)
    return raised.value


def test_decode__float_image_that_goes_below_0__is_clipped_not_stretched():
    values = np.array([[-0.5, 0.0, 0.4, 0.6, 1.0]], "f4")
    assert decode(saved(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_decode__float_image_with_no_number__is_corrupt(bad):
    values = np.zeros((4, 5), "f4")
    values[1, 1] = bad
    assert refusal(saved(Image.fromarray(values), "TIFF")).reason == "corrupt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0garbage", b"xx", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"],
)
def test_decode__unreadable_exif__says_nothing_about_the_pixels(format, exif):
    image = Image.fromarray(pixels())
    decoded = decode(saved(image, format, exif=exif))
    assert np.array_equal(decoded, decode(saved(image, format)))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_decode__orientation_that_does_not_exist__is_taken_as_upright(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(decode(saved(picture(), "PNG", exif=exif)), pixels())


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_decode__several_frames__is_the_first(format):
    frames = [Image.fromarray(pixels(seed=seed)) for seed in range(3)]
    content = saved(frames[0], format, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert np.array_equal(decode(content), pixels(seed=0))


def test_decode__first_page_before_a_broken_one__is_decoded():
    pages = [Image.fromarray(pixels(seed=seed)) for seed in range(2)]
    content = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert np.array_equal(decode(content[: len(content) * 2 // 3]), pixels(seed=0))


def phone_photo() -> bytes:
    """An MPO: a JPEG with a second one behind it, and an index of the two in an APP2 segment."""
    other = Image.fromarray(pixels(seed=1))
    content = saved(picture(), "MPO", save_all=True, append_images=[other], quality=90)
    assert Image.open(io.BytesIO(content)).format == "MPO"
    return content


def test_decode__two_jpegs_of_a_phone__is_the_first():
    assert np.array_equal(decode(phone_photo()), decode(saved(picture(), "JPEG", quality=90)))


def test_decode__two_jpegs_with_a_damaged_index__is_the_first():
    content = phone_photo()
    start = content.index(b"MPF\0") + 4
    want = decode(content)
    for at in range(start, start + 90):
        for value in (0, 1, 255):
            damaged = content[:at] + bytes([value]) + content[at + 1 :]
            assert np.array_equal(decode(damaged), want)


def test_decode__large_image__is_converted_in_strips_to_the_same_pixels(monkeypatch):
    four, wide = noise(24, 31, 4), noise(24, 31, dtype="u2")
    unit = np.linspace(0, 1, 24 * 31, dtype="f4").reshape(24, 31)
    unit[5:] *= 200  # not all of the image lies in 0..1, though the first rows do
    table = chunk(b"PLTE", noise(1, 256, 3)[0].tobytes())
    contents = [
        png_of(four, 8, 6),
        png_of(wide, 16, 0, chunk(b"tRNS", wide[3, 4].astype(">u2").tobytes())),
        png_of(four[..., 0], 8, 3, table, chunk(b"tRNS", bytes(range(256)))),
        png_of(four[..., :3], 8, 2, chunk(b"tRNS", four[3, 4, :3].astype(">u2").tobytes())),
        tiff_of(unit, 1),
        tiff_of(wide, 0, order="<"),
        tiff_of(four, 5),
        tiff_of(four[..., :3] // 8, 8),
    ]
    whole = [decode(content) for content in contents]
    monkeypatch.setattr(images, "_STRIP_PIXELS", 3 * 31)
    for content, want in zip(contents, whole, strict=True):
        assert np.array_equal(decode(content), want)


def test_decode__clear_colour_of_16_bits__is_compared_by_its_high_bytes():
    values = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1235, 0x5678, 0x9ABC], [0x1334, 0, 0]]], "u2")
    clear = chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())
    assert decode(png_of(values, 16, 2, clear))[0].tolist() == [[255] * 3, [255] * 3, [0x13, 0, 0]]


RECIPES = [
    (256, 224, "bilinear"),
    (236, 224, "bicubic"),
    (64, 64, "bicubic"),
    (33, 20, "lanczos"),
    (40, 31, "nearest"),
    (20, 27, "bilinear"),
    (20, 70, "bicubic"),
]


def test_preprocess__odd_sizes__is_torchvisions_resize_and_crop_to_the_pixel():
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    for width, height in [(37, 53), (224, 224), (225, 224), (301, 97), (97, 301), (20, 333)]:
        image = Image.fromarray(pixels(height, width))
        content = saved(image, "PNG")
        for resize, crop, name in RECIPES:
            ours = preprocess(content, recipe(resize, crop, name))
            theirs = Compose([Resize(resize, InterpolationMode(name)), CenterCrop(crop)])(image)
            assert np.array_equal(ours, np.asarray(theirs)), (width, height, resize, crop, name)


def recipe(resize: int, crop: int, interpolation: str = "bicubic") -> Preprocessing:
    return Preprocessing(resize, crop, interpolation, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_preprocess__turned_photo__is_cropped_after_turning():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = saved(Image.fromarray(pixels(40, 90)), "PNG", exif=exif)
    upright = saved(Image.fromarray(np.rot90(pixels(40, 90), -1)), "PNG")
    small = recipe(32, 32)
    assert np.array_equal(preprocess(turned, small), preprocess(upright, small))


def test_preprocess__strip_that_resizing_would_blow_up__is_refused():
    strip = saved(Image.fromarray(pixels(10_000, 1)), "PNG")
    assert decode(strip).shape == (10_000, 1, 3)
    with pytest.raises(ImageError) as raised:
        preprocess(strip, recipe(224, 224))
    assert raised.value.reason == "too_many_pixels"
    assert "1x10000 would be resized to 224x2240000" in raised.value.detail


def test_recipe__as_dict__is_plain_values_for_json():
    assert recipe(8, 6).as_dict() == {
        "resize": 8,
        "crop": 6,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }


@pytest.mark.parametrize("format", FORMATS)
def test_sniff__first_bytes__tell_the_format(format):
    assert sniff(saved(Image.fromarray(pixels()), format)[:SNIFF_BYTES]) == format


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (saved(Image.fromarray(pixels()), "GIF"), "GIF"),
        (saved(Image.fromarray(pixels()), "AVIF"), "AVIF"),
        (saved(Image.fromarray(pixels()), "JPEG2000"), "JPEG 2000"),
        (saved(Image.fromarray(pixels()), "ICO"), "ICO"),
        (b"<!DOCTYPE html><html>not found</html>", "HTML"),
        (b"\n  <html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avif", "AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "camera's raw"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera's raw"),
        (b"FUJIFILMCCD-RAW 0201", "camera's raw"),
        (b"MM\0+\0\x08\0\0", "big-endian BigTIFF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0", "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"8BPS\0\1", "PSD"),
        (b"P7\nWIDTH 4\n", "PAM"),
        (b"Pf\n4 4\n-1\n", "PFM"),
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\x03\x04", "zip"),
        (b"BM is how this text begins, no bitmap", "not one of JPEG"),
        (b"P7 is no format of ours", "not one of JPEG"),
        (b"B", "not one of JPEG"),
    ],
)
def test_decode__other_kind_of_file__is_unsupported_and_named(content, words):
    error = refusal(content)
    assert error.reason == "unsupported_format"
    assert words in error.detail


def test_decode__no_bytes__is_empty():
    assert refusal(b"").reason == "empty"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("format", "options"),
    [*((format, {}) for format in FORMATS), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_decode__file_cut_in_half__is_truncated(format, options):
    content = saved(Image.fromarray(pixels()), format, **options)
    assert refusal(content[: len(content) // 2]).reason == "truncated"


@pytest.mark.parametrize(
    "content",
    [b"P6 0 0 255\n", png(0, 0, 8, 2, b""), b"\xff\xd8\xff\xd9" + bytes(64)],
    ids=["ppm-0x0", "png-0x0", "jpeg-empty"],
)
def test_decode__header_without_an_image__is_not_an_image(content):
    assert refusal(content).reason == "not_an_image"


def test_decode__broken_data__is_corrupt():
    rows = b"\0" + bytes(30)
    whole = png(10, 1, 8, 2, rows)
    where = whole.index(b"IDAT") + 4
    assert refusal(whole[:where] + bytes(4) + whole[where + 4 :]).reason == "corrupt"


def test_decode__plugins_of_other_formats__are_never_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(Image, "ID", ["OTHER", *Image.ID])
    monkeypatch.setitem(Image.OPEN, "OTHER", (lambda *_: asked.append(1), lambda _: True))
    refusal(b"\x89PNG\r\n\x1a\n" + bytes(100))
    decode(saved(picture(), "PNG"))
    assert asked == []


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (12_500, 8_001)])
def test_decode__bomb__is_refused_by_its_header_whatever_the_warnings(width, height, action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert refusal(png(width, height, 8, 2, b"")).reason == "too_many_pixels"


def test_decode__exactly_the_ceiling__is_let_through(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 31)
    assert decode(saved(picture(), "PNG")).shape == (24, 31, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 31 - 1)
    assert refusal(saved(picture(), "PNG")).reason == "too_many_pixels"


def test_decode__memory_ran_out__is_no_fault_of_the_image(monkeypatch):
    def starved(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", starved)
    with pytest.raises(MemoryError):
        decode(saved(picture(), "PNG"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_decode__real_photos__are_what_torchvision_decodes_upright(shared_data):
    from torchvision.io import ImageReadMode, decode_image, read_file

    photos = sorted((shared_data / "ants_bees" / "val").rglob("*.jpg"))[:20]
    assert photos
    for photo in photos:
        theirs = decode_image(read_file(str(photo)), ImageReadMode.RGB, apply_exif_orientation=True)
        ours = decode(photo.read_bytes())
        assert np.array_equal(ours, theirs.permute(1, 2, 0).numpy()), photo.name
