"""PyTorch checkpoint reading, against torch itself and files made by hand."""

import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tests.torch_zip import Tensor, write_torch, write_zip
from v2l_jax.errors import AssetError
from v2l_jax.formats.torch_files import read_torch


def as_numpy(tensor):
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.detach().float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def assert_same(tree, saved):
    import torch

    if isinstance(saved, torch.Tensor):
        expected = as_numpy(saved)
        assert tree.dtype == expected.dtype and tree.shape == expected.shape
        np.testing.assert_array_equal(tree, expected)
    elif isinstance(saved, dict):
        assert type(tree) is dict and list(tree) == list(saved)
        for key in saved:
            assert_same(tree[key], saved[key])
    elif isinstance(saved, (list, tuple)):
        assert len(tree) == len(saved)
        for a, b in zip(tree, saved):
            assert_same(a, b)
    else:
        assert tree == saved


@pytest.fixture
def checkpoint(torch):
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    kinds = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
    )
    return {
        "state_dict": module.state_dict(),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "base": base,
        "transposed": base.T,
        "strided": base[1::2, 3:7],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "bool": torch.tensor([True, False, True]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "size": torch.Size([1, 2]),
        "kinds": [torch.arange(5).to(kind) for kind in kinds],
        "epoch": 7,
        "loss": 0.25,
        "name": "vit",
    }


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_what_torch_saved_reads_equal(torch, tmp_path, checkpoint, zip_format):
    path = tmp_path / "model.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zip_format)
    tree = read_torch(path)
    assert_same(tree, checkpoint)
    assert np.shares_memory(tree["base"], tree["transposed"]), "one storage is mapped once"


def test_newer_types(torch, tmp_path):
    path = tmp_path / "model.pth"
    values = torch.tensor([0.5, -2.0, 448.0]).to(torch.float8_e4m3fn)
    torch.save({"u16": torch.arange(3).to(torch.uint16), "f8": values}, path)
    tree = read_torch(path)
    np.testing.assert_array_equal(tree["u16"], np.arange(3, dtype=np.uint16))
    np.testing.assert_array_equal(tree["f8"].astype(np.float32), values.float().numpy())


def test_torchscript_archive(torch, tmp_path):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.project = torch.nn.Linear(3, 2)
            self.register_buffer("count", torch.arange(4))
            self.sizes = [1, 2]

        def forward(self, x):
            return self.project(x) + self.count.sum() + self.sizes[0]

    module = Block()
    torch.jit.script(module).save(str(tmp_path / "script.pt"))
    tree = read_torch(tmp_path / "script.pt")
    assert_same(
        {k: tree["project"][k] for k in ("weight", "bias")}, dict(module.project.state_dict())
    )
    assert_same(tree["count"], module.count)
    assert tree["sizes"] == [1, 2]


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_code_is_refused_and_does_not_run(torch, tmp_path, zip_format):
    path, witness = tmp_path / "evil.pth", tmp_path / "witness"
    torch.save({"x": Hostile(f"touch {witness}")}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(AssetError, match=r"evil\.pth.*refused: posix\.system"):
        read_torch(path)
    assert not witness.exists()


def test_whole_modules_are_refused_by_name(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(AssetError, match=r"refused: torch\.nn\.modules\.linear\.Linear"):
        read_torch(tmp_path / "module.pth")


def test_made_by_hand_without_torch(tmp_path):
    values = np.arange(12, dtype=np.float32)
    path = write_zip(tmp_path / "m.pth", Tensor(12, (2, 3), (1, 4), offset=1), values.tobytes())
    np.testing.assert_array_equal(read_torch(path)["w"], [[1, 5, 9], [2, 6, 10]])
    path = write_zip(
        tmp_path / "m.pth", Tensor(12, (12,), (1,)), values.astype(">f4").tobytes(), order=b"big"
    )
    np.testing.assert_array_equal(read_torch(path)["w"], values)


def test_torch_reads_what_the_writer_of_other_tests_writes(torch, tmp_path):
    tree = {"state_dict": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "epoch": 3}
    path = write_torch(tmp_path / "m.pth", tree)
    assert_same(read_torch(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(12, (13,), (1,)),
        Tensor(12, (2, 3), (4, 4)),
        Tensor(12, (2,), (1,), offset=11),
        Tensor(12, (2,), (-1,), offset=4),
        Tensor(12, (-2,), (1,)),
        Tensor(12, (2, 2), (1,)),
        Tensor(12, (1 << 40,), (0,)),
        Tensor(1000, (2,), (1,)),
        Tensor(12, (2,), (1,), key="1"),
        Tensor(12, (2,), (1,), key="../byteorder"),
    ],
    ids=[
        "size",
        "stride",
        "offset",
        "negative-stride",
        "negative-size",
        "ranks",
        "expanded-bomb",
        "storage",
        "missing",
        "outside",
    ],
)
def test_views_beyond_the_storage_are_refused(tmp_path, tensor):
    path = write_zip(tmp_path / "broken.pth", tensor, bytes(48))
    with pytest.raises(AssetError, match=r"broken\.pth"):
        read_torch(path)


def test_zip_bomb_is_refused(tmp_path):
    path = write_zip(
        tmp_path / "bomb.pth", Tensor(1 << 22, (2,), (1,)), bytes(1 << 24), zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < 1 << 16
    with pytest.raises(AssetError, match="compressed"):
        read_torch(path)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_truncated_files_are_named(torch, tmp_path, zip_format):
    torch.save(
        {"w": torch.randn(100)}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zip_format
    )
    whole = (tmp_path / "whole.pth").read_bytes()
    path = tmp_path / "broken.pth"
    for keep in (0, 2, 30, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:keep])
        with pytest.raises(AssetError, match=r"broken\.pth"):
            read_torch(path)


@pytest.mark.parametrize(
    "content",
    [
        b"not a checkpoint",
        pickle.dumps({"w": np.zeros(3)}),
        b"PK\3\4" + bytes(100),
        struct.pack("<Q", 1 << 63),
    ],
    ids=["text", "pickle", "zip", "number"],
)
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(AssetError, match=r"other\.pth"):
        read_torch(path)
    with pytest.raises(AssetError, match="absent"):
        read_torch(tmp_path / "absent.pth")


def test_the_reference_checkpoint(golden):
    tree = read_torch(golden / "v2l_reference_small.pth")
    assert tree["state_dict"]["decoder.mid.cross_attn_1.to_q.weight"].ndim == 2


def test_the_classifier(torch, asset):
    """A legacy file; torch reads the same values."""
    path = asset("efficientnet-lite2")
    tree = read_torch(path)
    assert tree["_conv_stem.weight"].shape == (32, 3, 3, 3) and len(tree) == 386
    assert_same(tree, dict(torch.load(path, map_location="cpu", weights_only=True)))
