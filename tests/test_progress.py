"""Progress bars: in a terminal, in a kernel of `rtl`, and nowhere."""

import io

import pytest

from rtl_utils import progress


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "progress"
    monkeypatch.setenv(progress.FILE, str(path))
    return path


def test_a_bar_of_a_headless_kernel_is_a_line_in_a_file(file, capfd):
    assert progress.read(file) == ""
    with progress.Bar(3, "backbones", "runs") as bar:
        assert progress.read(file) == "backbones 0/3 runs"
        bar.update(3)
        assert progress.read(file) == "backbones 3/3 runs"
        bar.message("a worker process died")
    assert progress.read(file) == ""
    assert capfd.readouterr() == ("", "a worker process died\n")


def test_a_bar_says_the_share_that_is_done_and_the_time_left(file, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Bar(4, "transfers", "runs") as bar:
        now[0] = 60
        bar.begun(0.4)  # two runs, each at a fifth
        assert progress.read(file) == "transfers 0/4 runs, 10%, about 9:00 left"
        now[0] = 120
        bar.update()
        assert progress.read(file) == "transfers 1/4 runs, 25%, about 6:00 left"
        now[0] = 180
        bar.update(3)
        assert progress.read(file) == "transfers 4/4 runs"


def test_a_bar_in_a_terminal_says_what_is_done_of_runs_that_run(capfd):
    with progress.Bar(4, "transfers", "runs") as bar:
        bar.begun(0.4)
    assert "10%]" in capfd.readouterr().err


def test_a_bar_does_not_write_more_often_than_someone_reads(file, monkeypatch):
    written = []
    monkeypatch.setattr(progress, "_put", lambda path, text: written.append(text))
    for _ in progress.track(range(100_000), "epochs"):
        pass
    assert written[-2:] == ["epochs 100000/100000 it", ""]
    assert len(written) < 100


def test_a_file_that_cannot_be_written_stops_no_training(monkeypatch):
    monkeypatch.setenv(progress.FILE, "/dev/null/progress")
    assert list(progress.track([1, 2], "epochs")) == [1, 2]


def test_a_bar_elsewhere_is_tqdms(capfd):
    assert list(progress.track("ab", "letters")) == ["a", "b"]
    with progress.Bar(2, "jobs", "runs") as bar:
        bar.update(2)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "jobs: 100%" in shown.err


def test_a_disabled_bar_shows_nothing(capfd, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert list(progress.track("ab", "letters")) == ["a", "b"]
    with progress.Bar(2, "jobs") as bar:
        bar.message("said")
    assert capfd.readouterr() == ("", "said\n")


def test_a_loop_that_is_left_closes_its_bar(file):
    for _ in progress.track([1, 2, 3], "epochs"):
        break
    assert progress.read(file) == ""


def test_cells_are_a_line_now_and_then_where_there_is_no_terminal(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    cells = progress.Cells("05_a")
    for second in range(3_700):
        now[0] = second
        cells.show(min(second // 100, 9), 10, "transfers 1/8" if second > 60 else "")
    cells.close("done")
    lines = progress.sys.stderr.getvalue().splitlines()
    assert lines[:2] == ["05_a: starts", "05_a: cell 1 of 10 (0:05)"]
    assert lines[-2].startswith("05_a: cell 10 of 10, transfers 1/8 (60:5")
    assert lines[-1] == "05_a: done (61:39)"
    assert 60 < len(lines) < 90


def test_cells_without_stderr_say_nothing(monkeypatch):
    monkeypatch.setattr(progress.sys, "stderr", None)
    cells = progress.Cells("05_a")
    cells.show(1, 2, "")
    cells.close("done")
