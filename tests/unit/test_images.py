"""Pictures from outside: what is read, what is refused, and that nothing but our own errors comes out."""

import io
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sam_engine.errors import InvalidInput
from service.errors import DamagedImage, ImageTooLarge, ServiceError, UnsupportedImage
from service.images import MAX_PAGES, ImageLimits, count_pages, decode, decode_pages

# Pillow warns of broken metadata; `service.images` silences that, which pytest's own filters undo.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")

LIMITS = ImageLimits(max_bytes=2**20, max_pixels=1_000_000)
HEIGHT, WIDTH = 24, 36
RGB = cv2.GaussianBlur(
    np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 1.5
)
GREY = RGB[..., 0].copy()
DEEP = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 61 + 500).reshape(HEIGHT, WIDTH)
LOSSLESS = ("PNG", "WEBP", "TIFF", "BMP")


def encode(image, form="PNG", **options):
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    if form == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def read(data, page=0, limits=LIMITS):
    return decode(data, limits, page)


def luma(rgb):
    """ITU-R BT.601."""
    return rgb @ np.array([0.299, 0.587, 0.114])


def scaled(values):
    """The documented rule: the 0.5th to 99.5th percentile becomes 0 to 255."""
    low, high = np.percentile(values.astype(float), (0.5, 99.5))
    return np.clip(np.rint((values - low) * 255 / (high - low)), 0, 255)


# what is read


@pytest.mark.parametrize("form", LOSSLESS)
def test_rgb_is_read_exactly(form):
    picture = read(encode(RGB, form))
    np.testing.assert_array_equal(picture.rgb, RGB)
    np.testing.assert_allclose(picture.intensity, luma(RGB), atol=0.51)
    assert picture.intensity.dtype == np.uint8
    assert (picture.size, picture.channels, picture.bit_depth) == ((HEIGHT, WIDTH), 3, 8)
    assert (picture.page, picture.pages) == (0, 1)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_grey_keeps_its_values(form):
    picture = read(encode(GREY, form))
    np.testing.assert_array_equal(picture.intensity, GREY)
    np.testing.assert_array_equal(picture.rgb, np.dstack([GREY] * 3))
    assert picture.channels == 1


@pytest.mark.parametrize("image", [RGB, GREY], ids=["rgb", "grey"])
def test_jpeg(image):
    picture = read(encode(image, "JPEG", quality=95, subsampling=0))
    expected = image if image.ndim == 3 else np.dstack([image] * 3)
    assert np.abs(picture.rgb.astype(int) - expected).mean() < 3


def test_cmyk_jpeg():
    picture = read(encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95, subsampling=0))
    assert picture.channels == 4
    assert np.abs(picture.rgb.astype(int) - RGB).mean() < 6


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_dropped(form):
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    picture = read(encode(np.dstack([RGB, alpha]), form))
    np.testing.assert_array_equal(picture.rgb, RGB)
    assert picture.channels == 4


def test_grey_with_alpha():
    image = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (WIDTH, HEIGHT), 7)])
    picture = read(encode(image))
    np.testing.assert_array_equal(picture.intensity, GREY)
    assert picture.channels == 2


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_palette(form):
    image = Image.fromarray(RGB).quantize(32)
    picture = read(encode(image, form))
    np.testing.assert_array_equal(picture.rgb, np.array(image.convert("RGB")))
    assert picture.channels == 3


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_one_bit(form):
    bits = GREY > 128
    picture = read(encode(bits, form))
    np.testing.assert_array_equal(picture.intensity, bits * 255)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_values_and_is_scaled_for_the_network(form):
    picture = read(encode(DEEP, form))
    assert picture.intensity.dtype == np.uint16
    np.testing.assert_array_equal(picture.intensity, DEEP)
    np.testing.assert_array_equal(picture.rgb, np.dstack([scaled(DEEP)] * 3))
    assert (picture.rgb.min(), picture.rgb.max()) == (0, 255)
    assert (picture.channels, picture.bit_depth) == (1, 16)


def test_big_endian_16_bit_tiff():
    picture = read(_big_endian_tiff(DEEP))
    np.testing.assert_array_equal(picture.intensity, DEEP)


def _big_endian_tiff(values):
    """The smallest 16-bit grey TIFF in the order of bytes that Pillow does not write."""
    pixels = values.astype(">u2").tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags]
    entries.append(struct.pack(">HHII", 279, 4, 1, len(pixels)))
    directory = struct.pack(">H", len(entries)) + b"".join(entries) + struct.pack(">I", 0)
    return b"MM\x00*" + struct.pack(">I", 8 + len(pixels)) + pixels + directory


@pytest.mark.parametrize("form", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colours_keep_their_luma(form, channels):
    rgb = np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1]])
    stored = rgb[..., ::-1] if channels == 3 else np.dstack([rgb[..., ::-1], np.full_like(DEEP, 9)])
    picture = read(cv2.imencode(form, stored)[1].tobytes())
    assert picture.intensity.dtype == np.uint16
    np.testing.assert_allclose(picture.intensity, luma(rgb), atol=1)
    np.testing.assert_allclose(picture.rgb, scaled(rgb), atol=1)
    assert (picture.channels, picture.bit_depth) == (channels, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colours_are_upright_too(orientation):
    stored = np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1]])
    data = cv2.imencode(".png", stored)[1].tobytes()
    exif = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    picture = read(data[:33] + chunk + data[33:])
    assert picture.size == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    assert picture.bit_depth == (16 if orientation == 1 else 8)
    if orientation != 1:
        upright = {6: 8, 8: 6}.get(orientation, orientation)
        np.testing.assert_array_equal(picture.rgb, turned(stored[..., ::-1] // 256, upright))


def test_float_tiff_keeps_its_values():
    values = (DEEP / 7).astype(np.float32) - 300
    picture = read(encode(values, "TIFF"))
    assert picture.intensity.dtype == np.float32
    np.testing.assert_array_equal(picture.intensity, values)
    np.testing.assert_allclose(picture.rgb[..., 0], scaled(values), atol=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_tiff_with_values_that_are_not_finite(value):
    values = np.ones((8, 8), np.float32)
    values[3, 3] = value
    with pytest.raises(DamagedImage, match="not finite"):
        read(encode(values, "TIFF"))


@pytest.mark.parametrize("value", [0, 1, 1e20, -3e38, 1e-45])
def test_constant_float_picture_is_black(value):
    assert not read(encode(np.full((8, 8), value, np.float32), "TIFF")).rgb.any()


@pytest.mark.parametrize("reach", [3e38, 1e-44])
def test_float_picture_of_extreme_range_is_scaled(reach):
    values = np.tile(np.array([[-reach, reach]], np.float32), (4, 4))
    rgb = read(encode(values, "TIFF")).rgb
    assert (rgb[:, ::2] == 0).all() and (rgb[:, 1::2] == 255).all()


def test_deep_picture_that_is_constant_but_for_one_pixel_uses_its_full_range():
    values = np.full((40, 40), 1000, np.uint16)
    values[5, 5] = 3000
    picture = read(encode(values))
    assert picture.rgb[5, 5].tolist() == [255, 255, 255]
    assert np.count_nonzero(picture.rgb) == 3


# orientation and pages


def turned(image, orientation):
    """The stored picture that an upright one has under an EXIF orientation."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](image))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read(encode(turned(RGB, orientation), form, exif=exif))
    np.testing.assert_array_equal(picture.rgb, RGB)
    assert picture.size == (HEIGHT, WIDTH)
    np.testing.assert_allclose(picture.intensity, luma(RGB), atol=0.51)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_jpeg_and_of_16_bits(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(turned(RGB, orientation), "JPEG", quality=100, subsampling=0, exif=exif)
    upright = read(stored).rgb
    assert upright.shape == RGB.shape and np.abs(upright.astype(int) - RGB).mean() < 3
    deep = read(encode(turned(DEEP, orientation), "PNG", exif=exif))
    np.testing.assert_array_equal(deep.intensity, DEEP)


def pages():
    return [Image.fromarray(np.full((HEIGHT + i, WIDTH), 10 * i, np.uint8)) for i in range(4)]


@pytest.mark.parametrize("page", range(4))
def test_pages_of_a_tiff(page):
    first, *others = pages()
    picture = read(encode(first, "TIFF", save_all=True, append_images=others), page)
    assert picture.size == (HEIGHT + page, WIDTH)
    assert (picture.intensity == 10 * page).all()
    assert (picture.page, picture.pages) == (page, 4)


@pytest.mark.parametrize("page", [4, 1_000_000])
def test_page_out_of_range(page):
    first, *others = pages()
    with pytest.raises(InvalidInput, match=rf"page={page} lies outside 0..3"):
        read(encode(first, "TIFF", save_all=True, append_images=others), page)


def test_single_picture_has_one_page():
    with pytest.raises(InvalidInput, match=r"outside 0\.\.0"):
        read(encode(RGB, "JPEG"), page=1)


def animation():
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8)) for i in range(5)]
    return encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def test_frames_of_a_webp():
    picture = read(animation(), page=3)
    assert (picture.rgb == 120).all() and picture.pages == 5


def test_frames_before_the_one_asked_for_count_as_pixels():
    limits = ImageLimits(2**20, 3 * HEIGHT * WIDTH)
    assert read(animation(), page=2, limits=limits).page == 2
    with pytest.raises(ImageTooLarge, match=f"4 frames of {WIDTH}x{HEIGHT}"):
        read(animation(), page=3, limits=limits)


@pytest.mark.parametrize("form", ["TIFF", "WEBP", "PNG"])
def test_pages_in_a_row_are_those_asked_for_one_by_one(form):
    first, *others = pages()
    files = {
        "TIFF": encode(first, "TIFF", save_all=True, append_images=others), "WEBP": animation(),
        "PNG": encode(DEEP, "PNG"),
    }  # fmt: skip
    data = files[form]
    count = count_pages(data, LIMITS)
    assert count == {"TIFF": 4, "WEBP": 5, "PNG": 1}[form]
    in_a_row = list(decode_pages(data, LIMITS))
    assert len(in_a_row) == count
    for page, picture in enumerate(in_a_row):
        alone = read(data, page)
        np.testing.assert_array_equal(picture.rgb, alone.rgb)
        np.testing.assert_array_equal(picture.intensity, alone.intensity)
        assert (picture.page, picture.pages) == (page, count)


def test_pages_in_a_row_are_judged_as_single_ones():
    first, *others = pages()
    data = encode(first, "TIFF", save_all=True, append_images=others)
    found = decode_pages(data, ImageLimits(2**20, (HEIGHT + 1) * WIDTH))
    assert [next(found).page, next(found).page] == [0, 1]
    with pytest.raises(ImageTooLarge):
        next(found)
    for call in (count_pages, lambda d, limits: list(decode_pages(d, limits))):
        with pytest.raises(UnsupportedImage):
            call(b"no picture", LIMITS)
        with pytest.raises(ImageTooLarge):
            call(data, ImageLimits(10, 10**6))
    with pytest.raises(DamagedImage):
        list(decode_pages(data[: len(data) // 2], LIMITS))


def test_endless_pages_are_refused_quickly():
    data = bytearray(encode(np.zeros((4, 4), np.uint8), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    end = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    directory = bytes(data[start:end])
    data += b"\x00" * (len(data) % 2)
    for _ in range(3 * MAX_PAGES):
        struct.pack_into("<I", data, end, len(data))
        end = len(data) + len(directory)
        data += directory + b"\x00\x00\x00\x00"
    started = time.process_time()
    with pytest.raises(ImageTooLarge, match="10,000 pages"):
        read(bytes(data), limits=ImageLimits(2**24, 100))
    assert time.process_time() - started < 20


# what is refused


def test_too_many_bytes():
    data = encode(RGB)
    assert read(data, limits=ImageLimits(len(data), 10**6)).size == (HEIGHT, WIDTH)
    with pytest.raises(ImageTooLarge, match=f"more than {len(data) - 1:,} bytes"):
        read(data, limits=ImageLimits(len(data) - 1, 10**6))


def test_too_many_pixels():
    assert read(encode(RGB), limits=ImageLimits(2**20, HEIGHT * WIDTH)).size == (HEIGHT, WIDTH)
    with pytest.raises(ImageTooLarge, match=f"{WIDTH}x{HEIGHT} = {HEIGHT * WIDTH:,} pixels"):
        read(encode(RGB), limits=ImageLimits(2**20, HEIGHT * WIDTH - 1))


def test_pixels_are_judged_before_decoding(monkeypatch):
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageTooLarge, match="30000x30000 = 900,000,000 pixels"):
        read(data)


def test_later_page_is_judged_too():
    small, large = Image.new("L", (4, 4)), Image.new("L", (50, 50))
    data = encode(small, "TIFF", save_all=True, append_images=[large])
    limits = ImageLimits(2**20, 100)
    assert read(data, 0, limits).size == (4, 4)
    with pytest.raises(ImageTooLarge, match="50x50"):
        read(data, 1, limits)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just text, named drops.png",
        b"\x89PN",
        encode(RGB, "GIF"),
        encode(RGB, "PPM"),
        b"%PDF-1.7\n",
        b"\x00" * 99,
    ],
    ids=["empty", "text", "short", "gif", "ppm", "pdf", "zeros"],
)
def test_what_is_no_picture_of_ours(data):
    with pytest.raises(UnsupportedImage):
        read(data)


def test_gif_behind_another_signature_is_not_opened():
    with pytest.raises(DamagedImage):
        read(b"II*\x00" + encode(RGB, "GIF"))


def files():
    first, *others = pages()
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encode(RGB, "JPEG", exif=exif),
        "progressive": encode(RGB, "JPEG", progressive=True),
        "cmyk": encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        "png": encode(RGB, exif=exif),
        "png16": encode(DEEP),
        "png48": cv2.imencode(".png", np.dstack([DEEP] * 3))[1].tobytes(),
        "webp": encode(RGB, "WEBP", lossless=False),
        "webp lossless": encode(RGB, "WEBP"),
        "animation": animation(),
        "bmp": encode(RGB, "BMP"),
        "tiff": encode(RGB, "TIFF"),
        "tiff16": encode(DEEP, "TIFF", compression="tiff_lzw"),
        "tiff48": cv2.imencode(".tif", np.dstack([DEEP] * 3))[1].tobytes(),
        "float": encode(DEEP.astype(np.float32), "TIFF", compression="tiff_adobe_deflate"),
        "fax": encode(GREY > 128, "TIFF", compression="group4"),
        "pages": encode(first, "TIFF", save_all=True, append_images=others),
    }


FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_damaged_or_whole(name):
    data = FILES[name]
    whole = read(data)
    for cut in range(8):
        part = data[: len(data) * cut // 8]
        try:
            picture = read(part)
        except (DamagedImage, UnsupportedImage) as error:
            assert isinstance(error, DamagedImage) or len(part) < 8
        else:
            np.testing.assert_array_equal(picture.rgb, whole.rgb)


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"pages", "animation"}))
def test_half_a_file_is_damaged(name):
    data = FILES[name]
    with pytest.raises(DamagedImage):
        read(data[: len(data) // 2])


def test_a_riff_file_that_is_no_picture():
    with pytest.raises(UnsupportedImage):
        read(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28))


def test_a_big_tiff():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", big_tiff=True)
    assert file.getvalue().startswith(b"II+")
    np.testing.assert_array_equal(read(file.getvalue()).intensity, pixels)


def attempt(data):
    """Nothing but a picture or one of our own errors may come of any bytes."""
    try:
        picture = read(data)
    except ServiceError:
        return
    assert picture.rgb.shape == (*picture.intensity.shape, 3)


BEGINNINGS = [
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\x00\x00\x00WEBP", b"II*\x00", b"MM\x00*",
    b"II+\x00\x08\x00\x00\x00", b"MM\x00+\x00\x08\x00\x00", b"BM",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=300))
def test_random_bytes_after_a_signature(signature, noise):
    attempt(signature + noise)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(-(2**12), 2**12), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_in_a_file(name, changes):
    data = bytearray(FILES[name])
    for place, value in changes:
        data[place % len(data)] = value
    attempt(bytes(data))


def test_reason_shows_no_internals():
    with pytest.raises(DamagedImage) as caught:
        read(encode(RGB)[:200])
    assert "<" not in str(caught.value) and "0x" not in str(caught.value)
