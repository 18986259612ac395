"""The `rtl` command as a user calls it, in a process of its own."""

import json
import re
import subprocess
import sys

import nbformat
import numpy as np


def rtl(*arguments, **environment):
    import os

    return subprocess.run([sys.executable, "-m", "rtl_utils.cli", *map(str, arguments)], capture_output=True, text=True, env=os.environ | environment)


def test_run_leaves_notebook_and_a_page_that_asks_for_nothing_from_outside(tmp_path):
    small = ["-p", "seeds", "[0]", "-p", "epochs", "5", "-p", "n_train", "10", "-p", "out", str(tmp_path / "runs")]
    done = rtl("run", "--notebook", "03", "--out", tmp_path / "latest", *small)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "latest" / "index.html") in done.stdout
    page = (tmp_path / "latest" / "index.html").read_text()
    figures = [
        output
        for cell in nbformat.read(tmp_path / "latest" / "03_cifar_baselines.ipynb", as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert page.count("data:image/png;base64,") == len(figures) >= 3
    assert page.count("<table") >= 3
    assert not re.search(r"""(src|href)=["']?https?:|<script|@import|url\(""", page)


def test_bad_input_is_one_sentence_and_no_traceback(tmp_path):
    cases = {
        ("run", "--notebook", "17"): "no notebook starts with '17'",
        ("run", "--notebook", "05", "-p", "seedz", "[0]"): "'seedz' is not a parameter of 05_ut_vs_ft",
        ("run", "--notebook", "05", "--dataset", "imagenet"): "invalid choice: 'imagenet'",
    }
    for arguments, message in cases.items():
        failed = rtl(*arguments, "--out", tmp_path)
        assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr, failed.stderr


def test_a_failing_notebook_names_its_error_and_keeps_what_it_did(tmp_path):
    failed = rtl("run", "--notebook", "05", "--out", tmp_path, "-p", "epochs", "0", "-p", "out", str(tmp_path / "runs"))
    assert failed.returncode == 1
    assert "ValueError: epochs must be a whole number, 1 or more; got 0" in failed.stderr and "Traceback" not in failed.stderr.split("rtl: ")[-1]
    assert (tmp_path / "05_ut_vs_ft.partial.ipynb").exists() and not (tmp_path / "05_ut_vs_ft.ipynb").exists()


def test_pack_writes_the_real_images_again(tmp_path, real_cifar100):
    done = rtl("data", "pack", tmp_path / "copy.npz", RTL_DATA=str(real_cifar100))
    assert done.returncode == 0, done.stderr
    with np.load(real_cifar100 / "cifar100.npz") as old, np.load(tmp_path / "copy.npz", allow_pickle=False) as new:
        assert set(old) == set(new) and all((old[name] == new[name]).all() for name in old)


def test_parameters_are_json_or_text():
    from rtl_utils.cli import _value

    assert _value("[0, 1]") == [0, 1] and _value("flowers") == "flowers" and _value(json.dumps(None)) is None
