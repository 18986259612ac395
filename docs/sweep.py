"""The long runs behind docs/: `.venv/bin/python docs/sweep.py NAME`, of `digits-methods`, `cifar-methods` and `distances`.

One seed after the other, its rows exported to docs/results/NAME.csv as soon as they are there; what the store has is not trained again, so that
a sweep that was stopped carries on where it was.
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
TEN = Sgd(epochs=10)


def digits_methods(seed: int) -> list[Run]:
    """Every method under Salman's test: the ball on one class of the source, a clean target, the ball at test time."""
    return _under_test("digits", "digits-0-4", "digits-5-9", seed, Sgd(epochs=20), Coupled(partitions=5))


def cifar_methods(seed: int) -> list[Run]:
    """The same on CIFAR-100, herbivores to flowers, over 10 epochs."""
    return _under_test("cifar100", "herbivores", "flowers", seed, TEN, Coupled(iterations=2, blocks=20, partitions=5))


def distance_runs(seed: int) -> list[Run]:
    """The 5 x 5 matrices; the coupled one has one seed."""
    kinds = ["fine-tuning", "uncoupled", *(["coupled"] if seed == 0 else [])]
    fields = {"sgd": TEN, "source_sgd": Sgd(epochs=20), "coupled": Coupled(iterations=2, blocks=20, partitions=10), "partitions": 10}
    return [run for kind in kinds for run in distances.pair_runs(paper.GAO_TASKS, kind, [seed], **fields)]


SWEEPS = {"digits-methods": (digits_methods, 10), "cifar-methods": (cifar_methods, 3), "distances": (distance_runs, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SWEEPS)
    parser.add_argument("--out", default="runs/sweep", help="folder of the store (default: runs/sweep)")
    arguments = parser.parse_args()
    runs_of, seeds = SWEEPS[arguments.name]
    store, keys = Store(arguments.out), []
    for seed in range(seeds):
        runs = runs_of(seed)
        experiments.run(runs, store)
        keys += [run.key for one in runs for run in (one, one.backbone())]
        store.export(HERE / "results" / f"{arguments.name}.csv", keys)
        print(f"{arguments.name}: seed {seed} done", flush=True)


def _under_test(dataset: str, source: str, target: str, seed: int, sgd: Sgd, coupled: Coupled) -> list[Run]:
    ball = load(dataset, source, seed).class_names[-1]
    return [
        Run(dataset, source, target, method, seed, source_ball=ball, n_train=n_train, sgd=sgd, coupled=coupled)
        for n_train in (50, None)
        for method in methods.METHODS
    ]


if __name__ == "__main__":
    main()
