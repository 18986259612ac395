"""The long runs behind docs/: `.venv/bin/python docs/sweep.py NAME`, NAME being one of SWEEPS.

One seed after the other. A seed's rows are exported to docs/results/NAME/seed-K.csv when all are there; a seed that has its file is not run
again (delete the file to do so), and within a seed nothing that the store has is trained again, so a sweep that was stopped carries on.
"""

import argparse
from pathlib import Path

from rtl_utils import distances, experiments, methods, paper
from rtl_utils.coupled import Coupled
from rtl_utils.experiments import Run
from rtl_utils.results import Store
from rtl_utils.tasks import load
from rtl_utils.training import Sgd

HERE = Path(__file__).resolve().parent
TEN, TWENTY = Sgd(epochs=10), Sgd(epochs=20)


def digits_methods(seed: int) -> list[Run]:
    """Every method under Salman's test: the ball on one class of the source, a clean target, the ball at test time."""
    coupled = Coupled(partitions=5)
    return [run for n_train in (50, None) for run in _every_method("digits", ("digits-0-4", "digits-5-9"), seed, True, n_train, TWENTY, coupled)]


def cifar_methods(seed: int) -> list[Run]:
    """The same on CIFAR-100, herbivores to flowers: 20 epochs at 50 images a class, 10 epochs at 500."""
    pair = ("herbivores", "flowers")
    return [
        *_every_method("cifar100", pair, seed, True, 50, TWENTY, Coupled(iterations=2, partitions=5)),
        *_every_method("cifar100", pair, seed, True, None, TEN, Coupled(iterations=2, blocks=20, partitions=5)),
    ]


def cifar_pairs(seed: int) -> list[Run]:
    """Every method on the paper's three pairs at 50 images a class, from a clean backbone and from one that knows the ball."""
    coupled = Coupled(iterations=2, partitions=5)
    return [run for pair in paper.TABLES for ball in (False, True) for run in _every_method("cifar100", pair, seed, ball, 50, TWENTY, coupled)]


def distance_runs(seed: int) -> list[Run]:
    """Fine-tuning and uncoupled distance between the paper's five superclasses: 10 epochs from backbones of 20."""
    return [run for kind in ("fine-tuning", "uncoupled") for run in _between_all(kind, seed)]


def coupled_distance_runs(seed: int) -> list[Run]:
    """The coupled distance, 2 iterations of 10 epochs, 20 blocks of 25 x 25, 10 partitions."""
    return _between_all("coupled", seed)


SWEEPS = {
    "digits-methods": (digits_methods, 10),
    "cifar-methods": (cifar_methods, 3),
    "cifar-pairs": (cifar_pairs, 1),
    "distances": (distance_runs, 3),
    "coupled-distances": (coupled_distance_runs, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SWEEPS)
    parser.add_argument("--out", default="runs/sweep", help="folder of the store (default: runs/sweep)")
    arguments = parser.parse_args()
    runs_of, seeds = SWEEPS[arguments.name]
    store, folder = Store(arguments.out), HERE / "results" / arguments.name
    folder.mkdir(exist_ok=True)
    for seed in range(seeds):
        path = folder / f"seed-{seed}.csv"
        if not path.exists():
            runs = runs_of(seed)
            experiments.run(runs, store)
            store.export(path, [run.key for one in runs for run in (one, one.backbone())])
        print(path, flush=True)


def _between_all(kind: str, seed: int) -> list[Run]:
    fields = {"sgd": TEN, "source_sgd": TWENTY, "coupled": Coupled(iterations=2, blocks=20, partitions=10), "partitions": 10}
    return distances.pair_runs(paper.GAO_TASKS, kind, [seed], **fields)


def _every_method(dataset: str, pair: tuple[str, str], seed: int, ball: bool, n_train: int | None, sgd: Sgd, coupled: Coupled) -> list[Run]:
    marked = load(dataset, pair[0], seed).class_names[-1] if ball else None
    return [
        Run(dataset, *pair, method, seed, source_ball=marked, n_train=n_train, sgd=sgd, source_sgd=TWENTY, coupled=coupled)
        for method in methods.METHODS
        if ball or not methods.needs_shortcut(method)
    ]


if __name__ == "__main__":
    main()
