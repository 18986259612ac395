"""What the package is compared with: the loops that a user would write, after the tutorials."""

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from rtl_utils import tasks

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
    from lime.lime_tabular import LimeTabularExplainer

    explainer = LimeTabularExplainer(
        x_train, mode="regression", discretize_continuous=False, sample_around_instance=True, feature_selection="none", random_state=seed
    )
    weights = np.zeros(points.shape)
    for row, point in enumerate(points):
        explanation = explainer.explain_instance(point, predict, num_features=points.shape[1], num_samples=samples)
        for feature, weight in explanation.local_exp[1]:
            weights[row, feature] = weight
    return weights
