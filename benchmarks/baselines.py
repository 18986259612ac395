"""What the package is compared with: the loops that a user would write, after the tutorials."""

from collections.abc import Sequence

import numpy as np
import torch
from lime.lime_tabular import LimeTabularExplainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from rtl_utils import couplings, models, paths, tasks

tasks.declare_missing_operators()
from torchvision import transforms  # noqa: E402  needs the line above beside a CPU build of torch


class Images(Dataset):
    """Pictures and labels as torchvision's CIFAR classes serve them: one PIL image at a time, through the transforms."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        self.x, self.y = x.permute(0, 2, 3, 1).contiguous().numpy(), y.numpy()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int):
        return self.transform(Image.fromarray(self.x[row])), int(self.y[row])


def network(widths: tuple[int, int, int, int], classes: int = 5) -> nn.Sequential:
    """The course's ten-layer CNN as a plain `nn.Sequential`; the last module is the head."""
    layers, channels = [], 3
    for stage, (width, count) in enumerate(zip(widths, (2, 2, 2, 3), strict=True)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        if stage < 3:
            layers += [nn.MaxPool2d(2), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def tutorial(net: nn.Sequential, task: tasks.Task, epochs: int, frozen: bool = False) -> float:
    """The usual loop with its evaluation after each epoch; with `frozen`, the body has no gradients and stays in evaluation mode.

    Returns the last validation accuracy.
    """
    for p in net[:-1].parameters():
        p.requires_grad_(not frozen)
    train = DataLoader(Images(task.x_train, task.y_train), batch_size=16, shuffle=True)
    validation = DataLoader(Images(task.x_val, task.y_val), batch_size=100)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-2, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
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


def lime_by_the_manual(predict, x_train: np.ndarray, points: np.ndarray, seed: int, samples: int) -> np.ndarray:
    """(n, d) weights from one `explain_instance` a point, as lime's manual shows."""
    explainer = LimeTabularExplainer(
        x_train, mode="regression", discretize_continuous=False, sample_around_instance=True, feature_selection="none", random_state=seed
    )
    weights = np.zeros(points.shape)
    for row, point in enumerate(points):
        explanation = explainer.explain_instance(point, predict, num_features=points.shape[1], num_samples=samples)
        for feature, weight in explanation.local_exp[1]:
            weights[row, feature] = weight
    return weights


@torch.no_grad()
def move(path: paths.Path, checkpoints: Sequence[models.Net], taus: Sequence[float], blocks: Sequence[couplings.Block]) -> list[couplings.Block]:
    """The blocks after one iteration of coupled transfer, by its definition: pair by pair, one partition after the other."""
    moved = []
    for block in blocks:
        cost = np.zeros(block.mass.shape)
        for a, i in enumerate(block.source):
            for b, j in enumerate(block.target):
                x_source, x_target = (tasks.as_float(x[k : k + 1]) for x, k in ((path.source.x_train, i), (path.target.x_train, j)))
                for m, tau in enumerate(taus):
                    x = (1 - tau) * x_source + tau * x_target
                    p, q = (net.eval()(x).softmax(1) for net in checkpoints[m : m + 2])
                    cost[a, b] += max(float((p * (p / q).log()).sum()), 0) ** 0.5 / len(taus)
        moved.append(couplings.proximal(block, cost, 0.05))
    return moved
