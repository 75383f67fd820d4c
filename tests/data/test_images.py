"""decode_image against the same picture stored in every format a camera, a scanner or the web may
produce.
"""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from v2l_jax.data.images import CorruptImageError, decode_image
from v2l_jax.errors import DataError


def picture(height=12, width=20) -> np.ndarray:
    """A smooth RGB gradient with a red corner, so that a flip, a rotation or a swap of channels
    shows.
    """
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 / width, y * 255 / height, 255 - x * 255 / width], -1).astype(
        np.uint8
    )
    image[:4, :4] = [255, 0, 0]
    return image


def encoded(image: Image.Image, fmt="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_rgb_is_returned_as_stored(fmt):
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(picture()), fmt)), picture())


def test_path_and_bytes_agree(tmp_path):
    content = encoded(Image.fromarray(picture()), "JPEG")
    (tmp_path / "a.jpg").write_bytes(content)
    np.testing.assert_array_equal(decode_image(tmp_path / "a.jpg"), decode_image(content))


# EXIF orientation tag → how the stored pixels relate to the upright picture (EXIF 2.32, tag
# 0x0112).
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED_AS)
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](picture())))
    np.testing.assert_array_equal(decode_image(encoded(stored, "PNG", exif=exif)), picture())


def test_damaged_exif_leaves_the_pixels():
    content = encoded(
        Image.fromarray(picture()), "JPEG", exif=b"Exif\x00\x00garbage that is no TIFF header"
    )
    assert decode_image(content).shape == picture().shape


def test_grayscale_and_bilevel():
    gray = picture()[..., 0]
    np.testing.assert_array_equal(
        decode_image(encoded(Image.fromarray(gray))), np.stack([gray] * 3, -1)
    )
    bilevel = Image.fromarray(gray > 100).convert("1")
    np.testing.assert_array_equal(
        decode_image(encoded(bilevel))[..., 2], np.where(gray > 100, 255, 0)
    )


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_grayscale_spans_black_to_white(fmt):
    levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    image = decode_image(encoded(Image.fromarray(levels), fmt))
    np.testing.assert_array_equal(image[..., 0], [[0, 1, 128, 255]])


def test_cmyk_jpeg_of_the_adobe_kind():
    # Pillow writes CMYK JPEG the way Photoshop does: inverted, with an APP14 "Adobe" marker.
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    content = encoded(red, "JPEG", quality=95)
    assert b"Adobe" in content
    np.testing.assert_allclose(
        decode_image(content), np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=4
    )


def test_palette():
    image = Image.fromarray(picture()).quantize(64)
    np.testing.assert_array_equal(decode_image(encoded(image)), np.asarray(image.convert("RGB")))


def test_transparency_shows_white():
    rgba = np.dstack([picture(), np.full(picture().shape[:2], 255, np.uint8)])
    rgba[0, 0, 3], rgba[0, 1] = 0, [0, 0, 0, 128]
    decoded = decode_image(encoded(Image.fromarray(rgba)))
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])
    np.testing.assert_allclose(decoded[0, 1], [127, 127, 127], atol=1)
    np.testing.assert_array_equal(decoded[1:], picture()[1:])


def test_gray_with_alpha_and_palette_with_transparency():
    gray = np.zeros((4, 4, 2), np.uint8)
    gray[2:, :, 1] = 255
    decoded = decode_image(encoded(Image.fromarray(gray)))
    assert decoded[0, 0].tolist() == [255] * 3 and decoded[3, 3].tolist() == [0] * 3

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    for fmt in ("PNG", "GIF"):
        decoded = decode_image(encoded(palette, fmt, transparency=0))
        assert decoded.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files_are_refused(fmt):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise, fmt)
    with pytest.raises(CorruptImageError):
        decode_image(content[: len(content) // 2])


def test_the_error_names_file_and_reason(tmp_path):
    for name, content in {"text.jpg": b"not an image", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: not an image in a known format; replace"):
            decode_image(tmp_path / name)
    with pytest.raises(CorruptImageError, match="no such file") as caught:
        decode_image(tmp_path / "absent.jpg")
    assert caught.value.path == str(tmp_path / "absent.jpg")


@pytest.mark.filterwarnings("ignore")
def test_bit_flips_never_escape_as_another_error():
    rng = np.random.default_rng(0)
    for fmt in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
        content = encoded(Image.fromarray(picture()), fmt)
        for _ in range(60):
            damaged = bytearray(content)
            for position in rng.integers(0, len(content), 3):
                damaged[position] = rng.integers(256)
            try:
                assert decode_image(bytes(damaged)).ndim == 3
            except CorruptImageError:
                pass


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_tiffs_whose_zero_is_white(mode):
    """PhotometricInterpretation 0; Pillow minds it in 8 bits only."""
    white, kind = {"L": (255, np.uint8), "I;16": (65535, np.uint16)}[mode]
    levels = np.linspace(0, white, 64).reshape(8, 8)
    buffer = io.BytesIO()
    Image.fromarray(levels.round().astype(kind)).save(buffer, "TIFF")
    content = bytearray(buffer.getvalue())
    as_stored = decode_image(bytes(content))
    place = content.index(struct.pack("<HHII", 262, 3, 1, 1))
    struct.pack_into("<HHII", content, place, 262, 3, 1, 0)
    np.testing.assert_array_equal(decode_image(bytes(content)), 255 - as_stored)
    assert as_stored[0, 0, 0] == 0 and as_stored[-1, -1, 0] == 255
