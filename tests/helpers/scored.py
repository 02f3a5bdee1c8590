"""Small models that criteria and ablation are tried on."""

import torch
import torch.nn.functional as F
from torch import nn

from helpers import handmade


class Sigmoids(nn.Module):
    """A silenced unit still says f(0) = 0.5."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(36, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.fc2(torch.sigmoid(self.fc1(x.flatten(1))))


class Named(nn.Module):
    """Keyword arguments, and no graph to follow: a Python branch on a value."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, *, image, twice):
        return self.fc2(F.relu(self.fc1(image + twice)))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, stride=2)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc1, self.fc2, self.head = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.head((x + self.fc2(F.gelu(self.fc1(x)))).mean(1))


def normed():
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False)),
        *(nn.BatchNorm2d(6), nn.Hardswish(), nn.Flatten(), nn.Linear(24, 3)),
    )
    with torch.no_grad():
        for norm in (model[1], model[4]):
            for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                t.uniform_(0.5, 1.5)
    return model


class Conv33(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = handmade.conv()

    def forward(self, x):
        return self.net(x[..., :3, :3])
