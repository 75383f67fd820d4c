"""A detection set made of cut-outs: pictures with a transparent background, pasted on photos, so
that every box is exact. Written as COCO has it.

    python -m v2l_jax.data.cut_outs runs/stamps

makes one of Tux Paint's stamps in ten classes on the embedded photos; images to learn from and to
ask about share neither a stamp nor a photo.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from v2l_jax.assets import fetch as assets
from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.images import decode_image
from v2l_jax.data.transforms import fit_square
from v2l_jax.errors import DataError

STAMPS = {
    "bird": "animals/birds",
    "fish": "animals/fish",
    "insect": "animals/insects",
    "mammal": "animals/mammals",
    "fruit": "food/fruit",
    "vegetable": "food/vegetables",
    "flower": "plants/flowers",
    "house": "town/houses",
    "sign": "town/roadsigns",
    "tool": "household/tools",
}
"""The folder of Tux Paint's stamps that each class is taken from."""
_OVERLAP = 0.3  # of the smaller of two boxes, at most
_TRIES = 20
_SOLID = 16  # alpha of 255 from which on a pixel belongs to the object


def write_pasted(
    folder: pathlib.Path,
    cut_outs: Mapping[str, Sequence[pathlib.Path]],
    backgrounds: Sequence[pathlib.Path],
    count: int,
    seed: int,
    side: int = 224,
    objects: tuple[int, int] = (1, 3),
    sizes: tuple[float, float] = (0.25, 0.6),
) -> pathlib.Path:
    """Writes images/ and instances.json.

    Args:
      folder: where they go.
      cut_outs: pictures of each class, with an alpha channel.
      backgrounds: photos.
      count: images.
      seed: draws everything.
      side: of the images, pixels.
      objects: the fewest and the most of an image.
      sizes: the longer side of an object, as a share of the image's, from and to.

    Returns:
      The path of instances.json.

    Raises:
      DataError: a class without pictures, or no photos.
    """
    empty = [name for name, paths in cut_outs.items() if not paths]
    if empty or not backgrounds:
        raise DataError(
            f"no pictures of {', '.join(empty) or 'a background'}; give folders that hold some"
        )
    names = sorted(cut_outs)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng, images, annotations = np.random.default_rng(seed), [], []
    for number in range(count):
        photo = decode_image(backgrounds[int(rng.integers(len(backgrounds)))])
        shown = fit_square(photo, side, "crop")
        if rng.random() < 0.5:
            shown = shown[:, ::-1]
        shown, boxes = np.array(shown), []
        for _ in range(rng.integers(objects[0], objects[1] + 1)):
            label = int(rng.integers(len(names)))
            choices = cut_outs[names[label]]
            picture = _scaled(choices[int(rng.integers(len(choices)))], side * rng.uniform(*sizes))
            box = _place(boxes, picture.shape[:2], side, rng)
            if box is not None:
                boxes.append(box)
                _paste(shown, picture, box)
                annotations.append(_annotation(len(annotations) + 1, number, label + 1, box))
        name = f"{number:05d}.png"
        with atomic_write(folder / "images" / name) as draft, draft.open("wb") as file:
            Image.fromarray(shown).save(file, "PNG")
        images.append({"id": number, "file_name": name, "height": side, "width": side})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    path = folder / "instances.json"
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content))
    return path


def write_stamps(folder: pathlib.Path, train: int = 1000, test: int = 200, seed: int = 0) -> None:
    """Writes train/ and test/ of Tux Paint's stamps; of both stamps and photos three quarters are
    in train/.
    """
    stamps, kinds = assets.fetch("tuxpaint-stamps"), ("*.jpg", "*.jpeg", "*.png")
    photos = [p for kind in kinds for p in assets.fetch("natural-photos").rglob(kind)]
    rng = np.random.default_rng(seed)
    parts: dict[str, tuple[dict[str, list[pathlib.Path]], list[pathlib.Path]]] = {
        "train": ({}, []),
        "test": ({}, []),
    }
    groups = {name: sorted((stamps / inside).rglob("*.png")) for name, inside in STAMPS.items()}
    for name, paths in {**groups, "": sorted(photos)}.items():
        order = [paths[i] for i in rng.permutation(len(paths))]
        cut = round(0.75 * len(order))
        for part, chosen in (("train", order[:cut]), ("test", order[cut:])):
            if name:
                parts[part][0][name] = chosen
            else:
                parts[part][1].extend(chosen)
    for part, count in (("train", train), ("test", test)):
        write_pasted(folder / part, *parts[part], count, seed + (part == "test"))


def _scaled(path: pathlib.Path, longest: float) -> UInt8[np.ndarray, "height width 4"]:
    """A cut-out without its transparent margin, its longer side as given."""
    with Image.open(path) as file:
        picture = file.convert("RGBA")
    solid = np.asarray(picture)[..., 3] >= _SOLID
    if not solid.any():
        raise DataError(f"{path} is transparent everywhere; leave it out")
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    picture = picture.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    scale = longest / max(picture.size)
    width, height = (max(1, round(n * scale)) for n in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def _place(
    boxes: Sequence[tuple[int, int, int, int]],
    shape: tuple[int, int],
    side: int,
    rng: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) that hides little of what is there; None where none was found."""
    height, width = shape
    for _ in range(_TRIES):
        left, top = (int(rng.integers(0, side - n + 1)) for n in (width, height))
        box = (left, top, left + width, top + height)
        if all(_shared(box, other) <= _OVERLAP for other in boxes):
            return box
    return None


def _shared(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the smaller area."""
    wide, high = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return max(wide, 0) * max(high, 0) / min(areas)


def _paste(
    shown: UInt8[np.ndarray, "side side 3"],
    picture: UInt8[np.ndarray, "height width 4"],
    box: tuple[int, int, int, int],
) -> None:
    left, top, right, bottom = box
    under = shown[top:bottom, left:right].astype(np.float32)
    alpha = picture[..., 3:].astype(np.float32) / 255
    mixed = alpha * picture[..., :3] + (1 - alpha) * under
    shown[top:bottom, left:right] = np.rint(mixed).astype(np.uint8)


def _annotation(number: int, image: int, category: int, box: tuple[int, int, int, int]) -> dict:
    left, top, right, bottom = box
    size = [left, top, right - left, bottom - top]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": size,
        "area": size[2] * size[3],
        "iscrowd": 0,
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m v2l_jax.data.cut_outs FOLDER")
    write_stamps(pathlib.Path(sys.argv[1]))
