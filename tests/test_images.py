import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline import images
from pipeline.errors import ImageError
from pipeline.headers import FORMATS, SNIFF_BYTES, sniff
from pipeline.images import Preprocessing, decode, preprocess

ORIENTATION = 0x0112
LOSSLESS = {"WEBP": {"lossless": True, "exact": True}}


def pixels(height: int = 24, width: int = 31, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def grey16(height: int = 24, width: int = 31) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (height, width), dtype=np.uint16)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **{**LOSSLESS.get(format, {}), **options})
    return file.getvalue()


def picture(mode: str) -> Image.Image:
    """A picture of the mode, every channel noise."""
    if mode == "I;16":
        return Image.fromarray(grey16())
    if mode == "I":
        values = np.random.default_rng(2).integers(-70_000, 140_000, (24, 31), dtype=np.int32)
        return Image.fromarray(values)
    if mode == "F":
        return Image.fromarray(np.random.default_rng(3).uniform(-50, 300, (24, 31)).astype("f4"))
    if mode == "P":
        return Image.fromarray(pixels()).quantize(16)
    if mode == "1":
        return Image.fromarray(pixels()[..., 0] > 127)
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.fromarray(pixels(channels=bands).squeeze(), None if bands == 3 else mode)


def by_the_rule(image: Image.Image) -> np.ndarray:
    """What the module's docstring asks for, computed from an opened image's raw values."""
    values = np.asarray(image)
    if image.mode == "1":
        return stacked(values * 255)
    if image.mode.startswith("I"):
        return stacked(np.floor(np.clip(values.astype(float), 0, 65535) / 257 + 0.5))
    if image.mode == "F":
        unit = values.min() >= 0 and values.max() <= 1
        return stacked(np.clip(np.rint(values * (255 if unit else 1)), 0, 255))
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        return on_white(palette[values], alpha_of_palette(image)[values])
    if image.mode == "LA":
        return on_white(stacked(values[..., 0]), values[..., 1])
    if image.mode == "RGBA":
        return on_white(values[..., :3], values[..., 3])
    if image.mode == "CMYK":
        light = 255 - values[..., 3:].astype(float)
        return np.clip(light - np.floor(values[..., :3] * light / 255 + 0.5), 0, 255)
    clear = image.info.get("transparency")
    colour = stacked(values) if image.mode == "L" else values
    if clear is None:
        return colour
    return np.where((colour == clear).all(axis=-1, keepdims=True), 255, colour)


def stacked(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def alpha_of_palette(image: Image.Image) -> np.ndarray:
    alpha = np.full(256, 255)
    clear = image.info.get("transparency", b"")
    if isinstance(clear, int):
        alpha[clear] = 0
    else:
        alpha[: len(clear)] = list(clear)
    return alpha


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None] / 255
    return np.floor(colour * a + 255 * (1 - a) + 0.5 + 1e-9)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body


def refusal(content: bytes) -> ImageError:
    with pytest.raises(ImageError) as raised:
        decode(content)
    return raised.value


CASES = [
    ("JPEG", "L", "L", {}),
    ("JPEG", "RGB", "RGB", {}),
    ("JPEG", "RGB", "RGB", {"progressive": True, "subsampling": 0}),
    ("JPEG", "CMYK", "CMYK", {}),
    ("PNG", "1", "1", {}),
    ("PNG", "L", "L", {}),
    ("PNG", "L", "L", {"transparency": 77}),
    ("PNG", "LA", "LA", {}),
    ("PNG", "P", "P", {}),
    ("PNG", "P", "P", {"transparency": 3}),
    ("PNG", "P", "P", {"transparency": bytes(range(0, 256, 16))}),
    ("PNG", "RGB", "RGB", {}),
    ("PNG", "RGB", "RGB", {"transparency": tuple(map(int, pixels()[3, 4]))}),
    ("PNG", "RGBA", "RGBA", {}),
    ("PNG", "I;16", "I;16", {}),
    ("WEBP", "L", "RGB", {}),
    ("WEBP", "RGB", "RGB", {}),
    ("WEBP", "RGB", "RGB", {"lossless": False, "quality": 70}),
    ("WEBP", "RGBA", "RGBA", {}),
    ("BMP", "1", "1", {}),
    ("BMP", "L", "L", {}),
    ("BMP", "P", "P", {}),
    ("BMP", "RGB", "RGB", {}),
    ("TIFF", "1", "1", {}),
    ("TIFF", "L", "L", {}),
    ("TIFF", "LA", "LA", {}),
    ("TIFF", "P", "P", {}),
    ("TIFF", "RGB", "RGB", {}),
    ("TIFF", "RGB", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGBA", "RGBA", {}),
    ("TIFF", "CMYK", "CMYK", {}),
    ("TIFF", "I;16", "I;16", {}),
    ("TIFF", "I", "I", {}),
    ("TIFF", "F", "F", {}),
    ("PPM", "1", "1", {}),
    ("PPM", "L", "L", {}),
    ("PPM", "RGB", "RGB", {}),
    ("PPM", "I;16", "I", {}),
]


def test_cases__every_format__is_among_them():
    assert {case[0] for case in CASES} == set(FORMATS)


@pytest.mark.parametrize(
    ("format", "mode", "opened", "options"),
    CASES,
    ids=[f"{format}-{mode}-{'-'.join(options)}" for format, mode, _, options in CASES],
)
def test_decode__format_and_mode__is_the_rule_to_the_pixel(format, mode, opened, options):
    content = encoded(picture(mode), format, **options)
    decoded = decode(content)
    image = Image.open(io.BytesIO(content))
    assert image.mode == opened
    assert decoded.dtype == np.uint8
    assert decoded.shape == (24, 31, 3)
    assert np.array_equal(decoded, by_the_rule(image))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_decode__lossless_rgb__is_the_pixels_that_were_saved(format):
    assert np.array_equal(decode(encoded(Image.fromarray(pixels()), format)), pixels())


def test_decode__float_image_of_0_to_1__uses_the_whole_range():
    unit = np.linspace(0, 1, 24 * 31, dtype="f4").reshape(24, 31)
    decoded = decode(encoded(Image.fromarray(unit), "TIFF"))
    assert np.array_equal(decoded[..., 0], np.rint(unit * 255))
    assert (decoded.min(), decoded.max()) == (0, 255)


def test_decode__float_image_that_goes_below_0__is_clipped_not_stretched():
    values = np.array([[-0.5, 0.0, 0.4, 0.6, 1.0]], "f4")
    assert decode(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_decode__float_image_with_no_number__is_corrupt(bad):
    values = np.zeros((4, 5), "f4")
    values[1, 1] = bad
    assert refusal(encoded(Image.fromarray(values), "TIFF")).reason == "corrupt"


def test_decode__16_bit_grey__is_rounded_not_clipped():
    rows = b"\0" + struct.pack(">5H", 0, 128, 129, 65406, 65535)
    assert decode(png(5, 1, 16, 0, rows))[0, :, 0].tolist() == [0, 0, 1, 254, 255]


def test_decode__16_bit_grey_with_a_clear_value__is_white_there():
    rows = b"\0" + struct.pack(">3H", 0, 1000, 2000)
    clear = chunk(b"tRNS", struct.pack(">H", 1000))
    assert decode(png(3, 1, 16, 0, rows, clear))[0, :, 0].tolist() == [0, 255, 8]


def test_decode__1_bit_grey_with_a_clear_value__is_white_there():
    clear = chunk(b"tRNS", struct.pack(">H", 0))
    assert decode(png(8, 1, 1, 0, b"\0\xaa", clear)).min() == 255


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_decode__exif_orientation__is_applied_once(format, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.fromarray(pixels())
    plain = decode(encoded(image, format))
    assert np.array_equal(decode(encoded(image, format, exif=exif)), UPRIGHT[orientation](plain))


def test_decode__turned_16_bit_image__is_turned_and_scaled():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    decoded = decode(encoded(picture("I;16"), "PNG", exif=exif))
    assert np.array_equal(decoded[..., 0], np.rot90(np.floor(grey16() / 257 + 0.5), -1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0garbage", b"xx", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"],
)
def test_decode__unreadable_exif__says_nothing_about_the_pixels(format, exif):
    image = Image.fromarray(pixels())
    decoded = decode(encoded(image, format, exif=exif))
    assert np.array_equal(decoded, decode(encoded(image, format)))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_decode__orientation_that_does_not_exist__is_taken_as_upright(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(decode(encoded(picture("RGB"), "PNG", exif=exif)), pixels())


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_decode__several_frames__is_the_first(format):
    frames = [Image.fromarray(pixels(seed=seed)) for seed in range(3)]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert np.array_equal(decode(content), pixels(seed=0))


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
        content = encoded(image, "PNG")
        for resize, crop, name in RECIPES:
            ours = preprocess(content, recipe(resize, crop, name))
            theirs = Compose([Resize(resize, InterpolationMode(name)), CenterCrop(crop)])(image)
            assert np.array_equal(ours, np.asarray(theirs)), (width, height, resize, crop, name)


def recipe(resize: int, crop: int, interpolation: str = "bicubic") -> Preprocessing:
    return Preprocessing(resize, crop, interpolation, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_preprocess__turned_photo__is_cropped_after_turning():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = encoded(Image.fromarray(pixels(40, 90)), "PNG", exif=exif)
    upright = encoded(Image.fromarray(np.rot90(pixels(40, 90), -1)), "PNG")
    small = recipe(32, 32)
    assert np.array_equal(preprocess(turned, small), preprocess(upright, small))


def test_preprocess__strip_that_resizing_would_blow_up__is_refused():
    strip = encoded(Image.fromarray(pixels(10_000, 1)), "PNG")
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
    assert sniff(encoded(Image.fromarray(pixels()), format)[:SNIFF_BYTES]) == format


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(Image.fromarray(pixels()), "GIF"), "GIF"),
        (encoded(Image.fromarray(pixels()), "ICO"), "ICO"),
        (b"<!DOCTYPE html><html>not found</html>", "HTML"),
        (b"\n  <html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
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
    content = encoded(Image.fromarray(pixels()), format, **options)
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
    decode(encoded(picture("RGB"), "PNG"))
    assert asked == []


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (12_500, 8_001)])
def test_decode__bomb__is_refused_by_its_header_whatever_the_warnings(width, height, action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert refusal(png(width, height, 8, 2, b"")).reason == "too_many_pixels"


def test_decode__exactly_the_ceiling__is_let_through(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 31)
    assert decode(encoded(picture("RGB"), "PNG")).shape == (24, 31, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 31 - 1)
    assert refusal(encoded(picture("RGB"), "PNG")).reason == "too_many_pixels"


def test_decode__memory_ran_out__is_no_fault_of_the_image(monkeypatch):
    def starved(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", starved)
    with pytest.raises(MemoryError):
        decode(encoded(picture("RGB"), "PNG"))


def mutated(content: bytes, dice: random.Random) -> bytes:
    """Cut, overwritten, overwritten near the header, or with a piece put in twice."""
    broken = bytearray(content)
    kind = dice.randrange(4)
    if kind == 0:
        return bytes(broken[: dice.randrange(len(broken))])
    if kind == 3:
        start, place = dice.randrange(len(broken)), dice.randrange(len(broken))
        broken[place:place] = broken[start : start + dice.randrange(40)]
        return bytes(broken)
    end = len(broken) if kind == 1 else min(len(broken), 120)
    for _ in range(dice.randrange(1, 6)):
        broken[dice.randrange(end)] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
    return bytes(broken)


@pytest.mark.filterwarnings("ignore")
def test_decode__300_mutated_files__are_pixels_or_an_image_error():
    dice = random.Random(7)
    reasons = set()
    for number in range(300):
        format, mode, _, options = CASES[number % len(CASES)]
        content = mutated(encoded(picture(mode), format, **options), dice)
        try:
            decoded = decode(content)
        except ImageError as error:
            reasons.add(error.reason)
            assert "\n" not in str(error)
        else:
            assert decoded.dtype == np.uint8
            assert decoded.ndim == 3
            assert decoded.shape[2] == 3
    assert reasons >= {"truncated", "corrupt", "not_an_image", "unsupported_format"}


def test_decode__real_photos__follow_the_rule(shared_data):
    photos = sorted((shared_data / "ants_bees" / "val").rglob("*.jpg"))[:10]
    assert photos
    for photo in photos:
        image = Image.open(io.BytesIO(photo.read_bytes()))
        turn = UPRIGHT[image.getexif().get(ORIENTATION, 1)]
        assert np.array_equal(decode(photo.read_bytes()), turn(by_the_rule(image))), photo.name
