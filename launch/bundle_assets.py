"""What the stages of a bundle read, made small."""

import pathlib
import pickle
import shutil
import tempfile
from collections.abc import Callable

import gguf
import jax
import numpy as np
from PIL import Image

from launch.stages import FEATURES, LPIPS, PHOTOS, VOCABULARY, Place, mini_settings
from v2l_jax import experiment
from v2l_jax.assets import fetch as assets
from v2l_jax.data.image_files import EXTENSIONS
from v2l_jax.data.transforms import shrink
from v2l_jax.formats.pickles import read_pickle
from v2l_jax.run import features, loading

_PHOTO_SIDE = 144  # pixels; the small tokenizer sees 128 of them
_PHOTO_QUALITY = 85  # of JPEG
_PHOTO_FOLDERS = ("dogs-cats", "pizza-steak-sushi")


def write_vocabulary(path: pathlib.Path) -> None:
    """SmolLM2's GGUF file without its weights: what its tokenizer is read from."""
    write_metadata(assets.fetch("smollm2-135m-instruct"), path)


def write_metadata(source: pathlib.Path, path: pathlib.Path) -> None:
    """Copies a GGUF file without its tensors."""
    fields = gguf.GGUFReader(source).fields
    writer = gguf.GGUFWriter(path, fields["general.architecture"].contents())
    for name, field in fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer's own
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_lpips(path: pathlib.Path) -> None:
    """LPIPS' weights in half precision, in their own layout."""
    tree = read_pickle(assets.fetch("lpips-vgg16"))
    half = jax.tree.map(lambda x: np.asarray(x, np.float16), tree)
    path.write_bytes(pickle.dumps(half, protocol=4))


def write_photos(folder: pathlib.Path) -> None:
    """The quickstart's labelled photos, a folder a class, at the size that training looks at."""
    rename = {"cats": "cat", "dogs": "dog"}
    for name in _PHOTO_FOLDERS:
        source = assets.fetch(name)
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() not in EXTENSIONS:
                continue
            label = rename.get(path.parent.name, path.parent.name)
            into = folder / "all" / label
            into.mkdir(parents=True, exist_ok=True)
            write_small(path, into / f"{name}-{path.parent.parent.name}-{path.stem}.jpg")


def write_small(path: pathlib.Path, small: pathlib.Path) -> None:
    """Writes an image as a small JPEG."""
    with Image.open(path) as image:
        pixels = shrink(np.asarray(image.convert("RGB")), _PHOTO_SIDE)
    Image.fromarray(pixels).save(small, quality=_PHOTO_QUALITY)


def write_features(place: Place) -> None:
    """The tower's vectors of the bundle's photos, as a training keeps them in its workdir."""
    config = experiment.load("configs/v2l_mini.py", mini_settings(place))
    photos = loading.photos(config)
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        for split, source in (("train", photos.train), ("held_out", photos.held_out)):
            features.cached(config, workdir, split, source)
        shutil.copytree(workdir / "features", place.asset(FEATURES))


WRITERS: dict[str, Callable[[Place], None]] = {
    VOCABULARY: lambda place: write_vocabulary(place.asset(VOCABULARY)),
    LPIPS: lambda place: write_lpips(place.asset(LPIPS)),
    PHOTOS: lambda place: write_photos(place.asset(PHOTOS)),
    FEATURES: write_features,
}
"""How each asset is made, in this order: features are of the photos."""
