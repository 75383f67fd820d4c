"""Properties that every episode must have, and the published file format."""

import math
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from scipy import stats

from v2l_jax.data.episodes import (
    EpisodePhotos,
    Example,
    draw_episodes,
    join_episode_files,
    read_class_names,
    read_episode_csv,
    rename_classes,
)
from v2l_jax.data.splits import split_held_out
from v2l_jax.errors import DataError

NAMES = ("cat", "dog", "pizza", "steak", "sushi")
LABELS = np.repeat(np.arange(5), [30, 25, 40, 22, 28])
SHOTS, QUERIES = split_held_out(LABELS, 0.5, seed=0)


def draw(ways=3, shots=2, count=500, seed=0, **sets):
    sets = sets or {"query_indices": QUERIES, "shot_indices": SHOTS}
    return draw_episodes(LABELS, NAMES, ways, shots, count, seed, **sets)


@pytest.mark.parametrize("ways, shots", [(2, 1), (2, 5), (5, 3)])
def test_every_episode_is_well_formed(ways, shots):
    for episode in draw(ways, shots):
        assert (
            list(episode.class_names) == sorted(set(episode.class_names))
            and len(episode.class_names) == ways
        )
        assert Counter(e.class_name for e in episode.shots) == dict.fromkeys(
            episode.class_names, shots
        )
        assert len({e.index for e in episode.shots}) == ways * shots
        assert episode.query.class_name in episode.class_names
        assert {e.index for e in episode.shots} <= set(
            SHOTS.tolist()
        ) and episode.query.index in QUERIES
        for example in (*episode.shots, episode.query):
            assert NAMES[LABELS[example.index]] == example.class_name


def test_no_photo_is_both_shot_and_query_over_all_episodes():
    episodes = draw(5, 3)
    assert not {e.index for ep in episodes for e in ep.shots} & {ep.query.index for ep in episodes}


def test_queries_are_balanced_over_classes_and_uniform_over_photos():
    episodes = draw(2, 1)
    assert Counter(ep.query.class_name for ep in episodes) == dict.fromkeys(NAMES, 100)
    cats = [i for i in QUERIES if LABELS[i] == 0]
    asked = Counter(ep.query.index for ep in draw(2, 1, count=3000) if ep.query.class_name == "cat")
    assert stats.chisquare([asked[i] for i in cats]).pvalue > 1e-3
    pairs = Counter(ep.class_names for ep in episodes)
    assert len(pairs) == math.comb(5, 2) and min(pairs.values()) > 25


def test_the_answer_does_not_hide_in_the_order():
    """The position of the first shot of the query's class is what a random order of N·K gives."""
    episodes = draw(2, 3, count=2000)
    last_is_answer = np.mean([ep.shots[-1].class_name == ep.query.class_name for ep in episodes])
    first_is_answer = np.mean([ep.shots[0].class_name == ep.query.class_name for ep in episodes])
    first_is_first_name = np.mean([ep.query.class_name == ep.class_names[0] for ep in episodes])
    for share in (last_is_answer, first_is_answer, first_is_first_name):
        assert abs(share - 0.5) < 0.045  # four standard errors


def test_deterministic_by_seed_and_stable_under_count():
    assert draw(count=40) == draw(count=80)[:40]
    assert draw(count=40) != draw(count=40, seed=1)


def test_one_index_set_implies_the_other():
    assert draw(query_indices=QUERIES) == draw() == draw(shot_indices=SHOTS)


def test_without_sets_the_query_is_no_shot_of_its_episode():
    labels = [0, 0, 1, 1]
    for episode in draw_episodes(labels, ("a", "b"), 2, 1, 50, 0):
        assert episode.query.index not in {e.index for e in episode.shots}


def test_unlabelled_records_are_never_drawn():
    labels = [-1, 0, 0, 1, 1, -1]
    used = {
        e.index
        for ep in draw_episodes(labels, ("a", "b"), 2, 1, 50, 0)
        for e in (*ep.shots, ep.query)
    }
    assert used == {1, 2, 3, 4}


def test_a_class_with_too_few_photos_is_named():
    with pytest.raises(DataError, match="class 'steak' has 11 photos for examples, need 12"):
        draw(2, 12)
    with pytest.raises(DataError, match="class 'sushi' has 0 photos for queries, need 1"):
        draw(query_indices=[i for i in QUERIES if LABELS[i] != 4])
    with pytest.raises(DataError, match="class 'b' has 1 photos for examples, need 2"):
        draw_episodes([0, 0, 1], ("a", "b"), 2, 1, 1, 0)


def test_bad_requests():
    with pytest.raises(DataError, match="6-way episodes need 6 classes; there are 5"):
        draw(6, 1)
    with pytest.raises(DataError, match="1 photos, such as record 7, are both shots and queries"):
        draw(query_indices=[7, *QUERIES], shot_indices=[7, *SHOTS])


def test_published_csv(tmp_path):
    lines = [
        "n01/n01_1.JPEG,n02/n02_5.JPEG,n02/n02_6.JPEG,n01/n01_2.JPEG,n02/n02_9.JPEG,",
        "n03/x.JPEG,n01/n01_1.JPEG,n03/y.JPEG,",
        "",
    ]
    (tmp_path / "2_way.csv").write_text("\n".join(lines))
    published = read_episode_csv(tmp_path / "2_way.csv", "photos")
    first, second = published.episodes
    assert first.class_names == ("n01", "n02") and second.class_names == ("n01", "n03")
    assert [e.class_name for e in first.shots] == ["n01", "n02", "n02", "n01"]
    assert first.query == Example(4, "n02") and published.paths[4] == "photos/n02/n02_9.JPEG"
    assert second.shots[1] == first.shots[0] and len(published.paths) == 7


def test_bad_csv(tmp_path):
    with pytest.raises(DataError, match="no episode file"):
        read_episode_csv(tmp_path / "absent.csv", tmp_path)
    cases = {
        "": "holds no episodes",
        "a/1.jpg,broken,": "line 1: 'broken' is not",
        "a/1.jpg,b/2.jpg,": "no shot shows",
    }
    for content, message in cases.items():
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(DataError, match=message):
            read_episode_csv(tmp_path / "bad.csv", tmp_path)


def _file(tmp_path, name, *lines):
    (tmp_path / name).write_text("\n".join(lines))
    return read_episode_csv(tmp_path / name, tmp_path)


def test_published_classes_get_their_names(tmp_path):
    (tmp_path / "lemmas.txt").write_text(
        "n02\tzebra finch, bird\nn01\ttench, Tinca tinca\nn03\ttench\n"
    )
    names = read_class_names(tmp_path / "lemmas.txt")
    assert names == {"n02": "zebra finch", "n01": "tench", "n03": "tench"}
    file = _file(tmp_path, "a.csv", "n02/a.jpg,n01/b.jpg,n01/c.jpg,")
    (episode,) = rename_classes(file, names).episodes
    assert episode.class_names == ("tench", "zebra finch")  # sorted by name, not by id
    assert [e.class_name for e in (*episode.shots, episode.query)] == [
        "zebra finch",
        "tench",
        "tench",
    ]
    with pytest.raises(DataError, match="class n02 has no name"):
        rename_classes(file, {"n01": "tench"})
    with pytest.raises(DataError, match="episode 1 has 2 classes but only the names"):
        rename_classes(_file(tmp_path, "b.csv", "n03/a.jpg,n01/b.jpg,n01/c.jpg,"), names)


def test_joined_files_share_their_photos(tmp_path):
    one = _file(tmp_path, "one.csv", "a/1.jpg,b/2.jpg,a/3.jpg,", "a/9.jpg,b/2.jpg,b/9.jpg,")
    two = _file(tmp_path, "two.csv", "b/2.jpg,a/4.jpg,b/5.jpg,")
    joined = join_episode_files([one, two], count=1)
    assert [len(file.episodes) for file in joined] == [1, 1] and joined[0].paths == joined[1].paths
    assert [p.removeprefix(str(tmp_path)) for p in joined[0].paths] == [
        "/a/1.jpg",
        "/b/2.jpg",
        "/a/3.jpg",
        "/a/4.jpg",
        "/b/5.jpg",
    ]
    for before, after in ((one, joined[0]), (two, joined[1])):
        shown = lambda f: [
            (f.paths[e.index], e.class_name) for e in (*f.episodes[0].shots, f.episodes[0].query)
        ]
        assert shown(before) == shown(after)


def test_photos_of_episodes_are_a_source(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    photos = EpisodePhotos([str(tmp_path / "a.png")])
    assert len(photos) == 1 and photos.labels.tolist() == [-1] and photos.class_names == ()
    np.testing.assert_array_equal(photos[0]["image"], image)
    with pytest.raises(
        DataError, match=r"1 of 2 photos of the episodes are missing, first .*b\.png"
    ):
        EpisodePhotos([str(tmp_path / "a.png"), str(tmp_path / "b.png")])


LINES = ("warm/0.png,cold/1.png,cold/13.png", "warm/2.png,cold/3.png,warm/14.png")


def test_the_class_is_the_folder_that_holds_the_image(tmp_path):
    deep = _file(tmp_path, "2_way_1_shot.csv", *(line.replace(",", ",test/") for line in LINES))
    assert [e.class_names for e in deep.episodes] == [("cold", "warm")] * 2
    deep = _file(tmp_path, "windows.csv", *(line.replace("/", "\\") for line in LINES))
    assert deep.episodes[0].query.class_name == "cold"
    assert deep.paths[0] == str(tmp_path / "warm/0.png")


@pytest.mark.parametrize(
    "name, lines, message",
    [
        ("2_way_1_shot.csv", ["a/0.png,a/1.png,a/2.png"], "line 1 shows 1 classes .*2 ways"),
        ("2_way_1_shot.csv", [LINES[0], "a/1,a/2,b/1,b/2,a/3"], "line 2 has 2 shots of a.*1 shots"),
        ("2_way_1_shot.csv", ["a/1,b/2,c/3,a/9"], "shows 3 classes"),
        ("5-way-3-shot.csv", [LINES[0]], "5 ways"),
        ("any.csv", ["a/1,b/2,a/1"], "line 1: the query 'a/1' is one of the shots"),
    ],
)
def test_ways_shots_and_query_are_what_the_file_says(name, lines, message, tmp_path):
    with pytest.raises(DataError, match=message):
        _file(tmp_path, name, *lines)


def test_ways_and_shots_asked_for_are_checked(tmp_path):
    (tmp_path / "any.csv").write_text("\n".join(LINES))
    assert len(read_episode_csv(tmp_path / "any.csv", tmp_path, 2, 1).episodes) == 2
    for ways, shots in ((5, 1), (2, 3)):
        with pytest.raises(DataError, match="asked for"):
            read_episode_csv(tmp_path / "any.csv", tmp_path, ways, shots)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_class(encoding, tmp_path):
    (tmp_path / "marked.csv").write_text("\n".join(LINES), encoding=encoding)
    file = read_episode_csv(tmp_path / "marked.csv", tmp_path)
    assert file.episodes[0].class_names == ("cold", "warm")
    (tmp_path / "lemmas.txt").write_text("n02\tcafé\n", encoding=encoding)
    assert read_class_names(tmp_path / "lemmas.txt") == {"n02": "café"}


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "latin.csv").write_bytes("warm/0.png,café/1.png,café/2.png".encode("latin-1"))
    with pytest.raises(DataError, match="latin.csv, line 1: byte 0xe9 is not UTF-8"):
        read_episode_csv(tmp_path / "latin.csv", tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("a/1,b/2,./a/1", "the query './a/1' is one of the shots"),
        ("a/1,b/2,a//1", "one of the shots"),
        ("a/1,a/1,b/2,b/3,a/4", "shows 'a/1' twice"),
        ("a/1;b/2;a/3", "columns are parted by commas"),
        ("../1,b/2,b/3", "not of the form class/file"),
    ],
)
def test_images_are_the_same_however_their_path_is_written(line, message, tmp_path):
    with pytest.raises(DataError, match=message):
        _file(tmp_path, "any.csv", line)


def test_accents_of_classes_are_composed(tmp_path):
    file = _file(tmp_path, "any.csv", "cafe\u0301/1,tea/2,caf\u00e9/3")
    assert file.episodes[0].class_names == ("caf\u00e9", "tea")
    assert file.paths[0] == str(tmp_path / "cafe\u0301/1")


def test_names_that_no_file_can_have_are_missing_files():
    """Found by `make fuzz`: the system says ENAMETOOLONG, which pathlib passes on."""
    with pytest.raises(DataError, match="1 of 1 photos of the episodes are missing"):
        EpisodePhotos(["a/" + "x" * 300])
    with pytest.raises(DataError, match="no episode file"):
        read_episode_csv("x" * 300, "photos")
