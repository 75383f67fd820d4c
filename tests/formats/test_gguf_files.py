"""GGUF reading, against block-by-block dequantization and the `gguf` writer."""

import struct

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import quants

from v2l_jax.errors import AssetError
from v2l_jax.formats import gguf_files

Q = gguf.GGMLQuantizationType


def write_gguf(path, tensors, metadata=()):
    """tensors: name → (array or packed bytes, quantization type)."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_array("tokenizer.ggml.tokens", ["a", "Ġb", "é"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("flag", False)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dequantize_blocks(packed, kind, columns):
    """The block layouts of ggml, one byte at a time."""
    size = {Q.Q4_0: 18, Q.Q4_1: 20, Q.Q8_0: 34}[kind]
    raw, rows = bytes(packed), []
    for start in range(0, len(raw), size):
        block = raw[start : start + size]
        scale = struct.unpack("<e", block[:2])[0]
        if kind == Q.Q8_0:
            values = [scale * q for q in struct.unpack("<32b", block[2:])]
        elif kind == Q.Q4_0:
            values = [scale * ((b & 15) - 8) for b in block[2:]] + [
                scale * ((b >> 4) - 8) for b in block[2:]
            ]
        else:
            low = struct.unpack("<e", block[2:4])[0]
            values = [scale * (b & 15) + low for b in block[4:]] + [
                scale * (b >> 4) + low for b in block[4:]
            ]
        rows.extend(values)
    return np.array(rows, np.float32).reshape(-1, columns)


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1, Q.Q8_0])
def test_blocks_match_byte_by_byte_dequantization(tmp_path, kind):
    weights = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    packed = quants.quantize(weights, kind)
    tensors = gguf_files.read_gguf(write_gguf(tmp_path / "m.gguf", {"w": (packed, kind)})).tensors
    assert tensors["w"].shape == (6, 96) and tensors["w"].dtype == np.float32
    np.testing.assert_allclose(
        tensors["w"], dequantize_blocks(packed.tobytes(), kind, 96), atol=1e-6
    )
    assert np.abs(tensors["w"] - weights).max() < (0.03 if kind == Q.Q8_0 else 0.5)


def q4_k_blocks(raw):
    """Q4_K superblocks: 8 groups of 32, 6-bit scales and minima packed in 12 bytes."""
    d, low = (float(x) for x in struct.unpack("<2e", raw[:4]))
    s, q, out = raw[4:16], raw[16:], []
    for group in range(8):
        if group < 4:
            scale, minimum = s[group] & 63, s[group + 4] & 63
        else:
            scale = (s[group + 4] & 15) | ((s[group - 4] >> 6) << 4)
            minimum = (s[group + 4] >> 4) | ((s[group] >> 6) << 4)
        nibbles = q[32 * (group // 2) : 32 * (group // 2) + 32]
        out += [d * scale * ((b >> 4) if group % 2 else (b & 15)) - low * minimum for b in nibbles]
    return out


def q6_k_blocks(raw):
    """Q6_K superblocks: 4 low bits, 2 high bits, 16 signed 8-bit scales, as ggml's
    dequantize_row_q6_K.
    """
    ql, qh, scales = raw[:128], raw[128:192], struct.unpack("<16b", raw[192:208])
    d, out = struct.unpack("<e", raw[208:])[0], [0.0] * 256
    for half in range(2):
        for i in range(32):
            high = qh[32 * half + i]
            for quarter in range(4):
                byte = ql[64 * half + 32 * (quarter % 2) + i]
                value = ((byte & 15) if quarter < 2 else (byte >> 4)) | (
                    ((high >> (2 * quarter)) & 3) << 4
                )
                position = 32 * quarter + i
                out[128 * half + position] = d * scales[8 * half + position // 16] * (value - 32)
    return out


@pytest.mark.parametrize(
    "kind, size, reference", [(Q.Q4_K, 144, q4_k_blocks), (Q.Q6_K, 210, q6_k_blocks)]
)
def test_k_quants_match_byte_by_byte_dequantization(tmp_path, kind, size, reference):
    packed = np.random.default_rng(1).integers(0, 256, (4, size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    if kind == Q.Q4_K:
        packed[:, :4] = np.tile(scale, 2)
    else:
        packed[:, 208:] = scale
    tensors = gguf_files.read_gguf(write_gguf(tmp_path / "m.gguf", {"w": (packed, kind)})).tensors
    expected = np.array([reference(row.tobytes()) for row in packed], np.float32)
    np.testing.assert_allclose(tensors["w"], expected, rtol=1e-5, atol=1e-6)


def test_plain_types_and_metadata(tmp_path):
    weights = np.random.default_rng(2).normal(size=(5, 32)).astype(np.float32)
    bf16 = weights.astype(ml_dtypes.bfloat16)
    path = write_gguf(
        tmp_path / "m.gguf",
        {
            "f32": (weights, Q.F32),
            "f16": (weights.astype(np.float16), Q.F16),
            "bf16": (bf16.view(np.uint8), Q.BF16),
            "ids": (np.arange(7, dtype=np.int32), Q.I32),
        },
    )
    model = gguf_files.read_gguf(path)
    np.testing.assert_array_equal(model.tensors["f32"], weights)
    np.testing.assert_array_equal(
        model.tensors["f16"], weights.astype(np.float16).astype(np.float32)
    )
    np.testing.assert_array_equal(model.tensors["bf16"], bf16.astype(np.float32))
    np.testing.assert_array_equal(model.tensors["ids"], np.arange(7))
    assert {name: a.dtype.name for name, a in model.tensors.items()} == {
        "f32": "float32",
        "f16": "float32",
        "bf16": "float32",
        "ids": "int32",
    }
    assert model.metadata["llama.block_count"] == 3
    assert model.metadata["tokenizer.ggml.tokens"] == ["a", "Ġb", "é"]
    assert model.metadata["numbers"] == [1, 2, 3]
    assert model.metadata["flag"] is False and "missing" not in model.tensors


def test_the_default_llm(asset):
    model = gguf_files.read_gguf(asset("smollm2-135m-instruct"))
    assert model.metadata["general.architecture"] == "llama" and len(model.tensors) == 272
    embedding = model.tensors["token_embd.weight"]
    assert embedding.shape == (49152, 576) and np.isfinite(embedding).all()
    assert model.tensors["blk.0.ffn_down.weight"].shape == (576, 1536)


@pytest.mark.parametrize("keep", [0, 3, 20, 100, 300, -100])
def test_truncated_file_is_named(tmp_path, keep):
    whole = write_gguf(
        tmp_path / "m.gguf", {"w": (np.zeros((64, 64), np.float32), Q.F32)}
    ).read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(whole[:keep])
    with pytest.raises(AssetError, match=r"broken\.gguf"):
        gguf_files.read_gguf(broken)


def test_hostile_lengths_are_refused_quickly(tmp_path):
    header = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack(
        "<Q1sI", 1, b"k", gguf.GGUFValueType.ARRAY
    )
    bombs = {
        "endless_array": header + struct.pack("<IQ", gguf.GGUFValueType.UINT8, 1 << 60),
        "endless_pairs": struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60),
        "endless_string": struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
        + struct.pack("<Q", (1 << 64) - 1),
        "nested_arrays": header + struct.pack("<IQ", gguf.GGUFValueType.ARRAY, 1) * 5000,
        "huge_tensor": struct.pack("<4sIQQ", b"GGUF", 3, 1, 0)
        + struct.pack("<Q1sI2QIQ", 1, b"w", 2, 1 << 33, 1 << 33, 0, 0)
        + bytes(64),
    }
    for name, content in bombs.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(AssetError, match=name):
            gguf_files.read_gguf(path)


def test_overlapping_tensors_are_refused(tmp_path):
    info = b"".join(
        struct.pack("<Q1sIQIQ", 1, name, 1, 8, 0, offset)
        for name, offset in ((b"a", 0), (b"b", 16))
    )
    head = struct.pack("<4sIQQ", b"GGUF", 3, 2, 0) + info
    path = tmp_path / "overlap.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(64))
    with pytest.raises(AssetError, match="overlaps"):
        gguf_files.read_gguf(path)


def test_missing_file(tmp_path):
    with pytest.raises(AssetError, match="no such file"):
        gguf_files.read_gguf(tmp_path / "absent.gguf")
