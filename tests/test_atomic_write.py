"""Files that are there whole or not at all."""

import pytest

from v2l_jax.atomic_write import atomic_write


def test_takes_the_name_when_the_block_ends(tmp_path):
    path = tmp_path / "made" / "rows.npz"
    with atomic_write(path) as draft:
        draft.write_text("new")
        assert draft.suffix == ".npz" and draft.parent == path.parent and not path.exists()
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="disk"), atomic_write(path) as draft:
        draft.write_text("half")
        raise RuntimeError("disk")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
