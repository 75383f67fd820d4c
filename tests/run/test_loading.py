"""Where things come from: paths, assets and folders inside them; which type products run in."""

import jax.numpy as jnp
import pytest

from tests.tiny_config import get_config
from tests.tiny_models import write_clip
from v2l_jax import experiment
from v2l_jax.errors import AssetError, DataError
from v2l_jax.run import loading
from v2l_jax.tasks import few_shot


def test_locate_finds_paths_assets_and_folders_inside_assets(asset, tmp_path):
    assert loading.locate(str(tmp_path)) == tmp_path
    assert loading.locate("pizza-steak-sushi") == asset("pizza-steak-sushi")
    assert loading.locate("pizza-steak-sushi/test/sushi").is_dir()
    with pytest.raises(AssetError, match="no-such-asset"):
        loading.locate("no-such-asset")


def test_matmul_dtype(monkeypatch):
    assert loading.matmul_dtype("float32") == jnp.float32
    for has, expected in ((True, jnp.bfloat16), (False, jnp.float32)):
        monkeypatch.setattr(loading, "cpu_has", lambda flag, has=has: has)
        assert loading.matmul_dtype("auto") == expected


def test_held_out_photos_are_disjoint_and_shots_and_queries_too(asset):
    config = get_config()
    photos = loading.photos(config)
    paths = [
        {source[i]["path"] for i in range(len(source))}
        for source in (photos.train, photos.held_out)
    ]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 75
    first = len(photos.train)
    for episode in few_shot.make_episodes(config, photos, 2, 1):
        assert all(shot.index < first for shot in episode.shots) and episode.query.index >= first


def test_more_ways_than_classes_is_said(asset):
    with pytest.raises(DataError, match="5-way"):
        few_shot.make_episodes(get_config(), loading.photos(get_config()), 5, 1)


def test_a_tower_of_the_hub_is_called_by_its_repository(tmp_path, monkeypatch):
    snapshot = write_clip(tmp_path / "snapshots" / "32bd64288804d66eefd0ccbe215aa642df71cc41")
    monkeypatch.setattr(loading, "locate", lambda address: snapshot)
    config = experiment.default()
    config.tower = "clip:hf://openai/clip-vit-large-patch14"
    assert loading.image_text_tower(config).name == "openai/clip-vit-large-patch14"
    config.tower = f"clip:{snapshot}"
    assert loading.image_text_tower(config).name == snapshot.name
