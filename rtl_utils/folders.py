"""Where the course lies: the checkout with its notebooks, or the folder that the user stands in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The checkout of the course: the folder above the package, else the current one.

    Returns:
        None if neither is one.
    """
    for folder in (_PACKAGE.parent, Path.cwd()):
        if (folder / "notebooks").is_dir() and _is_ours(folder / "pyproject.toml"):
            return folder
    return None


def root() -> Path:
    """Folder in which `data/` and `runs/` lie: the checkout, or else the current folder."""
    return checkout() or Path.cwd()


def notebooks() -> Path:
    """Folder of the course's notebooks.

    Raises:
        FileNotFoundError: outside a checkout, since the installed package holds no notebooks.
    """
    found = checkout()
    if found is None:
        raise FileNotFoundError(
            "the notebooks are part of the course's checkout, not of the installed package: "
            f"run this command in the checkout; {Path.cwd()} is not one"
        )
    return found / "notebooks"


def data_folders() -> list[Path]:
    """Folders where data sets are looked for: the one that RTL_DATA names, then `data/`."""
    named = [Path(os.environ["RTL_DATA"])] if os.environ.get("RTL_DATA") else []
    return [*named, root() / "data"]


def _is_ours(project: Path) -> bool:
    """Whether a pyproject.toml is that of the course, not that of the user's own work."""
    try:
        return 'name = "rtl-utils"' in project.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: inside, write to the path that is given.

    Args:
        path: of the file; its folder is made, and a link leads to the file that it names.

    Raises:
        ValueError: for what is there and no file, such as a folder or a device.
    """
    path = path.resolve()
    if not path.name or (path.exists() and not path.is_file()):
        raise ValueError(f"name a file to write; {str(path)!r} is none")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk names no file
        error.filename2 = None
        raise
    finally:
        temporary.unlink(missing_ok=True)
