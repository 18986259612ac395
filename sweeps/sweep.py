"""The long runs behind docs/: `.venv/bin/python sweeps/sweep.py NAME`, NAME being one of SWEEPS.

Seeds run one after the other. When a seed is done, its rows are written to
results/NAME/seed-K.csv and what made them to results/NAME/manifest.json. Trained runs are cached in
the store, so a sweep that was stopped carries on where it was.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rtl_utils import distances, experiments, folders, paper, tables
from rtl_utils.coupled import Coupled
from rtl_utils.data import Shortcut
from rtl_utils.experiments import Run
from rtl_utils.methods import METHODS
from rtl_utils.migration import migrate
from rtl_utils.runs import class_names
from rtl_utils.store import Store
from rtl_utils.training import Sgd, epochs_of

DIGITS = ("digits-0-4", "digits-5-9")
BASICS = ("scratch", "ft", "fixed", "ut")
FROZEN = ("ft", "ut", "ft-frozen", "ut-frozen")
TEN = Sgd(epochs=10)
TWENTY = Sgd(epochs=20)
STEPS = 800  # of 20 epochs of all the digits' images: few images are trained as long, too
RATES = (0.001, 0.003, 0.01, 0.03)


class Sweep(NamedTuple):
    """A sweep.

    Args:
        runs: seed -> the runs of that seed.
        seeds: how many it has by default, from 0.
    """

    runs: Callable[[int], list[Run]]
    seeds: int


def digits(seed: int) -> list[Run]:
    """The runs of notebooks 03 to 05 on the digits.

    The ball at test time, after a biased and after a clean source; the ball on every target image;
    controls. Seeds 0 to 9 have all of it. From seed 10 on there are no equal steps, and with the
    ball on every image only what `digits_frozen` has too.
    """
    lengths = [(20, TWENTY), (None, TWENTY)]
    if seed < 10:
        lengths.append((20, _equal_steps(20)))
    at_test = [
        _digits(method, seed, shortcut, n_train=n_train, sgd=sgd)
        for shortcut, methods in (
            (True, ("before", *BASICS, "ut-mixture")),
            (False, ("before", *BASICS)),
        )
        for n_train, sgd in lengths
        for method in methods
    ]
    marked: dict[str, Any] = {"target_shortcut": Shortcut()}
    everywhere = [
        _digits(method, seed, shortcut=True, **marked)
        for method in (BASICS if seed < 10 else ("ft", "ut"))
    ]
    controls = [
        _digits("ft", seed, **marked),
        _digits("ft", seed, shortcut=True, sgd=replace(TWENTY, lr=0.001), **marked),
    ]
    if seed < 10:
        controls.append(_digits("ft", seed, True, sgd=replace(TWENTY, epochs=4), **marked))
    return at_test + everywhere + controls


def digits_methods(seed: int) -> list[Run]:
    """Every method in the shortcut test: a biased and a clean source, a clean target.

    With few images the main ones are trained for as many steps as with all, too. The iterated
    coupling, the costliest, has the biased source alone.
    """
    coupled = Coupled(partitions=5)
    clean = [
        method
        for method, record in METHODS.items()
        if not record.needs_knowledge and record.coupling != "iterated"
    ]
    main = ("scratch", "ft", "lp-ft", "wise-ft", "ut", "ct")
    settings: list[tuple[int | None, Sgd, bool, Iterable[str]]] = [
        (50, TWENTY, True, METHODS),
        (50, TWENTY, False, clean),
        (50, _equal_steps(50), True, main),
        (50, _equal_steps(50), False, ("scratch", "ft", "ut")),
        (None, TWENTY, True, METHODS),
        (None, TWENTY, False, clean),
    ]
    return [
        _digits(method, seed, shortcut, n_train=n_train, sgd=sgd, coupled=coupled)
        for n_train, sgd, shortcut, methods in settings
        for method in methods
    ]


def digits_frozen(seed: int) -> list[Run]:
    """Fine-tuning and uncoupled transfer with updated and with frozen BatchNorm statistics.

    In the paper's condition, the first one, also with few images and at a tenth of the rate.
    """
    conditions = _conditions()
    settings: list[tuple[int | None, float, list[tuple[bool, dict[str, Any]]]]] = [
        (None, 0.01, conditions),
        (50, 0.01, conditions[:1]),
        (None, 0.001, conditions[:1]),
    ]
    return [
        _digits(method, seed, shortcut, n_train=n_train, sgd=replace(TWENTY, lr=lr), **marked)
        for n_train, lr, wanted in settings
        for shortcut, marked in wanted
        for method in FROZEN
    ]


def digits_map(seed: int) -> list[Run]:
    """Where does either stick: learning rate x BatchNorm's state x momentum x width.

    All three conditions in the paper's setting; the first one without momentum, and with a wider
    network.
    """
    conditions = _conditions()
    return [
        _digits(
            method,
            seed,
            shortcut,
            width=name,
            sgd=replace(TWENTY, lr=lr, momentum=momentum),
            **marked,
        )
        for width, momentum, wanted in (
            ("small", 0.9, conditions),
            ("small", 0.0, conditions[:1]),
            ("wide", 0.9, conditions[:1]),
        )
        for shortcut, marked in wanted
        for lr in RATES
        for name, methods in ((width, FROZEN), (f"{width}-plain", FROZEN[:2]))
        for method in methods
    ]


def cifar_map(seed: int) -> list[Run]:
    """The same on the paper's pair whose fine-tuning stuck, as far as the hours allow."""
    pair = ("carnivores", "flowers")
    marked: dict[str, Any] = {"target_shortcut": Shortcut()}
    return [
        _cifar(pair, method, seed, width=width, sgd=replace(TWENTY, lr=lr), **marked)
        for lr in (0.01, 0.001)
        for width, methods in (("small", FROZEN), ("small-plain", FROZEN[:2]))
        for method in methods
    ]


def cifar_before(seed: int) -> list[Run]:
    """Our biased backbones on the targets of the paper's pairs, with nothing trained: claim 2."""
    return [_cifar(pair, "before", seed) for pair in paper.TABLES]


def cifar_methods(seed: int) -> list[Run]:
    """Every method on CIFAR-100, herbivores to flowers, with 50 and with all images per class."""
    pair = ("herbivores", "flowers")
    few = Coupled(iterations=2, partitions=5)
    many = Coupled(iterations=2, blocks=20, partitions=5)
    return [
        run
        for shortcut in (True, False)
        for run in (
            *_all_on_cifar(pair, seed, shortcut, n_train=50, sgd=TWENTY, coupled=few),
            *_all_on_cifar(pair, seed, shortcut, n_train=None, sgd=TEN, coupled=many),
        )
    ]


def cifar_pairs(seed: int) -> list[Run]:
    """Every method on the paper's three pairs, from a clean and from a biased source."""
    coupled = Coupled(iterations=2, partitions=5)
    return [
        run
        for pair in paper.TABLES
        for shortcut in (False, True)
        for run in _all_on_cifar(pair, seed, shortcut, n_train=50, sgd=TWENTY, coupled=coupled)
    ]


def distance_runs(seed: int) -> list[Run]:
    """Fine-tuning and uncoupled distance between the paper's five superclasses."""
    return [*_between_all("fine-tuning", seed), *_between_all("uncoupled", seed)]


def coupled_distance_runs(seed: int) -> list[Run]:
    """The coupled distance between the same superclasses, over 20 blocks of 25 x 25 pairs."""
    return _between_all("coupled", seed)


SWEEPS = {
    "digits": Sweep(digits, 20),
    "digits-methods": Sweep(digits_methods, 10),
    "digits-frozen": Sweep(digits_frozen, 20),
    "digits-map": Sweep(digits_map, 3),
    "cifar-map": Sweep(cifar_map, 1),
    "cifar-before": Sweep(cifar_before, 5),
    "cifar-methods": Sweep(cifar_methods, 5),
    "cifar-pairs": Sweep(cifar_pairs, 1),
    "distances": Sweep(distance_runs, 5),
    "coupled-distances": Sweep(coupled_distance_runs, 1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep from the command line; returns the number of runs that are missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=SWEEPS)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: all seeds of the sweep")
    parser.add_argument("--out", help="folder of the store (default: runs/sweep)")
    parser.add_argument("--device", default="cpu", help="where runs are trained (default: cpu)")
    parser.add_argument(
        "--export-only",
        action="store_true",
        help="write what the store has and train nothing",
    )
    parser.add_argument("--note", default="", help="what the manifest says beside the facts")
    chosen = parser.parse_args(arguments)
    sweep = SWEEPS[chosen.name]
    seeds = range(sweep.seeds) if chosen.seeds is None else chosen.seeds
    store = Store(chosen.out or folders.root() / "runs" / "sweep")
    if chosen.export_only:
        migrate(store)
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join([".venv/bin/python", "sweeps/sweep.py", *given])
    missing = 0
    for seed in seeds:
        runs = sweep.runs(seed)
        if not chosen.export_only:
            experiments.run(runs, store, chosen.device, keep_diverged=True)
        missing += write(chosen.name, seed, runs, store, command, chosen.note)
    return missing


def write(
    name: str, seed: int, runs: Sequence[Run], store: Store, command: str, note: str = ""
) -> int:
    """Write one seed's rows and the sweep's manifest, and say so.

    Args:
        name: of the sweep.
        seed: of the runs.
        runs: whose rows, and whose backbones' rows, are written.
        store: that has them.
        command: that made them.
        note: for the manifest.

    Returns:
        How many of the runs the store lacks.
    """
    folder = folders.root() / "results" / name
    path = folder / f"seed-{seed}.csv"
    backbones = [run.backbone() for run in runs if run.needs_backbone]
    wanted = list(dict.fromkeys([*runs, *backbones]))
    done = store.status(run.key for run in wanted)
    missing = sum(run.key not in done for run in wanted)
    if done:
        experiments.export(wanted, store, path)
        said = tables.manifest(name, tables.stored(name), command, note)
        with folders.whole_file(folder / "manifest.json") as temporary:
            temporary.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    found = f"{len(wanted) - missing} of {len(wanted)} runs"
    print(f"{name}, seed {seed}: {found} in {path}", flush=True)
    return missing


def _digits(method: str, seed: int, shortcut: bool = False, **fields: Any) -> Run:
    """A run on the pair of the digits; `shortcut`: whether class "4" of the source carries it."""
    usual: dict[str, Any] = {"sgd": TWENTY, "source_sgd": TWENTY}
    if shortcut:
        usual["source_shortcut"] = Shortcut(classes=("4",))
    return Run("digits", *DIGITS, method, seed, **(usual | fields))


def _equal_steps(n_train: int) -> Sgd:
    """Of as many steps with n_train images per class as with all."""
    classes = 5
    return replace(TWENTY, epochs=epochs_of(STEPS, classes * n_train, TWENTY.batch_size))


def _conditions() -> list[tuple[bool, dict[str, Any]]]:
    """Whether the source has the shortcut, and what the target has; the paper's condition first."""
    marked = {"target_shortcut": Shortcut()}
    return [(True, marked), (True, {}), (False, marked)]


def _cifar(
    pair: tuple[str, str], method: str, seed: int, shortcut: bool = True, **fields: Any
) -> Run:
    """A run on a pair of CIFAR-100; `shortcut`: whether the source's last class carries it."""
    usual: dict[str, Any] = {"sgd": TWENTY, "source_sgd": TWENTY}
    if shortcut:  # as in the paper
        usual["source_shortcut"] = Shortcut(classes=class_names("cifar100", pair[0])[-1:])
    return Run("cifar100", *pair, method, seed, **(usual | fields))


def _all_on_cifar(pair: tuple[str, str], seed: int, shortcut: bool, **fields: Any) -> list[Run]:
    """Every method on a pair of CIFAR-100; one that must know the shortcut needs one."""
    return [
        _cifar(pair, method, seed, shortcut, **fields)
        for method, record in METHODS.items()
        if shortcut or not record.needs_knowledge
    ]


def _between_all(kind: str, seed: int) -> list[Run]:
    """The runs of one kind of distance: 10 epochs from backbones of 20, 10 partitions."""
    return distances.pair_runs(
        paper.GAO_TASKS,
        kind,
        [seed],
        sgd=TEN,
        source_sgd=TWENTY,
        coupled=Coupled(iterations=2, blocks=20, partitions=10),
        partitions=10,
    )


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
