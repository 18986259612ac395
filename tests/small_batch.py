"""A small sweep of real trainings, and `rtl batch` on it in a process of its own."""

import json
import os
import subprocess
import sys

import pandas as pd
import small_notebooks
import yaml

# five images per class for one epoch: less than a second, with a biased backbone
PARAMETERS = """
dataset = "digits"  # images
seeds = [0]  # of the runs
epochs = 1  # of each training
taus = [1]  # the target alone
n_train = 5  # images per class
batch_size = 5  # images per step
lr = 0.01  # learning rate
momentum = 0.9  # of SGD
device = "cpu"  # where
out = "runs"  # folder of results
"""
CHECK = "import os\nimport time\nfrom rtl_utils.settings import check\nsettings = check(globals())"
TRAIN = "rows = settings.run(settings.runs('scratch', 'ft', biased=True, n_train=5))"
PRINT = "print(os.environ['LOKY_MAX_CPU_COUNT'], os.environ.get('CUDA_VISIBLE_DEVICES'))"


def write(folder, *further, grid=None, name="small", train=TRAIN, **keys):
    """A notebook, with further cells after the training, and a sweep of it: its file."""
    folder.mkdir(parents=True, exist_ok=True)
    small_notebooks.write(
        folder / "09_small.ipynb", CHECK, train, *further, PRINT, parameters=PARAMETERS
    )
    content = {"title": "A small sweep", "notebook": "09_small.ipynb"}
    content |= {"grid": {"seeds": [0, 1, 2, 3]} if grid is None else grid} | keys
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def start(*arguments, environment=None, **options):
    """`rtl` with these arguments as a running process."""
    command = [sys.executable, "-m", "rtl_utils.cli", *map(os.fspath, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, env=os.environ | (environment or {}), **streams)


def rtl(*arguments, **options):
    """`rtl` when it has ended."""
    process = start(*arguments, **options)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def executed(out, sweep="small"):
    """Seeds of the executed notebooks of a sweep -> their paths."""
    found = {}
    for path in (out / "batch" / sweep).glob("*.ipynb"):
        if not path.name.endswith(".partial.ipynb"):
            (line,) = [
                line
                for cell in json.loads(path.read_text())["cells"]
                if "injected-parameters" in cell["metadata"].get("tags", [])
                for line in cell["source"]
                if line.startswith("seeds")
            ]
            found[json.loads(line.split("=")[1])[0]] = path
    return found


RUNS_PER_SEED = {"backbone", "scratch", "ft"}
MADE = ["commit", "clean", "date", "seconds"]  # what differs from one training to the next


def rows_of(out, *options):
    """What `rtl results` writes, without what differs from one training to the next."""
    path = out / "rows.csv"
    done = rtl("results", path, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(path, dtype={"run": str}).drop(columns=MADE)


def assert_complete(rows, seeds):
    """Every run of every seed once, with all its values once."""
    assert not rows.duplicated(["run", "metric"]).any()
    runs = rows.drop_duplicates("run").groupby("seed").method.agg(sorted)
    assert runs.to_dict() == {seed: sorted(RUNS_PER_SEED) for seed in seeds}
