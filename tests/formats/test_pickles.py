"""The restricted pickle reader: what it reads, and that it runs nothing."""

import argparse
import collections
import datetime
import functools
import os
import pathlib
import pickle
import resource
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from v2l_jax.errors import AssetError
from v2l_jax.formats.pickles import read_pickle


def assert_same(tree, expected):
    assert type(tree) is type(expected)
    if isinstance(expected, dict):
        assert list(tree) == list(expected)
        for key in expected:
            assert_same(tree[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(tree) == len(expected)
        for a, b in zip(tree, expected):
            assert_same(a, b)
    elif isinstance(expected, np.ndarray):
        assert tree.dtype == expected.dtype and tree.shape == expected.shape
        np.testing.assert_array_equal(tree, expected)
    else:
        assert tree == expected


@pytest.mark.parametrize("protocol", range(6))
def test_trees_of_arrays(protocol, tmp_path):
    rng = np.random.default_rng(0)
    tree = {
        "kernel": rng.normal(size=(3, 2, 4)).astype(np.float32),
        "fortran": np.asfortranarray(rng.normal(size=(3, 5))),
        "big_endian": np.arange(4, dtype=">i4"),
        "half": np.arange(3).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3)),
        "scalar": np.float64(1.5),
        "nested": [(1, 2.5, "é", b"\x00\xff", None, True), {3: "x"}, {1, 2}],
        "flags": np.array([True, False]),
    }
    path = tmp_path / "tree.pkl"
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    assert_same(read_pickle(path), tree)
    assert_same(read_pickle(path.read_bytes()), tree)


def test_jax_arrays_and_frozen_dicts():
    import flax
    import jax.numpy as jnp

    tree = flax.core.freeze({"params": {"w": jnp.arange(6.0).reshape(2, 3)}})
    assert_same(
        read_pickle(pickle.dumps(tree)),
        {"params": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}},
    )


def test_numpy_1_module_names():
    pickled = pickle.dumps(np.arange(3), protocol=2).replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(read_pickle(pickled), np.arange(3))


class Hostile:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_and_does_not_run(tmp_path, protocol):
    witness = tmp_path / "witness"
    path = tmp_path / "evil.pkl"
    path.write_bytes(
        pickle.dumps(
            {"w": np.zeros(2), "x": Hostile(os.system, f"touch {witness}")}, protocol=protocol
        )
    )
    with pytest.raises(AssetError, match=r"evil\.pkl.*refused: (posix|nt)\.system"):
        read_pickle(path)
    assert not witness.exists()
    pickle.loads(path.read_bytes())
    assert witness.exists(), "the attack is real"


@pytest.mark.parametrize(
    "payload, name",
    [
        (Hostile(eval, "1"), "builtins.eval"),
        (Hostile(getattr, "x", "upper"), "builtins.getattr"),
        (collections.UserDict(a=1), "collections.UserDict"),
        (np.array(["x", None], dtype=object), "object"),
        (np.zeros(2, dtype=[("a", "f4")]), "V4"),
    ],
)
def test_anything_but_arrays_is_refused(payload, name):
    with pytest.raises(AssetError, match=name):
        read_pickle(pickle.dumps(payload))


HAND_WRITTEN = {
    "changes a class": b"\x80\x04cnumpy\nndarray\nN}X\x05\x00\x00\x00buildK\x01s\x86b.",
    "changes a function": b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n"
    b"}X\x01\x00\x00\x00aK\x01sb.",
    "returns a class": b"\x80\x04cnumpy\nndarray\n.",
    "dotted name": b"\x80\x04X\x05\x00\x00\x00numpyX\x15\x00\x00\x00ndarray.tofile.__call__\x93.",
    "huge bytes": b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x.",
    "huge memo index": b"\x80\x04}r\xff\xff\xff\xff.",
    "persistent id": b"\x80\x04K\x01Q.",
    "extension": b"\x80\x04\x82\x01.",
    "deep nesting": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "empty stack": b"\x80\x04.",
    "bare array": b"\x80\x04cnumpy.core.multiarray\n_reconstruct\nNNN\x87R.",
}


@pytest.mark.parametrize("name", sorted(HAND_WRITTEN))
def test_malformed_pickles(name):
    if name == "huge memo index":
        assert read_pickle(HAND_WRITTEN[name]) == {}
        return
    with pytest.raises(AssetError):
        read_pickle(HAND_WRITTEN[name])


def test_shared_parts_stay_shared():
    """A billion laughs: thirty levels of doubling are thirty small tuples, not 2^30."""
    tree = (np.arange(2),)
    for _ in range(30):
        tree = (tree, tree)
    read = read_pickle(pickle.dumps(tree))
    for _ in range(30):
        assert read[0] is read[1]
        read = read[0]


def test_wrong_sizes_and_truncation(tmp_path):
    whole = pickle.dumps({"w": np.arange(1000.0)}, protocol=3)
    path = tmp_path / "cut.pkl"
    for keep in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(AssetError, match=r"cut\.pkl"):
            read_pickle(path)
    lying = pickle.dumps(np.arange(4, dtype=np.uint8), protocol=3).replace(
        b"K\x04\x85", b"K\x05\x85"
    )
    with pytest.raises(AssetError, match="shape"):
        read_pickle(lying)
    with pytest.raises(AssetError, match="cannot be read"):
        read_pickle(tmp_path / "absent.pkl")


def test_the_lpips_weights(asset):
    tree = read_pickle(asset("lpips-vgg16"))
    assert tree["VGG16_0"]["Conv_0"]["kernel"].shape == (3, 3, 3, 64)
    assert tree["NetLinLayer_4"]["Conv_0"]["kernel"].shape == (1, 1, 512, 1)


def test_classes_of_lightning_are_names_and_their_objects_dicts(monkeypatch):
    """As `callbacks` and `hyper_parameters` of a checkpoint of PyTorch Lightning hold them."""
    module = types.ModuleType("pytorch_lightning")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    parameters = type("AttributeDict", (dict,), {"__module__": module.__name__})
    module.ModelCheckpoint, module.AttributeDict = callback, parameters  # pyright: ignore
    monkeypatch.setitem(sys.modules, module.__name__, module)
    state = callback()
    state.best = 1.5
    tree = {"callbacks": {callback: {"best": 2}}, "hyper": parameters(lr=3), "object": state}
    read = read_pickle(pickle.dumps(tree, protocol=2))
    name = "pytorch_lightning.ModelCheckpoint"
    assert read == {"callbacks": {name: {"best": 2}}, "hyper": {"lr": 3}, "object": {"best": 1.5}}


@pytest.fixture
def dict_config(monkeypatch):
    """A class that pickles as omegaconf's DictConfig does: state with containers of its module."""
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    config = module.DictConfig()
    config._content = {"lr": 0.5}
    return config


def test_what_training_scripts_keep_beside_arrays_is_recorded(dict_config):
    kept = {
        "args": argparse.Namespace(lr=1e-4, out=pathlib.PurePosixPath("runs") / "a", sizes=[1, 2]),
        "seen": collections.defaultdict(list, {"loss": [1.0]}),
        "counts": collections.Counter("aab"),
        "last": collections.deque([3, 4], maxlen=2),
        "best": np.float64(0.5),
        "when": datetime.datetime(2026, 1, 1),
        "config": dict_config,
        "model": {"w": np.arange(3.0)},
    }
    for protocol in (2, 4):
        read = read_pickle(pickle.dumps(kept, protocol))
        assert read["args"] == {"lr": 1e-4, "out": "runs/a", "sizes": [1, 2]}
        assert read["seen"] == {"loss": [1.0]} and read["counts"] == {"a": 2, "b": 1}
        assert read["last"] == [3, 4] and read["best"] == 0.5
        assert read["config"] == {"_content": {"lr": 0.5}}
        np.testing.assert_array_equal(read["model"]["w"], np.arange(3.0))


def test_recorded_classes_run_nothing(tmp_path):
    """A recorded name is a name: called, it makes an empty dict."""
    for function, *arguments in ((argparse.Namespace, "x"), (datetime.date, 2026, 1, 1)):
        assert read_pickle(pickle.dumps([Hostile(function, *arguments)])) == [{}]
    with pytest.raises(AssetError, match="refused: argparse.FileType"):
        read_pickle(pickle.dumps(Hostile(argparse.FileType, "w")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [b"\x80\x04J\x01", b"\x80\x04G\x00\x00", b"\x80\x04\x8d\x01", b"\x80\x04\x95\x01"],
    ids=["int cut", "float cut", "length cut", "frame cut"],
)
def test_numbers_that_are_cut_short(content):
    """Found by `make fuzz`: struct.error."""
    with pytest.raises(AssetError, match="truncated"):
        read_pickle(content)


@pytest.mark.parametrize("operation", [b"\x96", b"\x8e", b"\x8d", b"\x95"])
def test_hostile_lengths_make_no_room(operation, tmp_path):
    """Found by `make fuzz`: a bytearray of three gigabytes, filled with zeros."""
    content = b"\x80\x05" + operation + (3 << 30).to_bytes(8, "little") + b"abc."
    (tmp_path / "a.pkl").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for source in (content, tmp_path / "a.pkl"):
        with pytest.raises(AssetError, match="truncated"):
            read_pickle(source)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    assert read_pickle(pickle.dumps(bytearray(b"ab"), 5)) == bytearray(b"ab")


def test_names_with_line_breaks_are_said_in_one_line():
    """Found by `make fuzz`."""
    content = b"\x80\x04\x8c\x03o\nsq\x00\x8c\x06systemq\x01\x93."
    with pytest.raises(AssetError, match="refused: o s.system") as caught:
        read_pickle(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [",f8", "f8,i4", "(2,)f4", "{'a': 1}", "f8 "])
def test_types_that_numpy_reads_as_python_are_refused(name):
    """Found by `make fuzz`: a SyntaxError of numpy's parser."""
    whole = pickle.dumps(np.ones(1), 0)
    assert b"Vf8\n" in whole
    with pytest.raises(AssetError, match="arrays of "):
        read_pickle(whole.replace(b"Vf8\n", f"V{name}\n".encode()))


@pytest.mark.parametrize(
    "value, recorded",
    [
        (types.SimpleNamespace(lr=0.1), {"lr": 0.1}),
        (range(3), {}),
        (slice(1, 2), {}),
        (functools.partial(int, base=2), {"base": 2}),
        (collections.ChainMap({"a": 1}), {"maps": [{"a": 1}]}),
    ],
)
def test_more_of_what_scripts_keep_is_recorded(value, recorded):
    tree = read_pickle(pickle.dumps({"w": np.ones(2), "x": value}))
    assert tree["x"] == recorded and tree["w"].tolist() == [1, 1]


def test_the_state_of_numpys_generators_is_recorded():
    for generator in (np.random.RandomState(0), np.random.default_rng(0)):
        tree = read_pickle(pickle.dumps({"w": np.ones(2), "random": generator}))
        assert tree["w"].tolist() == [1, 1] and isinstance(tree["random"], dict)
