"""Where the course lies."""

import pytest

from rtl_utils import folders


def test_this_checkout_is_found():
    assert folders.checkout() == folders.root()
    assert (folders.notebooks() / "03_cifar_baselines.ipynb").is_file()


def test_outside_a_checkout_a_sentence_says_where_notebooks_are(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_PACKAGE", tmp_path / "site-packages" / "rtl_utils")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('name = "my-own-project"')
    assert folders.root() == tmp_path
    with pytest.raises(FileNotFoundError, match="part of the course's checkout"):
        folders.notebooks()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "rtl-utils"\n')
    assert folders.notebooks() == tmp_path / "notebooks"


def test_data_are_looked_for_where_rtl_data_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RTL_DATA", str(tmp_path / "my data"))
    assert folders.data_folders() == [tmp_path / "my data", folders.root() / "data"]
    monkeypatch.setenv("RTL_DATA", "")
    assert folders.data_folders() == [folders.root() / "data"]
