"""Every kind of image against the rule, computed from the arrays that the test itself wrote."""

import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images import decode
from pipeline.images.headers import FORMATS, sniff
from tests.image_files import (
    UPRIGHT,
    bmp,
    bmp_rows,
    chunk,
    exif,
    noise,
    packed,
    png_of,
    saved,
    tiff_of,
)

HEIGHT, WIDTH = 13, 19  # odd, so that rows end inside bytes and tiles


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[..., None], 3, axis=-1)


def by_257(values: np.ndarray) -> np.ndarray:
    """16-bit grey to 8: clipped, divided by 257, rounded."""
    return three(np.floor(np.clip(values.astype(float), 0, 65535) / 257 + 0.5))


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """colour: (H, W, 3); alpha: (H, W) of 0..255."""
    a = alpha[..., None].astype(int)
    return (colour.astype(int) * a + 255 * (255 - a) + 127) // 255


def from_cmyk(cmyk: np.ndarray) -> np.ndarray:
    """Inks of 0..255 to red, green, blue."""
    light = 255 - cmyk[..., 3:].astype(float)
    return np.clip(light - np.floor(cmyk[..., :3] * light / 255 + 0.5), 0, 255)


def from_ycc(ycc: np.ndarray) -> np.ndarray:
    """JPEG's full-range YCbCr to red, green, blue, not rounded."""
    y, blue, red = (ycc[..., i].astype(float) for i in range(3))
    blue, red = blue - 128, red - 128
    green = y - 0.344136 * blue - 0.714136 * red
    return np.clip(np.stack([y + 1.402 * red, green, y + 1.772 * blue], -1), 0, 255)


def from_lab(lab: np.ndarray) -> np.ndarray:
    """CIE Lab (D50; a and b as signed bytes) to sRGB, with the usual matrix adapted to D65."""
    y = (lab[..., 0].astype(float) * 100 / 255 + 16) / 116
    a, b = (lab[..., i].astype(np.int8).astype(float) for i in (1, 2))
    f = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.transpose(matrix), 0, 1)
    bent = 1.055 * linear ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, bent)


def png_cases():
    grey, pair, wide_pair = noise(), noise(channels=2), noise(channels=2, dtype="u2")
    colour, four = noise(channels=3), noise(channels=4)
    wide, wide_colour, wide_four = (noise(channels=c, dtype="u2") for c in (0, 3, 4))
    for interlaced in (False, True):
        end = "-adam7" if interlaced else ""

        def made(name, values, bits, kind, want, *extra, interlaced=interlaced, end=end):
            return (f"png-{name}{end}", png_of(values, bits, kind, *extra, interlaced=interlaced), want)  # fmt: skip

        for bits in (1, 2, 4, 8):
            top = 2**bits - 1
            stored, palette = grey & top, noise(1, top + 1, 3, seed=3)[0]
            alphas, table = noise(1, top + 1, seed=4)[0], chunk(b"PLTE", palette.tobytes())
            spread = three(stored.astype(int) * (255 // top))
            yield made(f"grey{bits}", stored, bits, 0, spread)
            clear = chunk(b"tRNS", struct.pack(">H", 1))
            want = np.where(three(stored == 1), 255, spread)
            yield made(f"grey{bits}-clear", stored, bits, 0, want, clear)
            yield made(f"palette{bits}", stored, bits, 3, palette[stored], table)
            want = on_white(palette[stored], alphas[stored])
            yield made(f"palette{bits}-alphas", stored, bits, 3, want, table, chunk(b"tRNS", alphas.tobytes()))  # fmt: skip
            want = on_white(palette[stored], np.where(stored == 1, 0, 255))
            yield made(f"palette{bits}-clear", stored, bits, 3, want, table, chunk(b"tRNS", b"\xff\0"))  # fmt: skip
        yield made("grey16", wide, 16, 0, by_257(wide))
        clear = int(wide[3, 4])
        want = np.where(three(wide == clear), 255, by_257(wide))
        yield made("grey16-clear", wide, 16, 0, want, chunk(b"tRNS", struct.pack(">H", clear)))
        yield made("rgb", colour, 8, 2, colour)
        clear = colour[3, 4]
        want = np.where((colour == clear).all(-1, keepdims=True), 255, colour)
        yield made("rgb-clear", colour, 8, 2, want, chunk(b"tRNS", struct.pack(">3H", *clear)))
        yield made("rgb16", wide_colour, 16, 2, wide_colour >> 8)
        clear = wide_colour[3, 4]
        want = np.where((wide_colour == clear).all(-1, keepdims=True), 255, wide_colour >> 8)
        yield made("rgb16-clear", wide_colour, 16, 2, want, chunk(b"tRNS", struct.pack(">3H", *clear)))  # fmt: skip
        yield made("grey-alpha", pair, 8, 4, on_white(three(pair[..., 0]), pair[..., 1]))
        high = wide_pair >> 8
        yield made("grey16-alpha", wide_pair, 16, 4, on_white(three(high[..., 0]), high[..., 1]))
        yield made("rgba", four, 8, 6, on_white(four[..., :3], four[..., 3]))
        high = wide_four >> 8
        yield made("rgba16", wide_four, 16, 6, on_white(high[..., :3], high[..., 3]))
    for name, kind, content in (
        ("gamma", b"gAMA", struct.pack(">I", 100_000)),
        ("cut-gamma", b"gAMA", b"\0"),
        ("chromaticities", b"cHRM", bytes(32)),
        ("broken-profile", b"iCCP", b"name\0\0no profile"),
        ("srgb", b"sRGB", b"\0"),
        ("text", b"tEXt", b"Comment\0hello"),
        ("broken-text", b"zTXt", b"Comment\0\1"),
        ("background", b"bKGD", bytes(6)),
    ):
        yield f"png-rgb-{name}", png_of(colour, 8, 2, chunk(kind, content)), colour


def bmp_cases():
    grey, colour, four = noise(), noise(channels=3), noise(channels=4)
    word = noise(dtype="u2")
    fives = np.stack([word >> 10 & 31, word >> 5 & 31, word & 31], -1).astype(int) * 255 // 31
    sixes = np.stack(
        [
            (word >> 11).astype(int) * 255 // 31,
            (word >> 5 & 63).astype(int) * 255 // 63,
            fives[..., 2],
        ],  # fmt: skip
        -1,
    )
    stored = four[..., [2, 1, 0, 3]]
    opaque, blended = four[..., :3], on_white(four[..., :3], four[..., 3])
    masks = (0xFF0000, 0xFF00, 0xFF)
    for top_down in (False, True):
        end = "-top-down" if top_down else ""
        height = -HEIGHT if top_down else HEIGHT

        def made(name, values, bits, want, *, height=height, top_down=top_down, end=end, **more):
            rows = bmp_rows(values, min(bits, 8), top_down=top_down)
            return f"bmp-{name}{end}", bmp(WIDTH, height, bits, rows, **more), want

        for bits in (1, 4, 8):
            for entries in {2, 3, 2**bits} & set(range(2, 2**bits + 1)):
                index, palette = (
                    (grey.astype(int) % entries).astype("u1"),
                    noise(1, entries, 3, seed=3)[0],
                )
                table = np.insert(palette[:, ::-1], 3, 0, axis=1).tobytes()
                said = {"palette": table, "colours": entries}
                yield made(f"palette{bits}-{entries}", index, bits, palette[index], **said)
            for name, shades in (("black-white", (0, 255)), ("white-black", (255, 0))):
                index, table = grey & 1, np.repeat(np.array(shades, "u1"), 4).tobytes()
                said = {"palette": table, "colours": 2}
                want = three(np.array(shades)[index])
                yield made(f"{name}{bits}", index, bits, want, **said)
        shades = np.insert(three(np.arange(256, dtype="u1")), 3, 0, axis=1).tobytes()
        yield made("grey8", grey, 8, three(grey), palette=shades)
        yield made("rgb16", word.view("u1").reshape(HEIGHT, -1), 16, fives)
        for name, fields, want in (("555", (0x7C00, 0x3E0, 0x1F), fives), ("565", (0xF800, 0x7E0, 0x1F), sixes)):  # fmt: skip
            values = word.view("u1").reshape(HEIGHT, -1)
            yield made(f"rgb{name}", values, 16, want, compression=3, masks=fields)
        yield made("rgb24", colour[..., ::-1], 24, colour)
        yield made("rgb32", stored, 32, opaque)
        yield made("rgb32-fields", stored, 32, opaque, compression=3, masks=masks)
        for header in (56, 108, 124):
            said = {"compression": 3, "masks": (*masks, 0xFF000000), "header": header}
            yield made(f"rgba32-{header}", stored, 32, blended, **said)
    palette = noise(1, 256, 3, seed=3)[0]
    core = bmp(WIDTH, HEIGHT, 8, bmp_rows(grey, 8), palette=palette[:, ::-1].tobytes(), header=12)
    yield "bmp-core-palette8", core, palette[grey]
    core = bmp(WIDTH, HEIGHT, 24, bmp_rows(colour[..., ::-1], 8), header=12)
    yield "bmp-core-rgb24", core, colour
    yield from run_length_cases(palette)


def run_length_cases(palette):
    """Runs, literal pixels, line ends and jumps, in 8 and 4 bits."""
    table = np.insert(palette[:, ::-1], 3, 0, axis=1).tobytes()
    index = np.array([[7, 7, 7, 7, 7, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 9, 9, 9]], "u1")
    bottom = b"\0\2\3\0\3\x09\0\0"  # jump 3 to the right, a run of three 9s
    middle = b"\0\6\1\2\3\4\5\6\0\0"  # six literal pixels
    top = b"\6\7\0\1"  # a run of six 7s, the end
    yield "bmp-rle8", bmp(6, 3, 8, bottom + middle + top, palette=table, compression=1), palette[index]  # fmt: skip
    bottom = b"\0\2\3\0\3\x99\0\0"
    middle = b"\0\6\x12\x34\x56\0\0\0"
    top = b"\6\x77\0\1"
    yield "bmp-rle4", bmp(6, 3, 4, bottom + middle + top, palette=table[:64], compression=2), palette[index]  # fmt: skip


def ppm_cases():
    bits = noise() & 1
    want = three(255 * (1 - bits.astype(int)))
    yield "pbm-raw", b"P4 19 13\n" + packed(bits, 1), want
    yield "pbm-plain", b"P1\n# a comment\n19 13\n" + "\n".join("".join(map(str, row)) for row in bits).encode(), want  # fmt: skip
    for most in (1, 2, 7, 100, 254, 255, 256, 1000, 4095, 65534, 65535):
        grey, colour = (noise(channels=c, dtype="u4") % (most + 1) for c in (0, 3))
        kind = "u1" if most < 256 else ">u2"
        for letter, plain, values in (("g", 2, grey), ("p", 3, colour)):
            exact = np.rint(values / most * 255)
            want = three(exact) if values is grey else exact
            head = f"{{}}\n# a comment\n{WIDTH} {HEIGHT}\n{most}\n"
            text = "\n".join(" ".join(map(str, row)) for row in values.reshape(HEIGHT, -1))
            yield f"p{letter}m-plain-{most}", (head.format(f"P{plain}") + text).encode(), want
            raw = head.format(f"P{plain + 3}").encode() + values.astype(kind).tobytes()
            yield f"p{letter}m-raw-{most}", raw, want


def tiff_grey_cases():
    grey, wide, signed = noise(), noise(dtype="u2"), noise(dtype="i2")
    long = np.random.default_rng(1).integers(-70_000, 140_000, (HEIGHT, WIDTH)).astype("i4")
    unit = np.random.default_rng(1).uniform(0, 1, (HEIGHT, WIDTH)).astype("f4")
    unsigned = noise(dtype="u4") >> np.arange(WIDTH, dtype="u4")
    spread = np.random.default_rng(2).uniform(-50, 300, (HEIGHT, WIDTH)).astype("f4")
    twelve = wide >> 4
    for order in "<>":
        for compression in (1, 8, 32773):
            more = {"order": order, "compression": compression}
            name = f"{'little' if order == '<' else 'big'}-{compression}"
            for bits in (1, 2, 4, 8):
                top = 2**bits - 1
                stored = grey & top
                want = three(stored.astype(int) * (255 // top))
                for fill in (1, 2):
                    said = {**more, "bits": bits, "fill_order": fill}
                    yield f"tiff-grey{bits}-fill{fill}-{name}", tiff_of(stored, 1, **said), want
                    if (bits, fill, compression) != (8, 2, 1):  # refused, below
                        content = tiff_of(stored, 0, **said)
                        yield f"tiff-inverse{bits}-fill{fill}-{name}", content, 255 - want
            yield f"tiff-grey16-{name}", tiff_of(wide, 1, **more), by_257(wide)
            yield f"tiff-signed16-{name}", tiff_of(signed, 1, **more), by_257(signed)
            yield f"tiff-signed32-{name}", tiff_of(long, 1, **more), by_257(long)
            yield f"tiff-float-unit-{name}", tiff_of(unit, 1, **more), three(np.rint(unit * 255))
            want = three(np.clip(np.rint(spread), 0, 255))
            yield f"tiff-float-{name}", tiff_of(spread, 1, **more), want
            want = 255 - three(np.rint(unit * 255))
            yield f"tiff-float-inverse-{name}", tiff_of(unit, 0, **more), want
            if order == "<":  # Pillow opens no big-endian ones
                yield f"tiff-inverse16-{name}", tiff_of(wide, 0, **more), 255 - by_257(wide)
                yield f"tiff-unsigned32-{name}", tiff_of(unsigned, 1, **more), by_257(unsigned)
                want = three(np.rint(twelve.astype(float) * 255 / 4095))
                yield f"tiff-grey12-{name}", tiff_of(twelve, 1, bits=12, **more), want


def tiff_colour_cases():
    colour, wide, four = noise(channels=3), noise(channels=3, dtype="u2"), noise(channels=4)
    wide_four, pair, grey = noise(channels=4, dtype="u2"), noise(channels=2), noise()
    opaque, blended = four[..., :3], on_white(four[..., :3], four[..., 3])
    table = noise(1, 256, 3, dtype="u2", seed=5)[0]
    six = noise(channels=6)
    high = wide_four >> 8
    for order in "<>":
        for compression in (1, 8, 32773):
            more = {"order": order, "compression": compression}
            name = f"{'little' if order == '<' else 'big'}-{compression}"
            for planar in (False, True):
                for shape in ({}, {"rows": 4}, {"tile": (16, 16)}):
                    form = f"{'planes-' if planar else ''}{''.join(shape)}-{name}"
                    said = {**more, **shape, "planar": planar}
                    yield f"tiff-rgb-{form}", tiff_of(colour, 2, **said), colour
                    yield f"tiff-rgb16-{form}", tiff_of(wide, 2, **said), wide >> 8
                    yield f"tiff-rgba-{form}", tiff_of(four, 2, **said, extra_samples=2), blended
                    yield f"tiff-cmyk-{form}", tiff_of(four, 5, **said), from_cmyk(four)
                    want = on_white(high[..., :3], high[..., 3])
                    yield f"tiff-rgba16-{form}", tiff_of(wide_four, 2, **said, extra_samples=2), want  # fmt: skip
            yield f"tiff-cmyk16-{name}", tiff_of(wide_four, 5, **more), from_cmyk(high)
            yield f"tiff-rgbx-{name}", tiff_of(four, 2, **more, extra_samples=0), opaque
            yield f"tiff-rgb-unsaid-{name}", tiff_of(four, 2, **more), blended
            yield f"tiff-rgbxxx-{name}", tiff_of(six, 2, **more, extra_samples=(0, 0, 0)), six[..., :3]  # fmt: skip
            want = on_white(three(pair[..., 0]), pair[..., 1])
            yield f"tiff-grey-alpha-{name}", tiff_of(pair, 1, **more, extra_samples=2), want
            yield f"tiff-grey-extra-{name}", tiff_of(pair, 1, **more, extra_samples=0), three(pair[..., 0])  # fmt: skip
            for bits in (1, 2, 4, 8):
                index, entries = grey & (2**bits - 1), table[: 2**bits]
                said = {**more, "colour_map": tuple(map(int, entries.T.ravel()))}
                want = (entries >> 8)[index]
                yield f"tiff-palette{bits}-{name}", tiff_of(index, 3, bits=bits, **said), want
            want = on_white((table >> 8)[pair[..., 0]], pair[..., 1])
            yield f"tiff-palette-alpha-{name}", tiff_of(pair, 3, **said, extra_samples=2), want
    yield "tiff-big", tiff_of(colour, 2, big=True), colour
    yield "tiff-big-strips", tiff_of(colour, 2, big=True, rows=4, compression=8), colour


def tiff_pillow_cases():
    """Compressions that only an encoder writes."""
    bits = noise() > 127
    for compression in ("group3", "group4", "tiff_ccitt"):
        content = saved(Image.fromarray(bits), "TIFF", compression=compression)
        yield f"tiff-{compression}", content, three(bits * 255)
    colour, wide = noise(channels=3), noise(dtype="u2")
    unit = np.random.default_rng(1).uniform(0, 1, (HEIGHT, WIDTH)).astype("f4")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma"):
        for predictor in (1, 2):
            said = {"compression": compression, "tiffinfo": {317: predictor}}
            name = f"{compression}-predictor{predictor}"
            yield f"tiff-rgb-{name}", saved(Image.fromarray(colour), "TIFF", **said), colour
            yield f"tiff-grey16-{name}", saved(Image.fromarray(wide), "TIFF", **said), by_257(wide)
        said = {"compression": compression, "tiffinfo": {317: 3}}
        content = saved(Image.fromarray(unit), "TIFF", **said)
        yield f"tiff-float-{compression}-predictor3", content, three(np.rint(unit * 255))


def webp_cases():
    colour, four = noise(channels=3), noise(channels=4)
    yield "webp-rgb", saved(Image.fromarray(colour), "WEBP"), colour
    want = on_white(four[..., :3], four[..., 3])
    yield "webp-rgba", saved(Image.fromarray(four), "WEBP"), want


CASES = {
    name: (content, want)
    for cases in (
        png_cases,
        bmp_cases,
        ppm_cases,
        tiff_grey_cases,
        tiff_colour_cases,
        tiff_pillow_cases,
        webp_cases,
    )
    for name, content, want in cases()
}


def test_cases__every_format_but_jpeg__is_among_them():
    assert {sniff(content[:32]) for content, _ in CASES.values()} == set(FORMATS) - {"JPEG"}


@pytest.mark.parametrize("name", CASES)
def test_decode__lossless_kind__is_the_rule_to_the_pixel(name):
    content, want = CASES[name]
    decoded = decode(content)
    assert decoded.dtype == np.uint8
    assert decoded.shape == want.shape
    assert np.array_equal(decoded, want)


def turned_cases():
    colour, wide = noise(channels=3), noise(dtype="u2")
    for orientation, upright in UPRIGHT.items():
        block, want = exif(orientation), upright(colour)
        big = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0" + bytes([orientation]) + bytes(6)
        for name, said in (("little", block), ("big", big)):
            yield f"png-{name}-{orientation}", png_of(colour, 8, 2, chunk(b"eXIf", said)), want
        wanted = upright(by_257(wide))
        yield f"png-grey16-{orientation}", png_of(wide, 16, 0, chunk(b"eXIf", block)), wanted
        content = saved(Image.fromarray(colour), "WEBP", exif=b"Exif\0\0" + block)
        yield f"webp-{orientation}", content, want
        for order in "<>":
            for compression in (1, 8):
                for shape in ({}, {"rows": 4}, {"tile": (16, 16)}, {"planar": True}):
                    said = {"order": order, "compression": compression, **shape}
                    name = f"{order}-{compression}-{''.join(shape)}-{orientation}"
                    said["tag_274"] = orientation
                    yield f"tiff-{name}", tiff_of(colour, 2, **said), want
                    if "planar" not in shape:
                        yield f"tiff-grey16-{name}", tiff_of(wide, 1, **said), wanted


TURNED = {name: (content, want) for name, content, want in turned_cases()}


@pytest.mark.parametrize("name", TURNED)
def test_decode__orientation__is_applied_once(name):
    content, want = TURNED[name]
    assert np.array_equal(decode(content), want)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_decode__orientation_of_a_jpeg__is_applied_once(orientation):
    blocks = np.kron(noise(3, 4, 3), np.ones((16, 16, 1), "u1"))
    said = {"quality": 95, "subsampling": 0}
    turned = saved(Image.fromarray(blocks), "JPEG", exif=b"Exif\0\0" + exif(orientation), **said)
    assert np.abs(decode(turned).astype(int) - UPRIGHT[orientation](blocks)).max() <= 2


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_decode__orientation_only_in_xmp__is_applied(format):
    picture = Image.fromarray(np.kron(noise(3, 4, 3), np.ones((16, 16, 1), "u1")))
    if format == "PNG":
        text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        turned = png_of(np.asarray(picture), 8, 2, text)
    else:
        turned = saved(picture, format, xmp=XMP)
    assert np.array_equal(decode(turned), UPRIGHT[6](decode(saved(picture, format))))


def by_torchvision(content: bytes, mode: str = "RGB") -> np.ndarray:
    """(H, W, C) uint8 of the decoder that does not go through Pillow."""
    import torch
    from torchvision.io import decode_image

    stored = torch.tensor(list(content), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return decode_image(stored, mode).permute(1, 2, 0).numpy()


JPEGS = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"subsampling": 1, "quality": 90},
    {"subsampling": 2, "optimize": True},
    {"quality": 10},
    {"keep_rgb": True},
    {"restart_marker_blocks": 2},
]


def inside_of_blocks(pixels: np.ndarray) -> np.ndarray:
    """The inner 8 x 8 of each block of 16 x 16, where no neighbour's colour leaks in."""
    height, width = pixels.shape[:2]
    keep = [[at for at in range(side) if 4 <= at % 16 < 12] for side in (height, width)]
    return pixels[np.ix_(*keep)].astype(int)


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("size", [(48, 64), (37, 53)])
def test_decode__jpeg__is_what_torchvision_decodes_and_what_was_drawn(options, size):
    blocks = np.kron(noise(3, 4, 3), np.ones((16, 16, 1), "u1"))[: size[0], : size[1]]
    content = saved(Image.fromarray(blocks), "JPEG", **{"quality": 95, **options})
    decoded = decode(content)
    assert np.array_equal(decoded, by_torchvision(content))
    tolerance = 25 if options.get("quality") == 10 else 3
    whole = np.s_[: size[0] // 16 * 16, : size[1] // 16 * 16]
    difference = inside_of_blocks(decoded[whole]) - inside_of_blocks(blocks[whole])
    assert np.abs(difference).max() <= tolerance


def test_decode__grey_jpeg__is_three_equal_channels():
    blocks = np.kron(noise(3, 4), np.ones((8, 8), "u1"))
    content = saved(Image.fromarray(blocks), "JPEG", quality=100)
    assert np.abs(decode(content).astype(int) - three(blocks)).max() <= 1


def test_decode__inverted_cmyk_jpeg__is_its_inks_with_or_without_adobes_marker():
    inks = np.kron(noise(3, 4, 4), np.ones((8, 8, 1), "u1"))
    content = saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    marker = content.index(b"\xff\xee")
    assert content[marker + 4 : marker + 9] == b"Adobe"
    for written in (content, content[:marker] + content[marker + 16 :]):
        assert np.abs(decode(written) - from_cmyk(inks)).max() <= 2
        assert np.array_equal(decode(written), by_torchvision(written))


def test_decode__ycck_jpeg__is_its_inks():
    stored = np.kron(noise(3, 4, 4), np.ones((8, 8, 1), "u1"))
    content = bytearray(saved(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=100))
    content[content.index(b"Adobe") + 11] = 2  # says that the four channels are YCCK
    inks = np.concatenate([from_ycc(stored), 255.0 - stored[..., 3:]], -1)  # inverted twice
    assert np.abs(decode(bytes(content)) - from_cmyk(inks)).max() <= 3


def test_decode__cmyk_tiff_in_jpeg_compression__is_its_inks():
    inks = np.kron(noise(3, 4, 4), np.ones((8, 8, 1), "u1"))
    content = saved(Image.fromarray(inks, "CMYK"), "TIFF", compression="jpeg", quality=100)
    assert np.abs(decode(content) - from_cmyk(inks)).max() <= 3


def test_decode__lossy_webp__is_what_torchvision_decodes_and_what_was_drawn():
    blocks = np.kron(noise(3, 4, 3) // 2 + 64, np.ones((32, 32, 1), "u1"))
    content = saved(Image.fromarray(blocks), "WEBP", lossless=False, quality=100)
    assert content[12:16] == b"VP8 "
    assert np.array_equal(decode(content), by_torchvision(content))
    middle = np.s_[16::32, 16::32]
    assert np.abs(decode(content)[middle].astype(int) - blocks[middle]).max() <= 12


def test_decode__lossy_webp_with_alpha__is_composed_on_white():
    four = np.kron(noise(3, 4, 4), np.ones((32, 32, 1), "u1"))
    content = saved(Image.fromarray(four), "WEBP", lossless=False, quality=80)
    theirs = by_torchvision(content, "RGB_ALPHA")
    assert len(np.unique(theirs[..., 3])) > 4
    assert np.array_equal(decode(content), on_white(theirs[..., :3], theirs[..., 3]))


@pytest.mark.parametrize("compression", [1, 8, 32773])
def test_decode__ycbcr_tiff__is_jpegs_formula(compression):
    stored = noise(channels=3)
    content = tiff_of(stored, 6, compression=compression, subsampling=(1, 1))
    assert np.abs(decode(content) - from_ycc(stored)).max() <= 2


@pytest.mark.parametrize("compression", [1, 8])
def test_decode__lab_tiff__is_srgb(compression):
    near_grey = noise(channels=3) // 16
    lab = (near_grey + np.array([120, 248, 248])).astype("u1")  # L about half; a and b -8..7
    content = tiff_of(lab, 8, compression=compression)
    assert np.abs(decode(content) - from_lab(lab)).max() <= 3


@pytest.mark.parametrize("compression", [1, 8])
def test_decode__premultiplied_tiff__is_within_one_of_the_sum(compression):
    four = noise(channels=4)
    four[..., :3] = np.minimum(four[..., :3], four[..., 3:])
    want = four[..., :3].astype(int) + 255 - four[..., 3:]
    content = tiff_of(four, 2, compression=compression, extra_samples=1)
    assert np.abs(decode(content) - want).max() <= 1
    pair = four[..., 2:]
    want = three(pair[..., 0].astype(int) + 255 - pair[..., 1])
    content = tiff_of(pair, 1, compression=compression, extra_samples=1)
    assert np.abs(decode(content) - want).max() <= 1


def test_decode__every_alpha_over_every_shade__is_rounded_exactly():
    shade, alpha = np.meshgrid(np.arange(256), np.arange(256))
    pair = np.stack([shade, alpha], -1).astype("u1")
    assert np.array_equal(decode(png_of(pair, 8, 4)), on_white(three(shade), alpha))


def test_decode__every_16_bit_grey__is_rounded_exactly():
    values = np.arange(65536, dtype="u2").reshape(256, 256)
    exact = np.array([(2 * int(value) + 257) // 514 for value in range(65536)])
    assert np.array_equal(decode(png_of(values, 16, 0))[..., 0].ravel(), exact)


REFUSED = {
    "Lab in planes": tiff_of(noise(channels=3), 8, planar=True),
    "Lab in planes, deflated": tiff_of(noise(channels=3), 8, planar=True, compression=8),
    "inverse grey, bits in reverse": tiff_of(noise(), 0, fill_order=2),
    "signed 8-bit grey": tiff_of(noise(dtype="i1"), 1),
    "grey and alpha in planes": tiff_of(noise(channels=2), 1, planar=True, extra_samples=2),
    "the same, deflated": tiff_of(
        noise(channels=2), 1, planar=True, extra_samples=2, compression=8
    ),  # fmt: skip
    "palette and alpha in planes": tiff_of(
        noise(channels=2), 3, planar=True, extra_samples=2, compression=8, colour_map=(0,) * 768
    ),
    "YCbCr of coarser colour": tiff_of(noise(channels=3), 6, subsampling=(2, 2)),
    "YCbCr in planes": tiff_of(noise(channels=3), 6, planar=True, subsampling=(1, 1)),
    "CMYK of 16 bits in planes": tiff_of(noise(channels=4, dtype="u2"), 5, planar=True),
    "64-bit floats": tiff_of(np.zeros((4, 5)), 1),
    "big-endian inverse 16-bit grey": tiff_of(noise(dtype="u2"), 0, order=">"),
    "bit fields of 4": bmp(
        WIDTH, HEIGHT, 16, bytes(40 * HEIGHT), compression=3, masks=(0xF00, 0xF0, 0xF)
    ),  # fmt: skip
}


@pytest.mark.parametrize("name", REFUSED)
def test_decode__kind_that_would_come_out_wrong__is_refused_and_named(name):
    with pytest.raises(ImageError) as raised:
        decode(REFUSED[name])
    assert raised.value.reason == "unsupported_mode"
    assert "save it as PNG" in raised.value.detail


def test_decode__12_bit_jpeg__is_refused_and_named():
    content = bytearray(saved(Image.fromarray(noise(16, 16, 3)), "JPEG"))
    content[content.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match="unsupported_mode: JPEG .*12-bit"):
        decode(bytes(content))


@pytest.mark.parametrize("tag", [{"tag_254": 1}, {"tag_50706": b"\1\4\0\0"}])
def test_decode__camera_raw_that_looks_like_a_tiff__is_no_thumbnail_embedded(tag):
    with pytest.raises(ImageError, match="unsupported_format: .*thumbnail"):
        decode(tiff_of(noise(channels=3), 2, **tag))
