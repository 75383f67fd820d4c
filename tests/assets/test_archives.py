"""Extraction: the member asked for and nothing else."""

import io
import tarfile
import zipfile

import pytest

from v2l_jax.assets.archives import extract
from v2l_jax.errors import AssetError


def make_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_file_folder_and_archive_inside(tmp_path):
    photos = {"photos/a/1.jpg": b"1", "photos/2.jpg": b"2"}
    inner = make_zip(tmp_path / "inner.zip", {**photos, "__MACOSX/photos/._2": b"x"})
    files = {
        "pkg/w.bin": b"w",
        "pkg/w.bin.bak": b"no",
        "pkg/d/x.txt": b"x",
        "pkg/d/.hidden": b"h",
        "pkg/d/e/y": b"y",
    }
    wheel = make_zip(tmp_path / "p.whl", {**files, "pkg/inner.zip": inner.read_bytes()})
    cases = {
        "pkg/w.bin": {"w.bin": b"w"},
        "pkg/d/": {"x.txt": b"x", "e/y": b"y"},
        "pkg/inner.zip!photos/": {"a/1.jpg": b"1", "2.jpg": b"2"},
        "pkg/inner.zip!": {"photos/a/1.jpg": b"1", "photos/2.jpg": b"2"},
    }
    for i, (member, expected) in enumerate(cases.items()):
        extract(wheel, member, (), tmp_path / str(i), limit=1000)
        assert contents(tmp_path / str(i)) == expected
    extract(wheel, "pkg/d/", ("x.txt",), tmp_path / "only", limit=1000)
    assert contents(tmp_path / "only") == {"x.txt": b"x"}


def test_source_distribution(tmp_path):
    path = tmp_path / "p-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("p-1.0/p/w.bin")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"www"))
        link = tarfile.TarInfo("p-1.0/p/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    extract(path, "p/w.bin", (), tmp_path / "out", limit=10)
    assert contents(tmp_path / "out") == {"w.bin": b"www"}
    with pytest.raises(AssetError, match="does not hold p/link"):
        extract(path, "p/link", (), tmp_path / "out", limit=10)


def make_tar(path, files, mode):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def make_deb(path, files):
    data = make_tar(
        path.with_suffix(".tar.xz"),
        {f"./{name}": content for name, content in files.items()},
        "w:xz",
    )
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",
        "data.tar.xz": data.read_bytes(),
    }
    archive = b"!<arch>\n"
    for name, content in members.items():
        archive += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
            + content
            + b"\n" * (len(content) % 2)
        )
    path.write_bytes(archive)
    return path


def test_packages_of_npm_and_debian(tmp_path):
    photos = {"a/1.jpg": b"1", "a/2.jpg": b"22", "b/3.jpg": b"333", "c/4.jpg": b"4"}
    npm = make_tar(
        tmp_path / "p-1.tgz",
        {f"package/img/{name}": content for name, content in photos.items()},
        "w:gz",
    )
    extract(npm, "img/", ("a/*", "c/*"), tmp_path / "npm", limit=10, without=("a/2.jpg",))
    assert contents(tmp_path / "npm") == {"a/1.jpg": b"1", "c/4.jpg": b"4"}
    deb = make_deb(
        tmp_path / "p_1_all.deb", {f"usr/share/{name}": content for name, content in photos.items()}
    )
    extract(deb, "usr/share/", ("*/3.jpg",), tmp_path / "deb", limit=10)
    assert contents(tmp_path / "deb") == {"b/3.jpg": b"333"}
    whole = deb.read_bytes()
    for damaged in (whole[:-40], b"zip" + whole, whole[:72], whole[:-60] + bytes(60)):
        deb.write_bytes(damaged)
        with pytest.raises(AssetError, match="damaged"):
            extract(deb, "usr/share/", (), tmp_path / "out", limit=10)


@pytest.mark.parametrize("name", ["d/../../escaped", "d//absolute", "d/..\\escaped", "d/c:escaped"])
def test_paths_that_leave_the_folder(tmp_path, name):
    archive = make_zip(tmp_path / "p.zip", {name: b"x"})
    with pytest.raises(AssetError, match="leaves its folder"):
        extract(archive, "d/", (), tmp_path / "deep" / "out", limit=10)
    assert not list(tmp_path.rglob("*escaped*"))


def test_more_than_expected(tmp_path):
    bomb = make_zip(tmp_path / "bomb.zip", {"d/zeros": bytes(1 << 24)})
    with pytest.raises(AssetError, match=r"bomb\.zip unpacks to more"):
        extract(bomb, "d/", (), tmp_path / "out", limit=1 << 20)
    nested = make_zip(tmp_path / "nested.zip", {"bomb.zip": bytes(1 << 26)})
    with pytest.raises(AssetError, match="more than expected"):
        extract(nested, "bomb.zip!", (), tmp_path / "out2", limit=1 << 30)


def test_damaged_or_missing(tmp_path):
    archive = make_zip(tmp_path / "p.whl", {"w": bytes(1000)}, zipfile.ZIP_STORED)
    with pytest.raises(AssetError, match=r"p\.whl does not hold other"):
        extract(archive, "other", (), tmp_path / "out", limit=10_000)
    raw = bytearray(archive.read_bytes())
    raw[500] ^= 1
    archive.write_bytes(bytes(raw))
    with pytest.raises(AssetError, match="damaged"):
        extract(archive, "w", (), tmp_path / "out", limit=10_000)
    archive.write_bytes(raw[:600])
    with pytest.raises(AssetError, match="damaged"):
        extract(archive, "w", (), tmp_path / "out", limit=10_000)
    broken = tmp_path / "p-1.tar.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(AssetError, match="damaged"):
        extract(broken, "w", (), tmp_path / "out", limit=10_000)
