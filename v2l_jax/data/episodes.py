"""Few-shot episodes: which photos are shown with their class, and which one is asked about."""

import collections
import csv
import dataclasses
import functools
import os
import pathlib
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from v2l_jax.data.image_files import composed
from v2l_jax.data.images import decode_image
from v2l_jax.errors import DataError
from v2l_jax.formats.text_files import read_text


@dataclasses.dataclass(frozen=True)
class Example:
    """A photo and its class.

    Attributes:
      index: of the record in its source (for published episodes: in `EpisodeFile.paths`).
      class_name: the answer.
    """

    index: int
    class_name: str


@dataclasses.dataclass(frozen=True)
class Episode:
    """K shots of each of N classes, in the order of the prompt, and a query of one of these
    classes.

    Attributes:
      shots: N·K examples.
      query: the example whose class is asked; never among the shots.
      class_names: the N candidate answers, sorted.
    """

    shots: tuple[Example, ...]
    query: Example
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class EpisodeFile:
    """Episodes read from a published CSV file.

    Attributes:
      episodes: examples index into `paths`; class names are WordNet ids.
      paths: each photo once, in order of appearance.
    """

    episodes: tuple[Episode, ...]
    paths: tuple[str, ...]


def draw_episodes(
    labels: Sequence[int | np.integer] | Int[np.ndarray, "records"],
    class_names: Sequence[str],
    ways: int,
    shots: int,
    count: int,
    seed: int,
    query_indices: Sequence[int | np.integer] | Int[np.ndarray, "queries"] | None = None,
    shot_indices: Sequence[int | np.integer] | Int[np.ndarray, "shots"] | None = None,
) -> tuple[Episode, ...]:
    """Draws N-way K-shot episodes; episode i is the same for every `count` above i.

    Classes are drawn uniformly without replacement; query classes rotate through a shuffled order
    of all classes, so that over every run of len(class_names) episodes each is asked once. Shots
    are shuffled. With an index set given, shots and queries come from disjoint photos in all
    episodes; without, the query is merely no shot of its own episode.

    Args:
      labels: class index of each record of the source; -1 is never drawn.
      class_names: name of each class index.
      ways: candidate classes N in an episode.
      shots: examples K of each class.
      count: how many episodes.
      seed: another seed gives other episodes.
      query_indices: records that may be asked about; all by default.
      shot_indices: records that may be shown; all that are not in `query_indices` by default.

    Raises:
      DataError: fewer classes than ways, a class with too few photos, or index sets that overlap.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if not 1 <= ways <= len(class_names):
        raise DataError(
            f"{ways}-way episodes need {ways} classes; there are {len(class_names)}: "
            f"{list(class_names)}"
        )
    separate = query_indices is not None or shot_indices is not None
    query_pools, shot_pools = _pools(labels, class_names, query_indices, shot_indices)
    for name, queries, examples in zip(class_names, query_pools, shot_pools, strict=True):
        _require(name, "examples", have=len(examples), need=shots + (not separate))
        _require(name, "queries", have=len(queries), need=1)
    return tuple(
        _draw(i, class_names, ways, shots, seed, query_pools, shot_pools) for i in range(count)
    )


def _pools(
    labels, class_names, query_indices, shot_indices
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each class, the records that may be queries and those that may be shots."""
    everything = np.arange(len(labels))
    if query_indices is None:
        queries = everything if shot_indices is None else np.setdiff1d(everything, shot_indices)
    else:
        queries = np.unique(np.asarray(query_indices, dtype=np.int64))
    if shot_indices is None:
        examples = everything if query_indices is None else np.setdiff1d(everything, queries)
    else:
        examples = np.unique(np.asarray(shot_indices, dtype=np.int64))
    separate = query_indices is not None or shot_indices is not None
    if separate and (shared := np.intersect1d(queries, examples)).size:
        raise DataError(
            f"{len(shared)} photos, such as record {shared[0]}, are both shots and queries; "
            "separate them"
        )
    by_class = range(len(class_names))
    return [queries[labels[queries] == c] for c in by_class], [
        examples[labels[examples] == c] for c in by_class
    ]


def _require(name: str, purpose: str, have: int, need: int) -> None:
    if have < need:
        raise DataError(
            f"class {name!r} has {have} photos for {purpose}, need {need}; add photos or ask "
            "fewer shots"
        )


def _draw(i, class_names, ways, shots, seed, query_pools, shot_pools) -> Episode:
    total = len(class_names)
    lap, place = divmod(i, total)
    asked = int(np.random.default_rng([seed, 0, lap]).permutation(total)[place])
    rng = np.random.default_rng([seed, 1, i])
    others = np.delete(np.arange(total), asked)
    chosen = [asked, *rng.choice(others, ways - 1, replace=False).tolist()]
    query = int(rng.choice(query_pools[asked]))
    examples = []
    for c in sorted(chosen):
        pool = shot_pools[c][shot_pools[c] != query]
        examples += [
            Example(int(j), class_names[c]) for j in rng.choice(pool, shots, replace=False)
        ]
    shuffled = tuple(examples[j] for j in rng.permutation(len(examples)))
    return Episode(
        shuffled, Example(query, class_names[asked]), tuple(sorted(class_names[c] for c in chosen))
    )


def read_episode_csv(
    path: str | os.PathLike,
    root: str | os.PathLike,
    ways: int | None = None,
    shots: int | None = None,
) -> EpisodeFile:
    """Reads episodes in the published format: lines `{wnid}/{file},…,` whose last image is the
    query. An image's class is the folder that holds it, however deep it lies.

    Args:
      path: the CSV file.
      root: folder that holds the class folders; not looked into.
      ways, shots: classes of each episode and shots of each class; by default what the file's name
        says ("2_way_1_shot"), and anything where it says nothing.

    Raises:
      DataError: the file is missing, empty, or in another encoding than UTF-8 or UTF-16; a line is
        not in the format, has other classes or shots, or asks about an image that it shows.
    """
    path, root = pathlib.Path(path), pathlib.Path(root)
    if not os.path.isfile(path):
        raise DataError(f"no episode file {path}")
    said = re.search(r"(\d+)_?-?way_?-?(\d+)_?-?shot", path.name)
    ways = ways or (int(said[1]) if said else None)
    shots = shots or (int(said[2]) if said else None)
    position: dict[str, int] = {}
    episodes = []
    try:
        rows = list(csv.reader(read_text(path, DataError).splitlines()))
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file ({error})") from error
    for number, row in enumerate(rows, 1):
        images = [image.strip() for image in row if image.strip()]
        if images:
            where = f"{path}, line {number}"
            episodes.append(_parse_line(images, position, where))
            _check_episode(episodes[-1], ways, shots, where)
    if not episodes:
        raise DataError(f"{path} holds no episodes")
    return EpisodeFile(tuple(episodes), tuple(str(root / image) for image in position))


def _parse_line(images: list[str], position: dict[str, int], where: str) -> Episode:
    examples = []
    for image in images:
        place = posixpath.normpath(image.replace("\\", "/"))  # "./a/b" and "a//b" are "a/b"
        folder, _, file = place.rpartition("/")
        class_name = composed(folder.rpartition("/")[2])
        if not (class_name.strip(".") and file):
            hint = "; columns are parted by commas" if ";" in image or "\t" in image else ""
            raise DataError(f"{where}: {image!r} is not of the form class/file{hint}")
        examples.append(Example(position.setdefault(place, len(position)), class_name))
    *shots, query = examples
    indices = [shot.index for shot in shots]
    if len(set(indices)) < len(indices):
        twice = next(i for i in indices if indices.count(i) > 1)
        raise DataError(
            f"{where} shows {images[indices.index(twice)]!r} twice, which is one shot less; take "
            "one of them out"
        )
    if any(";" in image for image in images) and len(images) < 2:
        raise DataError(f"{where}: one image alone; columns are parted by commas")
    if query.class_name not in {shot.class_name for shot in shots}:
        raise DataError(f"{where}: no shot shows the query's class {query.class_name}")
    if query.index in {shot.index for shot in shots}:
        raise DataError(f"{where}: the query {images[-1]!r} is one of the shots")
    return Episode(tuple(shots), query, tuple(sorted({shot.class_name for shot in shots})))


def _check_episode(episode: Episode, ways: int | None, shots: int | None, where: str) -> None:
    if ways is not None and len(episode.class_names) != ways:
        raise DataError(
            f"{where} shows {len(episode.class_names)} classes "
            f"({', '.join(episode.class_names[:4])}), but episodes of {ways} ways are asked for"
        )
    counts = collections.Counter(shot.class_name for shot in episode.shots)
    for name, count in counts.items():
        if shots is not None and count != shots:
            raise DataError(
                f"{where} has {count} shots of {name}, but episodes of {shots} shots a class are "
                "asked for; give the file of that many shots"
            )


def rename_classes(file: EpisodeFile, names: Mapping[str, str]) -> EpisodeFile:
    """The episodes with names in place of ids.

    Raises:
      DataError: an id has no name, or two classes of one episode have the same.
    """

    def renamed(example: Example) -> Example:
        if example.class_name not in names:
            raise DataError(f"class {example.class_name} has no name; give it one")
        return dataclasses.replace(example, class_name=names[example.class_name])

    episodes = []
    for number, episode in enumerate(file.episodes, 1):
        shots, query = tuple(map(renamed, episode.shots)), renamed(episode.query)
        class_names = tuple(sorted({shot.class_name for shot in shots}))
        if len(class_names) < len(episode.class_names):
            raise DataError(
                f"episode {number} has {len(episode.class_names)} classes but only the names "
                f"{class_names}; rename one"
            )
        episodes.append(Episode(shots, query, class_names))
    return EpisodeFile(tuple(episodes), file.paths)


def join_episode_files(files: Sequence[EpisodeFile], count: int) -> list[EpisodeFile]:
    """The first `count` episodes of each file, all over the same `paths`: those that these episodes
    show, each once.
    """
    position: dict[str, int] = {}
    joined = []
    for file in files:
        move = lambda e, file=file: dataclasses.replace(
            e, index=position.setdefault(file.paths[e.index], len(position))
        )
        joined.append(
            [
                dataclasses.replace(ep, shots=tuple(map(move, ep.shots)), query=move(ep.query))
                for ep in file.episodes[:count]
            ]
        )
    return [EpisodeFile(tuple(episodes), tuple(position)) for episodes in joined]


class EpisodePhotos:
    """The photos of an episode file as a source; their classes are the episodes' business, so
    labels are -1.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, paths: Sequence[str]):
        """Looks for the files.

        Raises:
          DataError: some are missing.
        """
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(paths)} photos of the episodes are missing, first "
                f"{missing[0]}; check the folder"
            )
        self.paths = tuple(paths)

    @functools.cached_property
    def labels(self) -> Int[np.ndarray, " photos"]:
        """-1 for each photo."""
        return np.full(len(self.paths), -1, np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        return {"image": decode_image(path), "label": -1, "path": path}


def read_class_names(path: str | os.PathLike) -> dict[str, str]:
    """The first name of each WordNet id in a file of lines "id<tab>name, name, …"."""
    lines = read_text(path, DataError).splitlines()
    pairs = (line.split("\t", 1) for line in lines if "\t" in line)
    return {composed(wnid.strip()): names.split(",")[0].strip() for wnid, names in pairs}
