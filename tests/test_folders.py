"""Where the course lies."""

from pathlib import Path

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


def test_file_is_written_whole_where_a_link_leads(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    with folders.whole_file(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.txt", "target.txt"]


def test_file_stays_as_it_was_if_writing_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write():
        with folders.whole_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("path", ["/dev/null", "/", "."])
def test_device_or_folder_is_not_replaced(path):
    with pytest.raises(ValueError, match="name a file to write"), folders.whole_file(Path(path)):
        pass
