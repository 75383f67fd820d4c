"""safetensors files, single or sharded → numpy arrays."""

import functools
import pathlib
from collections.abc import Mapping

import ml_dtypes  # noqa: F401  (gives numpy the bfloat16 that safetensors asks for)
import numpy as np
import safetensors

from v2l_jax.errors import AssetError
from v2l_jax.formats.lazy_arrays import LazyArrays
from v2l_jax.formats.lfs_pointers import refuse_pointer
from v2l_jax.formats.text_files import read_json

_INDEX = "model.safetensors.index.json"


def read_safetensors(path: str | pathlib.Path) -> Mapping[str, np.ndarray]:
    """Opens a .safetensors file, a sharded index (*.safetensors.index.json), or a directory that
    holds either.

    Returns:
      Tensor name → array, in the file's own type (bfloat16 through `ml_dtypes`), read on access.

    Raises:
      AssetError: missing, truncated, or inconsistent files.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = _find_in_directory(path)
    if path.name.endswith(".json"):
        return _read_sharded(path)
    return LazyArrays(_open(path))


def _find_in_directory(folder: pathlib.Path) -> pathlib.Path:
    for name in (_INDEX, "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    found = sorted([*folder.glob("*.safetensors.index.json")] or [*folder.glob("*.safetensors")])
    if len(found) != 1:
        pickled = sorted(
            path.name for end in ("bin", "pth", "pt") for path in folder.glob(f"*.{end}")
        )
        hint = "give the one to read"
        if pickled and not found:
            hint = (
                f"{pickled[0]} must be saved as safetensors (save_pretrained of transformers, or "
                "safetensors.torch.save_file)"
            )
        raise AssetError(f"{folder}: {len(found) or 'no'} safetensors files there; {hint}")
    return found[0]


def _read_sharded(index: pathlib.Path) -> LazyArrays:
    try:
        shard_of = read_json(index, AssetError)["weight_map"]
        names = sorted(set(shard_of.values()))
        outside = [name for name in names if pathlib.PurePath(name).name != name]
    except (KeyError, TypeError, AttributeError) as error:
        raise AssetError(
            f"{index} is not a readable safetensors index ({error!r}); download it again"
        ) from error
    if outside:
        raise AssetError(f"{index} names a shard outside its own directory: {outside[0]}")
    shards = {name: _open(index.parent / name) for name in names}
    missing = [tensor for tensor, shard in shard_of.items() if tensor not in shards[shard]]
    if missing:
        raise AssetError(
            f"{index}: tensor {missing[0]} is not in {shard_of[missing[0]]}; download it again"
        )
    return LazyArrays({tensor: shards[shard][tensor] for tensor, shard in shard_of.items()})


def _open(path: pathlib.Path) -> dict[str, functools.partial]:
    refuse_pointer(path, AssetError)
    try:
        handle = safetensors.safe_open(str(path), framework="np")
        return {name: functools.partial(_read, handle, path, name) for name in handle.keys()}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise AssetError(
            f"{path} is not a readable safetensors file ({error}); download it again"
        ) from error


def _read(handle: safetensors.safe_open, path: pathlib.Path, name: str) -> np.ndarray:
    try:
        return handle.get_tensor(name)
    except (
        AttributeError,
        safetensors.SafetensorError,
    ) as error:  # a type numpy lacks, such as float8
        kind = handle.get_slice(name).get_dtype()
        reason = (
            f"its type {kind} is one that weights are quantised to; give the unquantised repository"
            if kind.startswith(("F8", "F4", "F6"))
            else str(error)
        )
        raise AssetError(f"{path}: tensor {name} cannot be read ({reason})") from error
