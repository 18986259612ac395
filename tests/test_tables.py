"""Tables: which rows make which line, what must not be averaged, and where rows come from."""

import json
import math
import re
import warnings
from itertools import permutations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from small_rows import AROUND, shortcut_rows, values_of

from rtl_utils import claims, folders, paper, provenance, statistics, tables
from rtl_utils.distances import Matrix
from rtl_utils.statistics import FEWEST, mean_interval
from rtl_utils.store import FINAL

MADE = {"device": "cpu", "processor": "A", "torch": "2.6.0", "threads": 1, "package": "0.2.0"}


@pytest.fixture
def rows():
    """Final accuracies of two methods, three seeds, one missing; an epoch that must not count."""
    final = [("ft", 0, 0.5), ("ft", 1, 0.7), ("ft", 2, 0.6), ("ut", 2, 0.9), ("ut", 0, 0.4)]
    pair = {"source": "a", "target": "b", "metric": "val_accuracy", "epoch": FINAL}
    records = [pair | {"method": m, "seed": s, "value": v} for m, s, v in final]
    epoch = records[0] | {"epoch": 3, "value": 99.0}
    loss = records[0] | {"metric": "val_loss", "value": 1.5}
    return pd.DataFrame([*records, epoch, loss])


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout; returns the folder of its results."""
    monkeypatch.setattr(folders, "checkout", lambda: tmp_path)
    return tmp_path / "results"


def test_pairs_are_of_one_seed_and_final(rows):
    found = tables.paired(rows, "val_accuracy", "ut", "ft")
    assert found.a == [0.4, 0.9]
    assert found.b == [0.5, 0.6]


def test_two_runs_of_one_seed_make_no_pair(rows):
    with pytest.raises(ValueError, match="duplicate"):
        tables.paired(pd.concat([rows, rows]), "val_accuracy", "ut", "ft")


def test_groups_without_a_common_seed_make_no_pair(rows):
    with pytest.raises(ValueError, match="no seed and pair of tasks has val_loss of both"):
        tables.paired(rows, "val_loss", "ut", "ft")


def test_summary_has_a_row_per_group_and_a_column_per_metric(rows):
    metrics = {
        "val_accuracy": tables.Column("accuracy (%)", 100, 1),
        "val_loss": ("loss", 1, 2),
    }
    table = tables.summary(rows, metrics, by=["method"])
    assert list(table.index) == ["ft", "ut"]
    assert list(table.columns) == ["accuracy (%)", "loss"]
    assert table.loc["ft", "accuracy (%)"] == mean_interval([0.5, 0.7, 0.6]).text(1, 100)
    assert table.loc["ft", "loss"] == "1.50"
    assert table.loc["ut", "loss"] == ""
    both = tables.summary(rows, metrics, by=["source", "method"])
    assert list(both.index) == [("a", "ft"), ("a", "ut")]


def test_summary_of_no_rows_has_its_columns(rows):
    table = tables.summary(rows[:0], {"val_loss": tables.Column("loss")}, by=["method"])
    assert table.empty
    assert list(table.columns) == ["loss"]


def test_summary_keeps_a_group_whose_name_is_missing(rows):
    named = rows.assign(n_train=[20.0] * 4 + [math.nan] * 3)
    column = {"val_accuracy": tables.Column("accuracy")}
    assert len(tables.summary(named, column, by=["n_train"])) == 2


# --- provenance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("column", provenance.MIXING)
def test_rows_of_different_makes_are_not_averaged_silently(rows, column):
    values = [MADE[column]] * 4 + ["zz"] * 3
    made = rows.assign(**MADE).assign(**{column: values})
    message = f"{column}: {MADE[column]}, zz"
    with pytest.warns(tables.MixedRowsWarning, match=message):
        tables.summary(made, {"val_accuracy": tables.Column("accuracy")}, by=["method"])
    with pytest.warns(tables.MixedRowsWarning, match=message):
        tables.paired(made, "val_accuracy", "ut", "ft")


def test_every_mixed_column_is_named_in_one_sentence(rows):
    made = rows.assign(**MADE)
    made.loc[0, ["torch", "device"]] = ["2.13.0", "cuda"]
    found = tables.mixed(made)
    assert "device: cpu, cuda" in found
    assert "torch: 2.13.0, 2.6.0" in found
    assert "package" not in found


def test_rows_of_one_make_give_no_warning(rows):
    made = rows.assign(**MADE, commit=["x"] * 3 + ["y"] * 4, date=range(7), seconds=range(7))
    unknown = made.assign(**dict.fromkeys(MADE))  # what was not recorded differs from nothing
    for same in (rows, made, pd.concat([made, unknown.astype(made.dtypes.torch)])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tables.summary(same, {"val_accuracy": tables.Column("accuracy")}, by=["method"])


def test_rows_that_a_table_does_not_show_give_no_warning(rows):
    made = rows.assign(**MADE)
    made.loc[made.metric == "val_loss", "device"] = "cuda"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.summary(made, {"val_accuracy": tables.Column("accuracy")}, by=["method"])


def exported(seed, **columns):
    """Rows of one seed as `exports.write_rows` writes them."""
    made = MADE | {"commit": "1234567890", "clean": True, "python": "3.11.7"}
    line = {"run": f"{seed:016d}", "source": "a", "target": "b", "method": "ft", "seed": seed}
    line |= {"metric": "val_accuracy", "value": 0.5, "date": f"2026-01-0{seed + 1}T10:00:00"}
    return pd.DataFrame([line | made | columns, line | made | columns | {"metric": "val_loss"}])


def test_stored_rows_come_seed_after_seed_with_their_keys_as_texts(checkout):
    folder = checkout / "name"
    folder.mkdir(parents=True)
    for seed in (0, 2, 10):
        n_train = None if seed else 20
        exported(seed % 9, n_train=n_train).to_csv(folder / f"seed-{seed}.csv", index=False)
    found = tables.stored("name")
    assert found.seed.tolist() == [0, 0, 2, 2, 1, 1]
    assert found.run[0] == "0" * 16
    assert (found.epoch == FINAL).all()
    assert found.n_train.isna().tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("inside", [True, False])
def test_a_sweep_that_was_not_run_has_no_rows(checkout, monkeypatch, inside):
    if not inside:
        monkeypatch.setattr(folders, "checkout", lambda: None)
    assert tables.stored("name").empty
    assert tables.stored_manifest("name") == {}


def test_manifest_says_what_made_the_rows():
    rows = pd.concat([exported(0), exported(1, torch="2.7.0")])
    lost = pd.DataFrame({"run": ["2" * 16], "n_train": [float("nan")]})
    said = tables.manifest("name", rows, "python sweep.py name", "a note", lost)
    found = json.loads(json.dumps(said))
    assert found["command"] == "python sweep.py name"
    assert found["commits"] == ["1234567890"]
    assert found["torch"] == ["2.6.0", "2.7.0"]
    assert found["python"] == ["3.11.7"]
    assert found["processor"] == ["A"]
    assert found["cores"] is None  # this is no processor "A"
    assert found["threads"] == ["1"]
    assert (found["first_date"], found["last_date"]) == (
        "2026-01-01T10:00:00",
        "2026-01-02T10:00:00",
    )
    assert found["runs_per_seed"] == {"0": 1, "1": 1}
    assert found["rows_per_seed"] == {"0": 2, "1": 2}
    assert found["diverged"] == [{"run": "2" * 16, "n_train": None}]
    assert found["note"] == "a note"


def test_origin_names_commits_versions_machine_and_days(checkout):
    rows = pd.concat([exported(0), exported(1, clean=False)])
    found = tables.origin("name", rows)
    for said in (
        "`results/name/`, 2 runs, seeds 0 to 1",
        "commit 1234567 with uncommitted changes",
        "rtl-utils 0.2.0, torch 2.6.0, Python 3.11.7",
        "Machine: A",
        "2026-01-01 to 2026-01-02",
    ):
        assert said in found


def test_origin_says_how_long_the_trainings_took_and_counts_no_cores_of_a_gpu(checkout):
    rows = pd.concat(
        [exported(seed, device="cuda", processor="B", seconds=70.0) for seed in (0, 1)]
    )
    found = tables.origin("name", rows)
    assert "Machine: B; device cuda" in found
    assert (
        "(UTC); 2 min of training, summed over runs." in found
    )  # of each run once, not of each row


def test_origin_of_rows_without_provenance_is_the_manifests_note(checkout):
    (checkout / "name").mkdir(parents=True)
    (checkout / "name" / "manifest.json").write_text('{"note": "By earlier versions."}')
    rows = exported(0, **dict.fromkeys([*MADE, "commit", "clean", "python", "date"]))
    assert tables.origin("name", rows).endswith("seed 0 only. By earlier versions.")
    assert "not recorded" in tables.origin("another", rows)


# --- the shortcut test ---------------------------------------------------------------------------


def test_inherited_flips_are_those_beyond_a_clean_backbone():
    biased = shortcut_rows({"scratch": 0.1, "ft": 0.4}, {"scratch": 0.6, "ft": 0.7})
    clean = shortcut_rows({"scratch": 0.1, "ft": 0.15}, {"scratch": 0.6, "ft": 0.7})
    stuck = biased[biased.metric == "flip_rate"].assign(metric="train_accuracy")
    stuck["value"] = np.where(stuck.seed < 2, 0.25, 0.9)
    both = pd.concat([biased, stuck]).assign(source_shortcut="ball on k")
    rows = pd.concat([both, clean.assign(source_shortcut=None)])
    table = tables.shortcut_columns(rows, ["method"])
    assert table.loc["ft", "inherited flips, points"] == "25.0"  # no spread, no interval
    assert table.loc["ft", "flips minus scratch, points"].startswith("30.0 [")
    assert table.loc["scratch", "flips minus scratch, points"] == ""
    assert table.loc["ft", "flip rate, %"].startswith("40.0")
    assert table.loc["ft", "stuck runs"] == "2 of 6 [4, 78] %"
    without = tables.shortcut_columns(both, ["method"])
    assert "inherited flips, points" not in without


def test_shortcut_test_stands_beside_the_clean_transfer_where_there_is_one():
    line = {"source": "a", "target": "b", "seed": 0, "epoch": FINAL}
    values = {"clean_accuracy": 0.7, "ball_accuracy": 0.2, "flip_rate": 0.6}
    tested = [
        line | {"method": m, "source_shortcut": "ball on k", "metric": metric, "value": v}
        for m in ("ut", "counter")
        for metric, v in values.items()
    ]
    clean = line | {"method": "ut", "source_shortcut": None}
    clean |= {"metric": "val_accuracy", "value": 0.75}
    table = tables.shortcut_test_table(pd.DataFrame([*tested, clean]))
    assert table.loc[("a", "b", "ut")].tolist() == ["75.0", "70.0", "20.0", "60.0"]
    assert table.loc[("a", "b", "counter")].tolist() == ["", "70.0", "20.0", "60.0"]
    assert tables.shortcut_test_table(pd.DataFrame(tested)).shape == (2, 3)


def test_matrix_table_has_sources_in_rows_and_an_empty_diagonal():
    far = np.add.outer([1, 2, 4], [0.1, 0.4, 0.2])
    matrix = Matrix("coupled", ("a", "b", "c"), far, far - 0.5, far + 0.5)
    table = tables.matrix_table(matrix, digits=1)
    assert table.loc["a", "c"] == "1.2 [0.7, 1.7]"
    assert table.loc["c", "a"] == "4.1 [3.6, 4.6]"
    assert table.loc["b", "b"] == ""


# --- the tables of the results page --------------------------------------------------------------


@pytest.fixture
def transfers():
    """Three seeds of fine-tuning and uncoupled transfer on a pair of the paper, all conditions."""
    lines = []
    for seed in range(3):
        for method in ("backbone", "ft", "ut"):
            for source in (None, "ball on kangaroo"):
                for target in (None, "ball on all"):
                    for n_train in (50, None):
                        lines.append(
                            {
                                "source": "herbivores",
                                "target": "flowers",
                                "method": method,
                                "seed": seed,
                                "source_shortcut": source,
                                "target_shortcut": target,
                                "n_train": n_train,
                                "lr": 0.01,
                                "epochs": 50,
                                "value": 0.5 + 0.1 * (method == "ut") + 0.01 * seed,
                            }
                        )
    metrics = ("val_accuracy", "clean_accuracy", "ball_accuracy", "flip_rate", "ball_share")
    frames = [pd.DataFrame(lines).assign(metric=metric, epoch=FINAL) for metric in metrics]
    return pd.concat(frames, ignore_index=True)


def test_conditions_are_chosen_by_their_shortcuts(transfers):
    clean = tables.without_shortcut(transfers)
    assert clean.source_shortcut.isna().all()
    assert clean.target_shortcut.isna().all()
    assert clean.n_train.isna().all()
    everywhere = tables.shortcut_everywhere(transfers)
    assert set(everywhere.source_shortcut) == {"ball on kangaroo"}
    assert set(everywhere.target_shortcut) == {"ball on all"}
    at_test = tables.shortcut_at_test(transfers)
    assert at_test.target_shortcut.isna().all()
    assert set(at_test.method) == {"ft", "ut"}


def test_tables_stand_beside_the_papers_numbers(transfers):
    usual = transfers[(transfers.method != "backbone") & transfers.n_train.isna()]
    clean = tables.clean_table(tables.without_shortcut(usual))
    assert clean.loc[("herbivores", "flowers", "ft"), "paper, %"] == "73.6"
    target = tables.target_table(tables.shortcut_everywhere(usual))
    assert target.loc[("herbivores", "flowers", "ut"), "paper, %"] == "70.2"
    other = usual.assign(source="elsewhere")
    assert "paper, %" not in tables.clean_table(tables.without_shortcut(other))


def test_backbones_are_told_apart_by_their_shortcut(transfers):
    backbones = transfers[transfers.n_train.isna() & transfers.target_shortcut.isna()]
    table = tables.backbone_table(backbones)
    assert set(table.index) == {("herbivores", "none"), ("herbivores", "ball on kangaroo")}
    assert table["validation, %"].str.startswith("51.0").all()


def test_controls_are_told_apart_by_what_they_change(transfers):
    usual = transfers[transfers.n_train.isna()]
    biased = usual[usual.source_shortcut.notna()]
    slow = biased.assign(lr=0.001)
    short = biased.assign(epochs=10)
    table = tables.control_table(pd.concat([usual, slow, short]))
    assert list(table.index.get_level_values("control")) == [
        "FT, clean source",
        "FT, a tenth of the learning rate",
        "FT, only the epochs of UT at τ = 1",
    ]
    assert not tables.control_rows(pd.concat([usual, slow, short])).duplicated().any()


def test_controls_are_compared_with_fine_tuning_seed_by_seed(transfers):
    usual = transfers[transfers.n_train.isna()]
    biased = usual[usual.source_shortcut.notna() & (usual.method == "ft")]
    slow = biased.assign(lr=0.001, value=biased.value - 0.1)
    scratch = biased[biased.seed < 2].assign(method="scratch", value=biased.value + 0.05)
    every = pd.concat([usual, slow, scratch])
    other = every.assign(source="carnivores")
    table = tables.control_table(pd.concat([every, other]))
    assert table.index.tolist() == [
        (source, "flowers", control)
        for source in ("herbivores", "carnivores")
        for control in ("FT, clean source", "FT, a tenth of the learning rate", "from scratch")
    ]
    assert table.seeds.tolist() == ["3", "3", "2"] * 2
    minus = table["minus FT, points"].tolist()
    assert [text.split(" ")[0] for text in minus] == ["0.0", "-10.0", "5.0"] * 2
    of_ut = table["UT minus it, points"].tolist()
    assert [text.split(" ")[0] for text in of_ut] == ["10.0", "20.0", "5.0"] * 2
    assert tables.control_table(usual[usual.source_shortcut.notna()]).empty


@pytest.mark.parametrize(("beyond", "says"), [(0.0, "yes"), (0.02, "yes"), (0.035, "no")])
def test_the_papers_difference_is_compared_with_the_mean_of_three_runs(transfers, beyond, says):
    """The 95 % intervals reach 0.016 (mean), 0.026 (mean of three further runs) and 0.039 (one)."""
    ut, ft = (paper.value("herbivores", "flowers", f"ball_{m}_accuracy") for m in ("ut", "ft"))
    marked = tables.shortcut_everywhere(transfers)
    marked = marked[marked.method.isin(["ft", "ut"]) & marked.n_train.isna() & (marked.seed == 0)]
    spread = np.array([-0.015, -0.01, 0.0, 0.01, 0.015])
    of = {"ft": 0.5 + 0 * spread, "ut": 0.5 + ut - ft + beyond + spread}
    rows = pd.concat(
        marked[marked.method == method].assign(seed=seed, value=value)
        for method, values in of.items()
        for seed, value in enumerate(values)
    )
    (line,) = tables.paper_table(rows).reset_index().to_dict("records")
    assert line["the paper's table"] == "3 (shortcut on every image)"
    assert line["paper: UT - FT, points"] == "+12.9"
    assert line["compatible with ours"] == says
    (few,) = tables.paper_table(rows[rows.seed < 4]).to_dict("records")
    assert few["compatible with ours"] == ""
    assert tables.paper_table(rows.assign(source="elsewhere")).empty


def test_size_table_has_few_images_before_all(transfers):
    table = tables.size_table(tables.in_order(tables.shortcut_at_test(transfers)))
    assert list(table.index.get_level_values("images per class")) == ["50", "50", "all", "all"]
    assert list(tables.by_images(transfers)) == ["50", "all"]
    assert "backbone" not in set(tables.by_images(transfers)["all"].method)


def test_runs_of_another_length_are_kept_apart(transfers):
    longer = transfers[transfers.n_train == 50].assign(epochs=800)
    found = tables.by_images(pd.concat([transfers, longer]))
    assert list(found) == ["50, 50 epochs", "50, 800 epochs", "all"]
    assert set(found["50, 800 epochs"].epochs) == {800}


def test_fewer_steps_are_told_from_fewer_images():
    few, long, everything = 0.5 + AROUND, 0.3 + 2 * AROUND, 0.2 - AROUND
    rows = pd.concat(
        [
            values_of("ft", "flip_rate", few, n_train=20),
            values_of("ft", "flip_rate", long, n_train=20, epochs=114),
            values_of("ft", "flip_rate", everything),
            values_of("ut", "flip_rate", everything),
        ]
    )
    table = tables.steps_table(rows)
    assert table.index.tolist() == [("s", "t", "20", "ft")]
    assert table["fewer steps, points"].iloc[0].startswith("20.0 [")
    assert table["fewer images, points"].iloc[0].startswith("10.0 [")
    assert tables.steps_table(rows[rows.epochs == 20]).empty


def test_steps_are_compared_on_the_seeds_that_all_three_settings_have():
    long = 0.3 + AROUND
    few, everything = (np.append(0.5 + AROUND, 0.9), np.append(0.2 - AROUND, 0.9))
    rows = pd.concat(
        [
            values_of("ft", "flip_rate", few, n_train=20),
            values_of("ft", "flip_rate", long, n_train=20, epochs=114),
            values_of("ft", "flip_rate", everything),
            values_of("ut", "flip_rate", few, n_train=20),
            values_of("ut", "flip_rate", few[:1], n_train=20, epochs=114).assign(seed=9),
            values_of("ut", "flip_rate", everything),
        ]
    )
    table = tables.steps_table(rows)
    assert table.index.get_level_values("method").tolist() == ["ft"]
    assert table["seeds"].tolist() == [FEWEST]  # the sixth has no run with many steps
    assert table["20 epochs, %"].iloc[0].startswith("50.0 [")


def test_seeds_are_counted_where_groups_differ_in_them():
    rows = pd.concat(
        [
            values_of("scratch", "flip_rate", 0.1 + AROUND),
            values_of("ft", "flip_rate", 0.3 + AROUND),
            values_of("ut", "flip_rate", 0.3 + AROUND[:4]),
            values_of("ft", "flip_rate", 0.2 - AROUND[:3], source_shortcut=None),
        ]
    )
    table = tables.shortcut_columns(rows, ["method"])
    assert table["seeds"].to_dict() == {"scratch": "5", "ft": "5", "ut": "4"}
    assert table.loc["ft", "inherited flips, points"].endswith(") (3 seeds)")
    assert table.loc["ft", "flips minus scratch, points"].endswith("20.0")  # of all its seeds
    same = tables.shortcut_columns(rows[rows.method != "ut"], ["method"])
    assert "seeds" not in same


# --- which rows decide ---------------------------------------------------------------------------


def live_rows(seeds, source="digits-0-4", target="digits-5-9", dataset="digits"):
    """What a notebook trained: one metric of two methods, on a clean source and target."""
    columns = {"source": source, "target": target, "dataset": dataset}
    columns |= {"source_shortcut": None, "target_shortcut": None, "n_train": None}
    values = 0.5 + np.resize(AROUND, seeds)
    parts = [values_of(m, "val_accuracy", values, **columns) for m in ("ft", "ut")]
    return pd.concat(parts)


def test_verdicts_come_from_stored_rows_until_a_notebook_has_five_seeds():
    for seeds in range(1, 7):
        live = live_rows(seeds)
        rows = pd.concat([live.assign(epoch=0), live])  # a notebook's rows have its epochs
        found = tables.deciding(rows, tables.without_shortcut)
        if seeds >= FEWEST:
            assert found.rows.equals(live)  # a run counts once
            assert found.text == f"this notebook, seeds 0 to {seeds - 1}"
        else:
            assert found.text == f"results/digits, {tables.seeds_text(found.rows)}"
            assert found.rows.seed.nunique() >= FEWEST > seeds
            assert found.rows[["source_shortcut", "target_shortcut"]].isna().all(axis=None)


def test_other_tasks_than_the_stored_ones_are_not_decided():
    for columns in ({"target": "digits-0-4"}, {"dataset": "mine"}):
        found = tables.deciding(live_rows(2, **columns), tables.without_shortcut)
        assert found.rows.empty
        assert "nothing is stored for these tasks" in found.text
        assert claims.verdict_table([claims.Case("1", found.rows, "val_accuracy", "alike")]).empty


# --- the pages -----------------------------------------------------------------------------------

BIASED = "ball on 4"
CONDITIONS = [(BIASED, "ball on all"), (BIASED, None), (None, "ball on all"), (None, None)]
MEASURED = ("train_accuracy", "train_loss", "val_accuracy", "val_loss", "weight_length")
MEASURED += ("clean_accuracy", "ball_accuracy", "ball_share", "flip_rate", "capped_share")


def page_rows(dataset, methods, pairs, seed, metrics=MEASURED, **columns):
    """Random rows of every method and pair, as a sweep of one seed exports them."""
    usual = {"dataset": dataset, "seed": seed, "status": "done", "head": "shared"}
    usual |= {"width": "small", "lr": 0.01, "epochs": 20, "momentum": 0.9, "batch_size": 16}
    usual |= {"coupled_iterations": 2, "n_train": None} | MADE | columns
    draw = np.random.default_rng([seed, len(pairs), len(str(sorted(columns.items())))])
    lines = [
        usual
        | {"run": f"{dataset}{a}{b}{m}{seed}{columns}", "source": a, "target": b, "method": m}
        | {"metric": metric, "value": draw.uniform(0.2, 0.9)}
        for a, b in pairs
        for m in methods
        for metric in metrics
    ]
    return pd.DataFrame(lines)


def page_sweeps(seed):
    """Sweep -> rows of one seed, of every kind that a page has a section on."""
    digits = ("digits", ("before", "scratch", "ft", "ut", "ct", "iso", "counter"))
    on_digits = [("digits-0-4", "digits-5-9")]
    pairs = [("herbivores", "flowers"), ("carnivores", "flowers")]
    four = ("ft", "ut", "ft-frozen", "ut-frozen")
    papers = [("carnivores", "flowers"), ("herbivores", "flowers"), ("vehicles-1", "vehicles-2")]
    cifar = ("cifar100", ("before", "scratch", "fixed", "ft", "ut", "ut-mixture"), papers, seed)
    lengths = [{"n_train": 50}, {"n_train": 50, "epochs": 50}, {}]
    tests = [
        length | {"source_shortcut": source, "target_shortcut": None}
        for source in (BIASED, None)
        for length in lengths
    ]
    named = [dict(zip(("source_shortcut", "target_shortcut"), c, strict=True)) for c in CONDITIONS]
    own = [{"source_shortcut": source, "target_shortcut": None} for source in (BIASED, None)]
    rates = [where | {"lr": lr} for where in named for lr in (0.001, 0.01)]
    plain = [rate | {"width": "small-plain"} for rate in rates]
    made = {
        "digits": [page_rows(*digits, on_digits, seed, **c) for c in [*tests, *named]],
        "digits-methods": [page_rows(*digits, on_digits, seed, **c) for c in tests],
        "digits-frozen": [page_rows("digits", four, on_digits, seed, **c) for c in named],
        "digits-map": [page_rows("digits", four, on_digits, seed, **c) for c in rates]
        + [page_rows("digits", four[:2], on_digits, seed, **c) for c in plain],
        "table1": [page_rows(*cifar, **named[3])],
        "table3": [page_rows(*cifar, **named[0])],
        "salman": [page_rows(*cifar, **named[1], n_train=n) for n in (50, None)],
        "images": [page_rows(*cifar, **named[3], n_train=n) for n in (10, None)],
        "stuck": [page_rows("cifar100", four, papers[:1], seed, **named[0])],
        "cifar-pairs": [
            page_rows("cifar100", digits[1], pairs, seed, **c)
            for c in tests
            if c.get("n_train") and "epochs" not in c
        ],
    }
    for parts in made.values():
        on_cifar = parts[0].dataset.iloc[0] == "cifar100"
        where, dataset = (papers, "cifar100") if on_cifar else (on_digits, "digits")
        parts += [
            page_rows(dataset, ("backbone",), where, seed, **c).assign(target=None) for c in own
        ]
    three = ("scratch", "ft", "ut")
    synthetic = ("synthetic", three, [("source", "target")], seed, [*tables.VIEWS, *tables.LIME])
    made["synthetic"] = [
        page_rows(*synthetic, l1=l1, source_shortcut=None, target_shortcut=None)
        for l1 in (0.0, 0.002)
    ]
    first = made["synthetic"][0]
    backbone = first[(first.method == "ft") & (first.metric != "restored_loss")]
    made["synthetic"].append(backbone.assign(method="backbone", run=f"backbone {seed}", l1=0.002))
    return {
        name: pd.concat(parts).drop_duplicates(["run", "metric"]) for name, parts in made.items()
    }


def test_few_seeds_of_the_synthetic_experiment_have_no_bounds(docs, checkout):
    (checkout / "synthetic").mkdir(parents=True)
    page_sweeps(0)["synthetic"].to_csv(checkout / "synthetic" / "seed-0.csv", index=False)
    said = [item.verdict for item in docs("items").synthetic_items() if item.item == "Claim 5"]
    assert said
    assert all("undecided (1 seed)" in text and "at most" not in text for text in said)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rtl_utils.provenance.MixedRowsWarning")
def test_a_page_has_a_section_for_every_sweep_that_has_rows(docs, checkout):
    make, figures = docs("make"), docs("figures")
    for seed in range(FEWEST):
        for name, rows in page_sweeps(seed).items():
            (checkout / name).mkdir(parents=True, exist_ok=True)
            rows.to_csv(checkout / name / f"seed-{seed}.csv", index=False)
            (checkout / name / "manifest.json").write_text('{"command": "sweep"}')
    page = make.results_page()
    titles = re.findall("^## (.*)", page, re.M)
    expected = [
        "The paper, item by item",
        "The synthetic experiment",
        "CIFAR-100: the runs",
        "Cluttered digits: ",
        "When does transfer pay?",
        "Few images or few steps?",
        "Frozen BatchNorm statistics",
    ]
    expected += [
        "Where does a transfer stick?",
        "When does UT lead?",
        "Every method in the shortcut test",
        "Every method on the",
    ]
    for title, start in zip(titles, [*expected, "How these were made"], strict=True):
        assert title.startswith(start)
    for column in ("inherited flips, points", "flips minus scratch, points", "stuck runs"):
        assert column in page
    assert "nan" not in page
    assert page.count("carnivores | flowers |") == page.count("herbivores | flowers |") > 0
    assert "50 images per class, 50 epochs: flips, %" in docs("front").headline({})
    drawn = set(figures.pictures())
    plt.close("all")
    assert {*re.findall(r"\(([^)]*)\.png\)", page), "headline"} == drawn
    assert len({name for name in drawn if name.startswith("digits-map")}) == len(CONDITIONS)


@pytest.mark.filterwarnings("ignore::rtl_utils.provenance.MixedRowsWarning")
def test_a_run_of_two_sweeps_counts_once_and_the_pairs_come_as_in_the_paper(docs, checkout):
    biased = {"source_shortcut": BIASED, "target_shortcut": None}
    pairs = [("carnivores", "flowers"), ("vehicles-1", "vehicles-2")]
    for name, methods in (("table1", ("scratch", "ft")), ("salman", ("scratch", "ut"))):
        rows = page_rows("cifar100", methods, pairs, 0, **biased)
        rows.loc[rows.method == "scratch", "run"] = "one network for all sources"
        (checkout / name).mkdir(parents=True)
        rows.to_csv(checkout / name / "seed-0.csv", index=False)
    found = tables.course("cifar100")
    accuracy = found[found.metric == "val_accuracy"]
    assert list(dict.fromkeys(accuracy.source)) == ["vehicles-1", "carnivores"]
    for _, part in accuracy.groupby("source"):
        assert sorted(part.method) == ["ft", "scratch", "ut"]


def test_distances_at_the_papers_settings_are_shown_once_every_pair_has_them(checkout):
    pairs = list(permutations(paper.GAO_TASKS, 2))
    (checkout / "task-distances").mkdir(parents=True)
    for there in (pairs[:-1], pairs):
        rows = page_rows("cifar100", ("ft", "ut"), there, 0)
        rows.to_csv(checkout / "task-distances" / "seed-0.csv", index=False)
        shown = "task-distances" if there == pairs else "distances"
        assert tables.distance_sweeps() == (shown, "coupled-distances")


def test_coupled_and_uncoupled_paths_are_compared_at_the_same_settings():
    rows = tables.coupled_rows()
    settings = ["epochs", "partitions", "lr", "batch_size", "momentum", "width", "seed"]
    of = {name: rows[rows.method == name] for name in ("ut", "ct-iterated")}
    used = {name: set(map(tuple, part[settings].to_numpy())) for name, part in of.items()}
    assert used["ut"] == used["ct-iterated"] and len(used["ut"]) == 1
    assert rows[rows.method == "backbone"].epochs.nunique() == 1


@pytest.mark.filterwarnings("ignore::rtl_utils.provenance.MixedRowsWarning")
def test_the_overview_has_every_item_of_the_paper_and_its_links_lead_somewhere(docs):
    page = (folders.checkout() / "docs" / "results.md").read_text()
    overview = page.split("## The paper, item by item")[1].split("\n## ")[0]
    items = set(re.findall(r"^\| ((?:Table|Figure|Claim) \w+) \|", overview, re.M))
    assert {*(f"Figure {k}" for k in ("1", "2a", "2b", "2c", "3"))} <= items
    assert {"Table 3", *(f"Claim {k}" for k in range(1, 7))} <= items
    slug = docs("items")._slug
    for name, text in (("", page), ("distances.md", None)):
        text = text or (folders.checkout() / "docs" / name).read_text()
        anchors = {slug(title) for title in re.findall(r"^#+ (.*)", text, re.M)}
        linked = set(re.findall(rf"\]\({re.escape(name)}#([^)]*)\)", overview))
        assert linked and linked <= anchors


def test_a_page_without_rows_can_be_written(docs, checkout):
    make = docs("make")
    assert re.findall("^## (.*)", make.results_page(), re.M) == ["How these were made"]
    assert docs("front").headline(make.answer_tables(make.PASSING_SWEEPS)) == "No rows yet."
    assert docs("figures").pictures() == {}


# --- sentences of the pages ----------------------------------------------------------------------


def frozen_lines(says, claim_4):
    """Lines of the table of frozen statistics: condition -> verdict, and claim 4 in the first."""
    chosen = dict(zip(claims.CONDITIONS, says, strict=False))
    table = pd.DataFrame({"verdict": chosen})
    return table.assign(**{claims.CLAIM_4: [claim_4, *["reproduced"] * (len(table) - 1)]})


@pytest.mark.parametrize(
    ("says", "claim_4", "said", "not_said"),
    [
        (["reproduced", "reproduced"], "reproduced", "failure of optimisation", "not shown"),
        (["reproduced", "reproduced"], "undecided", "more often, is undecided there", "failure"),
        (["reproduced", "undecided"], "not reproduced", "is not reproduced there", "failure"),
        (["reproduced", "undecided"], "reproduced", "failure of optimisation", "alone"),
        (["reproduced", "undecided"], "undecided", 'clean target": undecided; "clean', "UT also"),
        (["reproduced"], "undecided", '"no shortcut": not run)', "UT also"),
        (["reproduced", "reproduced"], "undecided", "UT also leads with", "not shown"),
        (["undecided", "reproduced"], "reproduced", "do not decide", "failure"),
        (["not reproduced", "reproduced"], "reproduced", "UT does not lead", "failure"),
    ],
)
def test_conclusion_on_frozen_statistics_follows_its_verdicts(docs, says, claim_4, said, not_said):
    text = " ".join(docs("sections").frozen_conclusion(frozen_lines(says, claim_4)).split())
    assert said in text
    assert not_said not in text


@pytest.mark.parametrize(("kinds", "said"), [(1, "among the 5 most"), (4, "the most extreme of")])
def test_smallest_p_says_which_orders_can_decide(docs, kinds, said):
    text = docs("distance_page").smallest_p(kinds)
    assert "With 120 orders the smallest p is 0.008" in text
    assert said in text


def test_numbers_of_images_with_other_steps_are_not_to_be_compared(docs):
    differ = docs("sections").steps_differ
    few, everything = (values_of("ft", "flip_rate", AROUND, n_train=n) for n in (50, None))
    many = few.assign(epochs=50)
    assert "must not be compared" in differ(pd.concat([few, everything]))
    assert differ(pd.concat([few, many, everything])) == ""
    assert differ(few) == ""


def test_a_map_says_what_was_run_in_its_first_condition_only(docs):
    rows = pd.DataFrame(
        {
            "condition": [claims.CONDITIONS[0]] * 3 + [claims.CONDITIONS[1]],
            "momentum": [0.9, 0.0, 0.9, 0.9],
            "width": ["small", "small", "wide", "small"],
        }
    )
    crossed = docs("maps").crossed
    only = "Only the first condition was run with momentum 0 and network `wide`."
    assert crossed(rows) == only
    assert crossed(rows[:3]) == crossed(rows[[True, False, False, True]]) == ""


def map_of(checkout, rates, diverged=()):
    """The section of a map on two learning rates: (method, rate) -> training accuracy per seed."""
    rows = [
        values_of(method, metric, values, lr=rate, dataset="digits", momentum=0.9, run="1" * 16)
        for (method, rate), values in rates.items()
        for metric in ("train_accuracy", "val_accuracy")
    ]
    backbone = values_of("backbone", "val_accuracy", [0.9], run="1" * 16)
    (checkout / "stuck").mkdir(parents=True)
    pd.concat([*rows, backbone]).to_csv(checkout / "stuck" / "seed-0.csv", index=False)
    lost = [
        values_of(method, "", [0.0], lr=rate, momentum=0.9).to_dict("records")
        for method, rate in diverged
    ]
    said = {"diverged": [run for runs in lost for run in runs]}
    (checkout / "stuck" / "manifest.json").write_text(json.dumps(said))


def test_a_map_says_where_runs_are_stuck_and_where_they_diverge(docs, checkout):
    fine = [0.6, 0.8]
    rates = {("ft", 0.01): fine, ("ut", 0.01): fine, ("ft", 0.1): [0.2, 0.6], ("ut", 0.3): fine}
    map_of(checkout, rates, [("ft", 0.3), ("ut", 0.1)])
    section = docs("maps").map_section("stuck")
    said = "Of 3 cells, FT has stuck runs in 1 and diverged ones in 1, UT has stuck runs in 0 and"
    assert said in " ".join(section.split())
    cells = section.split("Of 3 cells")[1]
    assert "| 0.1 | 40 |  | 40 |  | 1 of 2 | 0 of 1, 1 diverged |" in cells
    assert "| 0.3 |  | 70 |  | 70 | 0 of 1, 1 diverged | 0 of 2 |" in cells
    where = "FT is stuck with learning rate 0.1; at the usual learning rate of 0.01, FT has stuck"
    assert f"{where} runs in 0 of 1:" in " ".join(cells.split())
    assert "| 0.01 |" not in cells


def test_a_map_without_stuck_runs_says_so(docs, checkout):
    map_of(checkout, {("ft", 0.01): [0.6], ("ut", 0.01): [0.7]})
    assert "No run is stuck, and none diverged." in docs("maps").map_section("stuck")


def test_both_pages_judge_each_method_by_its_longer_sweep(docs, checkout):
    usual = {"epochs": 20, "lr": 0.01, "head": "shared", "n_train": None}
    for name, methods in (("digits", {"ft": 5, "ut": 2}), ("digits-methods", {"ft": 3, "ut": 3})):
        rows = [values_of(m, "flip_rate", AROUND[:n], **usual) for m, n in methods.items()]
        (checkout / name).mkdir(parents=True)
        pd.concat(rows).assign(run=name).to_csv(checkout / name / "seed-0.csv", index=False)
    (judged,) = docs("sections").settings_of("digits-methods").values()
    assert judged.groupby("method").run.unique().map(list).to_dict() == {
        "ft": ["digits"],
        "ut": ["digits-methods"],
    }


def test_counter_examples_are_counted_where_they_were_trained(docs):
    flips = {"scratch": 0.1, "ft": 0.3, "ut": 0.5}
    clean = {"scratch": 0.6, "ft": 0.7, "ut": 0.5}
    without = shortcut_rows(flips, clean)
    with_it = shortcut_rows(flips | {"counter": 0.2}, clean | {"counter": 0.7})
    found = docs("front").orderings([without, with_it])
    assert found["UT flips more than FT"] == "2 of 2"
    assert found["of all transfers that train, counter-examples flip least"] == "1 of 1"


# --- texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "text"),
    [([3, 3], "seed 3 only"), ([2, 0, 1], "seeds 0 to 2"), ([0, 4], "seeds 0, 4")],
)
def test_seeds_as_text(seeds, text):
    assert tables.seeds_text(pd.DataFrame({"seed": seeds})) == text


@pytest.mark.parametrize(("texts", "text"), [("A", "A"), ("AB", "A and B"), ("ABC", "A, B and C")])
def test_lists_as_prose(texts, text):
    assert tables.listed(texts) == text


def test_fewest_flips_come_first_within_each_pair_of_tasks():
    flips = {  # (target, method) -> flip rates of two seeds, from a biased source
        ("z", "ft"): (0.5, 0.7),
        ("z", "ut"): (0.9, 0.1),  # 0.5 on average
        ("a", "ut"): (0.3, 0.3),
        ("a", "before"): None,  # never tested
        ("a", "ft"): (0.2, 0.3),
    }
    lines = []
    for (target, method), rates in flips.items():
        for seed in (1, 0):
            usual = {"source": "s", "target": target, "method": method, "seed": seed}
            lines.append(usual | {"source_shortcut": None, "metric": "flip_rate", "value": 0.0})
            biased = usual | {"source_shortcut": "ball"}
            lines.append(biased | {"metric": "clean_accuracy", "value": 0.8})
            if rates:
                lines.append(biased | {"metric": "flip_rate", "value": rates[seed]})
    rows = pd.DataFrame(lines)
    found = tables.fewest_flips_first(rows)
    order = [*dict.fromkeys(zip(found.target, found.method, strict=True))]
    assert order == [("z", "ut"), ("z", "ft"), ("a", "ft"), ("a", "ut"), ("a", "before")]
    assert list(found) == list(rows)
    assert found.sort_index().equals(rows)  # nothing else changes


def test_shared_seeds_are_those_of_every_group():
    rows = pd.DataFrame({"n_train": [20, 20, None, None], "seed": [0, 1, 1, 2]})
    assert tables.shared_seeds(rows, ["n_train"]).seed.tolist() == [1, 1]


def test_markdown_has_the_index_first():
    table = pd.DataFrame({"x": ["1", ""]}, index=pd.Index(["a", "b"], name="method"))
    assert tables.markdown(table) == "| method | x |\n| --- | --- |\n| a | 1 |\n| b |  |"


def test_methods_are_shown_by_their_label():
    assert tables.label("ut") == "uncoupled transfer"
    assert tables.label("backbone") == "backbone"


def test_a_backbone_that_has_not_learned_the_shortcut_is_named_and_not_counted(docs):
    shares = {"learned": 0.9, "ignores it": 0.2}
    rows = pd.concat(
        values_of(method, metric, [value] * 2, source=source)
        for source, share in shares.items()
        for method, metric, value in (("backbone", "ball_share", share), ("ft", "flip_rate", 0.1))
    )
    clean = values_of("backbone", "ball_share", [0.2], source="learned", source_shortcut=None)
    rows = pd.concat([rows, clean])
    text = " ".join(docs("sections").unlearned_text(rows).split())
    assert "less than 50 %" in text and text.endswith("here the backbone of ignores it (20 %).")
    assert docs("sections").unlearned_text(rows[rows.source == "learned"]) == ""
    assert set(docs("front").with_shortcut(rows).source) == {"learned"}


def test_the_answer_in_short_counts_what_the_rows_show(docs, checkout):
    """On the digits UT flips more, and the flips of UT alone are inherited."""
    usual = {"dataset": "digits", "epochs": 20, "momentum": 0.9, "batch_size": 16}
    flips = {("ft", True): 0.1, ("ft", False): 0.1, ("ut", True): 0.4, ("ut", False): 0.1}
    rows = pd.concat(
        values_of(
            method,
            "flip_rate",
            mean + AROUND * (1 + biased * (2 if method == "ut" else 1)),
            source_shortcut="ball on 4" if biased else None,
            head="shared",
            source_epochs=20,
            **usual,
        )
        for (method, biased), mean in flips.items()
    )
    rows = rows.assign(run=[f"{k:016x}" for k in range(len(rows))])
    (checkout / "digits").mkdir(parents=True)
    rows.to_csv(checkout / "digits" / "seed-0.csv", index=False)
    text = " ".join(docs("front").in_short().split())
    assert "for fine-tuning in 0 of 1 and uncoupled transfer in 1 of 1 settings" in text
    assert "is shown in 0 of 1 settings, that it flips more in 1. Only" in text
    assert "CIFAR-100:" not in text


def before(metric, target, *values):
    return values_of("before", metric, values, target=target)


def test_claim_2_says_where_the_clean_accuracy_is_at_chance_as_well(docs):
    chance = (0.19, 0.2, 0.21, 0.2, 0.2)
    rows = pd.concat(
        [
            before("clean_accuracy", "near", *chance),
            before("clean_accuracy", "far", *(value + 0.2 for value in chance)),
            before("clean_accuracy", "few", 0.2),
        ]
    )
    sections = docs("sections")
    text = " ".join(sections.untransferred_text(rows).split())
    assert "there is 20.0, 40.0 and 20.0 %" in text
    assert "at chance as well on 1 of 2: there claim 2 says little" in text
    assert sections.clean_text(sections.clean_before(rows[rows.target == "far"])) == ""
    assert "own tasks" in sections.untransferred_text(rows[:0])


def test_claim_1_on_all_pairs_at_once_takes_the_largest_p(docs):
    def pair(target, lead):
        return pd.concat(
            values_of(method, "val_accuracy", mean + AROUND * spread, target=target)
            for method, mean, spread in (("ft", 0.5, 1), ("ut", 0.5 + lead, 2))
        ).assign(source_shortcut=None)

    alike, apart = pair("t", 0.0), pair("u", 0.02)
    of_one = [
        statistics.evidence(
            np.subtract(*tables.paired(rows, "val_accuracy", "ut", "ft")), "alike", claims.ALIKE
        ).p
        for rows in (alike, apart)
    ]
    text = docs("sections").every_pair_text(pd.concat([alike, apart]))
    assert of_one[0] < of_one[1] and f"{of_one[1]:.2g}. The sweep" in " ".join(text.split())
    assert docs("sections").every_pair_text(alike) == ""


def test_a_verdict_that_another_adjustment_would_change_is_named(docs):
    def losses(restored):
        parts = [
            values_of(method, metric, level + (metric == "restored_loss") * AROUND * factor)
            for method, mean, factor in (("scratch", 0.5, 1), ("ft", restored, 2), ("ut", 0.5, 3))
            for metric, level in (("val_loss", 0.1), ("restored_loss", mean))
        ]
        return tables.with_rise(pd.concat(parts))

    synthetic = docs("synthetic")
    for restored, named in ((0.483, True), (0.3, False)):
        models = {"without the lasso": losses(restored), "with the lasso": losses(0.5)}
        text = " ".join(synthetic.narrower_text(models, claims.rise_tables(models)).split())
        assert ("another one for fine-tuning (rise, without the lasso)" in text) is named
