"""Devices by name, and trainings on a GPU that is not there: what they cross, wait for and need."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from pretend_device import GPUS, NAME, MixedDevices, PretendDevice

from rtl_utils import cli, devices, headless
from rtl_utils.coupled import Coupled
from rtl_utils.distances import distance_matrix
from rtl_utils.experiments import Run, run
from rtl_utils.lengths import Trace
from rtl_utils.methods import METHODS, Setup, plan, pretrain, train, transfer
from rtl_utils.models import build
from rtl_utils.paths import Path
from rtl_utils.probing import as_function, lime_weights, partial_dependence_effect, shortcut_test
from rtl_utils.schedules import CONSTANT, Grid
from rtl_utils.store import Store
from rtl_utils.training import Replica, Sgd, TrainingDiverged, fit

WIDTH = (4, 4, 4, 4)
TINY = Run("digits", "digits-0-4", "digits-5-9", "ft", 0, n_train=5, width=WIDTH, sgd=Sgd(epochs=1))


# Names


def test_auto_is_the_gpu_if_there_is_one():
    with PretendDevice("cuda"):
        assert devices.there() == ["cuda", *(f"cuda:{k}" for k in range(GPUS)), "cpu"]
        assert devices.resolve("auto") == "cuda"
        assert devices.resolve("cuda:1") == "cuda:1"
        assert devices.resolve("cpu") == "cpu"
    with PretendDevice("mps"):
        assert devices.resolve("auto") == "mps"


def test_auto_is_the_cpu_where_there_is_no_gpu():
    with PretendDevice("none"):
        assert devices.resolve("auto") == "cpu"
        assert devices.said("auto") == 'device: cpu, which "auto" takes: torch finds no GPU here'
        assert devices.said("cpu") == "device: cpu"


def test_what_was_taken_is_said_with_its_name():
    with PretendDevice():
        taken = f"device: cuda ({NAME})"
        assert devices.said("auto") == f'{taken}, which "auto" takes: the GPU of this machine'
        assert devices.said("cuda:1") == f"device: cuda:1 ({NAME})"


@pytest.mark.parametrize(
    "device", ["tpu", "", "cuda:", "cuda:x", "CUDA", "cpu:0", None, 0, ["cpu"]]
)
def test_what_is_no_device_is_refused_in_one_sentence(device):
    with pytest.raises(ValueError, match=r'^device must be "auto", "cpu".*; got') as error:
        devices.resolve(device)
    assert repr(device) in str(error.value)


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    says = "device 'cuda:7' is not there; this machine has cuda, cuda:0, cuda:1, cpu"
    with PretendDevice(), pytest.raises(ValueError, match=says):
        devices.resolve("cuda:7")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "tpu"], "device must be"),
        (["--device", "cuda:7"], "device 'cuda:7' is not there"),
        (["-p", "device", "0"], "device must be"),
    ],
)
def test_a_wrong_device_of_rtl_run_is_one_sentence_before_any_kernel(
    arguments, says, tmp_path, capsys
):
    out = tmp_path / "out"
    assert cli.main(["run", "--notebook", "01", "--out", str(out), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rtl: {says}")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], f'device: cuda ({NAME}), which "auto" takes'), (["--device", "cpu"], "device: cpu\n")],
)
def test_rtl_run_says_what_it_takes_and_tells_the_notebook(
    arguments, says, tmp_path, capsys, monkeypatch
):
    asked = []

    def execute(path, parameters, folder):
        asked.append(parameters)
        return headless.put(path.read_text(), folder / path.name)

    monkeypatch.setattr(headless, "execute", execute)
    with PretendDevice():
        assert cli.main(["run", "--notebook", "01", "--out", str(tmp_path), *arguments]) == 0
    assert capsys.readouterr().err.startswith(says)
    assert asked == [{"device": "cpu"} if arguments else {}]


# Arithmetic


def settings_of_torch():
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    return (
        [kind.fp32_precision for kind in kinds],
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_a_training_on_a_gpu_has_all_bits_and_is_deterministic_and_leaves_no_setting(cnn):
    before = settings_of_torch()
    seen = []
    with PretendDevice():
        fit([cnn()], device="cuda", on_epoch=lambda *_: seen.append(settings_of_torch()))
    assert seen == [(["ieee"] * 3, True, True, False)] * 2
    assert settings_of_torch() == before


def test_settings_are_restored_when_a_training_fails(cnn):
    before = settings_of_torch()
    wild = cnn(sgd=Sgd(lr=1e30, epochs=2, batch_size=8))
    with PretendDevice(), pytest.raises(TrainingDiverged, match="at epoch 0, step 1"):
        fit([wild], device="cuda")
    assert settings_of_torch() == before


def test_the_cpu_keeps_every_setting(cnn):
    before = settings_of_torch()
    seen = []
    fit([cnn()], on_epoch=lambda *_: seen.append(settings_of_torch()))
    assert seen == [before] * 2


# What the pretence refuses and counts


def test_operands_on_two_devices_are_refused():
    with PretendDevice():
        there = torch.ones(3).to("cuda")
        assert there.device == torch.device("cuda:0")
        assert (there * torch.tensor(2.0)).device.type == "cuda"  # a number may come along
        with pytest.raises(MixedDevices, match=r"\(3,\) on cuda:0"):
            there + torch.ones(3)
        with pytest.raises(MixedDevices):
            there + torch.ones(3).to("cuda:1")
        with pytest.raises(TypeError, match=r"Tensor\.cpu"):
            there.numpy()
        assert torch.equal((there + 1).cpu(), torch.full((3,), 2.0))
    with PretendDevice("mps"), pytest.raises(TypeError, match="float64"):
        torch.ones(3).to("mps").double()


def test_copies_and_waits_are_counted():
    with PretendDevice() as gpu:
        x = torch.arange(6.0).to("cuda")  # a copy
        x[torch.tensor([0, 2])]  # another, of the index
        assert (gpu.copies.total(), gpu.waits.total()) == (2, 0)
        float(x.sum())
        x[x > 2]
        x.tolist()
        x.cpu()
        assert (gpu.copies.total(), gpu.waits.total()) == (2, 4)
        torch.nn.functional.one_hot(x.long(), 6).float() @ x
        assert (gpu.copies.total(), gpu.waits.total()) == (2, 4)


# Every method


@pytest.fixture
def cnn(pictures):
    """Makes a replica with a tiny CNN on a path of small pictures."""

    def make(seed: int = 0, sgd: Sgd = Sgd(epochs=2, batch_size=8), grid=Grid((0.5, 1.0))):
        path = Path(pictures("target", seed, 8), pictures("source", 50 + seed, 8))
        return Replica(build(path.target, WIDTH, seed), path, grid, seed, sgd)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_gives_the_cpus_numbers_on_a_gpu_and_waits_once_per_epoch(method, trained):
    with PretendDevice() as usual:
        found = trained(method, "cuda")
    assert found == trained(method, "cpu")
    with PretendDevice() as longer:
        trained(method, "cuda", epochs=4)
    trainings = 2 if METHODS[method].coupling == "iterated" else 1
    assert longer.waits.total() - usual.waits.total() <= 2 * trainings, longer.waits - usual.waits
    with PretendDevice() as finer:
        trained(method, "cuda", batch_size=5)  # twice as many steps
    assert finer.copies == usual.copies
    assert finer.waits == usual.waits


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ft", "fixed", "wise-ft", "iso", "ct-iterated"])
def test_apples_gpu_needs_no_float64(method, trained):
    expected = trained(method, "cpu")
    with PretendDevice("mps"):
        assert trained(method, "mps") == expected


def test_the_masks_of_a_chunk_are_those_of_its_steps(cnn, monkeypatch):
    with PretendDevice() as whole:
        (history,) = fit([cnn()], device="cuda")
    monkeypatch.setattr("rtl_utils.training.loop._INPUT_BYTES", 1)  # so that a chunk is one step
    with PretendDevice() as step_by_step:
        (other,) = fit([cnn()], device="cuda")
    assert other == history
    assert step_by_step.copies.total() > whole.copies.total()


# Groups


def series(histories):
    return [value for history in histories for s in history.series().values() for value in s]


def test_networks_of_one_shape_train_as_one_program_whatever_their_method(pictures):
    source, target = pictures("source", 1), pictures("target", 2)
    sgd = Sgd(epochs=2, batch_size=8)
    backbone, _ = pretrain(source, seed=0, sgd=sgd, width=WIDTH)
    setup = Setup(sgd, taus=(0.5, 1.0), width=WIDTH)

    def plans():
        asked = [(method, seed) for method in ("scratch", "ft", "ut") for seed in (0, 1)]
        return [plan(m, backbone, source, target, seed=s, setup=setup) for m, s in asked]

    alone = train(plans())
    with PretendDevice() as gpu:
        together = train(plans(), device="cuda")
    assert series(together) == pytest.approx(series(alone), rel=1e-3)
    assert gpu.waits.total() == 2  # one per epoch, for all six


def test_an_epoch_can_be_watched_where_cnns_are_one_program(cnn):
    seen = []
    with pytest.raises(ValueError, match="as one program"):
        fit([cnn(0), cnn(1)], on_epoch=lambda *_: seen.append(1))
    with PretendDevice():
        fit([cnn(0), cnn(1)], device="cuda", on_epoch=lambda *_: seen.append(1))
    assert seen == [1, 1]


def test_one_that_diverges_leaves_the_others_of_its_group_alone(cnn):
    calm, wild = cnn(0), cnn(1, sgd=Sgd(lr=1e30, epochs=2, batch_size=8))
    (alone,) = fit([cnn(0)])
    with PretendDevice():
        histories = fit([calm, wild], device="cuda")
    assert series(histories[:1]) == pytest.approx(series([alone]), rel=1e-3)
    assert "at epoch 0" in histories[1].diverged


# Memory


def memory_of(replicas) -> int:
    """Bytes that they take as one program."""
    with PretendDevice(memory=10**12) as gpu:
        fit(replicas, device="cuda")
    return gpu.peak


def test_a_group_without_room_is_halved_and_nothing_is_lost(cnn, capsys):
    traces = [Trace(cnn(k).path.target.x_val) for k in range(5)]
    replicas = [cnn(k) for k in range(5)]
    for replica, trace in zip(replicas, traces, strict=True):
        replica.callback = trace
    expected = series(fit([cnn(k) for k in range(5)]))
    done = []
    capsys.readouterr()
    room = (memory_of([cnn(0), cnn(1)]) + memory_of([cnn(0), cnn(1), cnn(2)])) // 2
    with PretendDevice(memory=room):
        histories = fit(replicas, device="cuda", on_done=lambda row, history: done.append(row))
    assert series(histories) == pytest.approx(expected, rel=1e-3)
    assert done == list(range(5))
    assert [len(replica.callback.steps) for replica in replicas] == [3] * 5
    lines = [line for line in capsys.readouterr().err.splitlines() if "room" in line]
    assert [line.rpartition("\r")[2] for line in lines] == [
        "cuda has no room for 5 networks at once; they train in groups of 3",
        "cuda has no room for 3 networks at once; they train in groups of 2",
    ]


def test_one_network_without_room_is_one_sentence_and_what_was_done_stays(cnn):
    small, large = cnn(0), cnn(1)
    large.net = build(large.path.target, (16, 16, 16, 16), 1)
    done = []
    room = memory_of([cnn(0)])
    says = "^cuda has no room for one network; take a smaller width or batch_size, or device ="
    with PretendDevice(memory=room), pytest.raises(torch.OutOfMemoryError, match=says):
        fit([small, large], device="cuda", on_done=lambda row, history: done.append(row))
    assert done == [0]


def test_a_refit_without_room_is_one_sentence(pictures):
    source, target = pictures("source", 1), pictures("target", 2)
    sgd = Sgd(epochs=1, batch_size=10)
    backbone, _ = pretrain(source, seed=0, sgd=sgd, width=WIDTH)
    planned = plan("refit", backbone, source, target, seed=0, setup=Setup(sgd, width=WIDTH))
    with (
        PretendDevice(memory=100_000),
        pytest.raises(torch.OutOfMemoryError, match="has no room for"),
    ):
        train([planned], device="cuda")


def test_what_is_no_lack_of_memory_is_raised_as_it_is(cnn):
    class Faulty:
        def __call__(self, net, path, tau, done, epochs):
            raise RuntimeError("a shape is wrong")

    replicas = [cnn(0), cnn(1)]
    replicas[1].callback = Faulty()
    with PretendDevice(), pytest.raises(RuntimeError, match="a shape is wrong"):
        fit(replicas, device="cuda")


# Rows


def test_rows_name_the_device_and_no_key_depends_on_it(tmp_path):
    store = Store(tmp_path)
    with PretendDevice():
        rows = run([TINY], store, "auto")
    assert set(rows.device) == {"cuda"}
    assert set(rows.processor) == {NAME}
    again = run([TINY], store, "cpu")  # finds it
    pd.testing.assert_frame_equal(again, rows)


def test_distances_train_on_the_device(tmp_path):
    names = ("digits-0-4", "digits-5-9")
    fields = {"n_train": 5, "width": WIDTH, "sgd": Sgd(epochs=1)}
    store = Store(tmp_path)
    asked = {"store": store, "dataset": "digits", "device": "cuda:1"} | fields
    with PretendDevice():
        distance_matrix(names, "fine-tuning", [0], **asked)
    assert set(run([replace(TINY, **fields)], store).device) == {"cuda"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixed", "lp-ft", "wise-ft", "ct", "ct-iterated"])
def test_a_backbone_that_lies_on_the_gpu_is_transferred_there(method, pictures):
    source, target = pictures("source", 1), pictures("target", 2)
    sgd = Sgd(epochs=2, batch_size=10)
    setup = Setup(sgd, (0.0, 1.0), WIDTH, Coupled(iterations=2, block=10, partitions=2))

    def history(device):
        backbone, _ = pretrain(source, seed=0, sgd=sgd, width=WIDTH, device=device)
        return transfer(method, backbone, source, target, seed=0, setup=setup, device=device)[1]

    with PretendDevice():
        found = history("cuda")
    assert found == history("cpu")


def test_a_network_on_a_gpu_is_probed_with_tasks_of_the_host(pictures, table):
    task, other = pictures("target", 1), pictures("target", 2)
    features = table()
    measured = []
    for device in ("cpu", "cuda"):
        with PretendDevice():
            net = build(task, WIDTH, 0).to(device)
            measured.append([shortcut_test(net, task, other, 2)])
            net = build(features, "plain", 0).to(device)
            measured[-1] += [values.tolist() for values in lime_weights(net, features, [0, 1], 0)]
            measured[-1] += partial_dependence_effect(net, features, 5, 4).tolist()
            measured[-1] += as_function(net)(features.x_val.numpy()).tolist()
    assert measured[0] == measured[1]


def test_a_network_stays_on_its_device(pictures):
    with PretendDevice():
        setup = Setup(Sgd(epochs=1, batch_size=10), width=WIDTH)
        ends = pictures("source", 1), pictures("target", 2)
        net, _ = transfer("scratch", None, *ends, seed=0, setup=setup, device="auto")
        assert net.head.weight.device == torch.device("cuda:0")


def test_a_perceptron_with_a_constant_path_trains_on_a_gpu(table):
    def replica():
        return Replica(build(table(), "batchnorm", 0), Path(table()), CONSTANT, 0, Sgd(epochs=1))

    expected = fit([replica()])
    with PretendDevice():
        assert fit([replica()], device="cuda") == expected
