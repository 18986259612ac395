"""What the package is compared with: the loops that a user would write, after the tutorials."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from lime.lime_tabular import LimeTabularExplainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from rtl_utils import couplings, models, paths
from rtl_utils.data import Task, as_float, declare_missing_operators

declare_missing_operators()
from torchvision import transforms  # noqa: E402  needs the line above beside a CPU build of torch


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Pictures and labels as torchvision's CIFAR classes serve them: one PIL image at a time.

    Args:
        x: (n, 3, h, w) uint8 images.
        y: (n,) labels.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x = x.permute(0, 2, 3, 1).contiguous().numpy()
        self.y = y.numpy()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)]
        )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.x[row])), int(self.y[row])


def network(widths: Sequence[int], classes: int = 5) -> nn.Sequential:
    """The course's ten-layer CNN as a plain `nn.Sequential`; the last module is the head."""
    layers: list[nn.Module] = []
    channels = 3
    for stage, (width, count) in enumerate(zip(widths, (2, 2, 2, 3), strict=True)):
        for _ in range(count):
            layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        if stage < 3:
            layers += [nn.MaxPool2d(2), nn.Dropout(0.1)]
    head = nn.Linear(channels, classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def tutorial(net: nn.Sequential, task: Task, epochs: int, frozen: bool = False) -> float:
    """The usual training loop with its evaluation after each epoch.

    Args:
        net: of `network`; trained in place.
        task: of images.
        epochs: passes over the training images.
        frozen: whether the body has no gradients and stays in evaluation mode.

    Returns:
        The last validation accuracy.
    """
    for p in net[:-1].parameters():
        p.requires_grad_(not frozen)
    train = DataLoader(Images(task.x_train, task.y_train), batch_size=16, shuffle=True)
    validation = DataLoader(Images(task.x_val, task.y_val), batch_size=100)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-2, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    right = 0
    for _ in range(epochs):
        net.train()
        if frozen:
            net[:-1].eval()
        for x, y in train:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
        net.eval()
        right = 0
        with torch.no_grad():
            for x, y in validation:
                right += (net(x).argmax(1) == y).sum().item()
    return right / len(task.y_val)


def lime_by_the_manual(
    predict: Callable[[np.ndarray], np.ndarray],
    x_train: np.ndarray,
    points: np.ndarray,
    streams: Sequence[np.random.RandomState],
    samples: int,
) -> np.ndarray:
    """(n, d) weights from one `explain_instance` per point, as lime's manual shows.

    Args:
        predict: (n, d) inputs -> (n,) outputs of the model.
        x_train: (m, d) training data.
        points: (n, d) inputs that are explained.
        streams: random numbers of each point, so that both sides draw the same samples.
        samples: perturbations per point.
    """
    explainer = LimeTabularExplainer(
        x_train,
        mode="regression",
        discretize_continuous=False,
        sample_around_instance=True,
        feature_selection="none",
    )
    weights = np.zeros(points.shape)
    for row, (point, stream) in enumerate(zip(points, streams, strict=True)):
        explainer.random_state = stream
        explanation = explainer.explain_instance(
            point, predict, num_features=points.shape[1], num_samples=samples
        )
        for feature, weight in explanation.local_exp[1]:
            weights[row, feature] = weight
    return weights


@torch.no_grad()
def move(
    path: paths.Path,
    checkpoints: Sequence[models.Net],
    taus: Sequence[float],
    blocks: Sequence[couplings.Block],
) -> list[couplings.Block]:
    """The blocks after one iteration of coupled transfer, by its definition.

    Args:
        path: from source to target.
        checkpoints: networks at the ends of the partitions, one more than there are.
        taus: one per partition.
        blocks: the coupling.
    """
    source = path.source
    if source is None:
        raise ValueError("an iteration of coupled transfer needs a path with a source")
    moved = []
    for block in blocks:
        cost = np.zeros(block.mass.shape)
        for a, i in enumerate(block.source):
            for b, j in enumerate(block.target):
                x_source = as_float(source.x_train[i : i + 1])
                x_target = as_float(path.target.x_train[j : j + 1])
                for m, tau in enumerate(taus):
                    x = (1 - tau) * x_source + tau * x_target
                    p, q = (net.eval()(x).softmax(1) for net in checkpoints[m : m + 2])
                    divergence = float((p * (p / q).log()).sum())
                    cost[a, b] += max(divergence, 0) ** 0.5 / len(taus)
        moved.append(couplings.proximal(block, cost, 0.05))
    return moved
