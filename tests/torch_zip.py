"""PyTorch checkpoints written without PyTorch, for tests of what reads them."""

import io
import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np


class Mention:
    """Pickles as the global torch.<name>, without torch."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Pickler(pickle._Pickler):
    """Writes what torch would write."""

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Mention):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Tensor):
            self.save(Mention("torch._utils", "_rebuild_tensor_v2"))
            self.write(b"(")
            self.save(("storage", Mention("torch", value.kind), value.key, "cpu", value.count))
            self.write(b"Q")
            for part in (value.offset, value.size, value.stride, False, None):
                self.save(part)
            self.write(b"tR")
        else:
            super().save(value, save_persistent_id)

    def memoize(self, value):
        pass


class Tensor:
    def __init__(self, count, size, stride, offset=0, kind="FloatStorage", key="0"):
        self.count, self.size, self.stride, self.offset, self.kind, self.key = (
            count,
            size,
            stride,
            offset,
            kind,
            key,
        )


def write_zip(path, tensor, storage, compression=zipfile.ZIP_STORED, order=b"little"):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"w": tensor})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue(), zipfile.ZIP_STORED)
        archive.writestr("archive/byteorder", order, zipfile.ZIP_STORED)
        archive.writestr("archive/data/0", storage)
    return path


def write_torch(path: pathlib.Path, tree: dict[str, Any]) -> pathlib.Path:
    """Writes a dict of float32 arrays, other values and such dicts as `torch.save` does."""
    storages: list[np.ndarray] = []

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(inside) for key, inside in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        storages.append(np.ascontiguousarray(value, np.float32))
        strides = [step // 4 for step in storages[-1].strides]
        return Tensor(value.size, value.shape, strides, key=str(len(storages) - 1))

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(placed(tree))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        for key, storage in enumerate(storages):
            archive.writestr(f"archive/data/{key}", storage.tobytes())
    return path
