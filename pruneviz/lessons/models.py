"""Which networks the lessons use: small, plain, and built by name.

Each `forward` takes images of shape (batch, 1, 28, 28) and returns logits of shape (batch, 10).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneviz.core import checks


class LeNet300(nn.Module):
    """LeNet-300-100 (LeCun et al. 1998): three fully connected layers, 266,200 weights.

    Examples
    --------
    >>> sum(m.weight.numel() for m in LeNet300().children())
    266200
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)  # (batch, 784)
        x = F.relu(self.fc1(x))  # (batch, 300)
        x = F.relu(self.fc2(x))  # (batch, 100)
        return self.fc3(x)  # (batch, 10)


class LeNet5(nn.Module):
    """LeNet-5 in Caffe's dimensions, as Han et al. (2015) pruned it: 430,500 weights.

    Caffe has no ReLU after the two convolutions; here each has one, so that channels can be dead.

    Examples
    --------
    >>> sum(m.weight.numel() for m in LeNet5().children())
    430500
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (batch, 20, 12, 12)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (batch, 50, 4, 4)
        x = F.relu(self.fc1(x.flatten(1)))  # (batch, 500)
        return self.fc2(x)  # (batch, 10)


class BatchNormCNN(nn.Module):
    """Three padded 3×3 convolutions of 24, 48 and 96 channels with BatchNorm, then 864-128-10.

    Examples
    --------
    >>> BatchNormCNN().eval()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 48, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(48)
        self.conv3 = nn.Conv2d(48, 96, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(96)
        self.fc1 = nn.Linear(864, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)  # (batch, 24, 14, 14)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)  # (batch, 48, 7, 7)
        x = F.max_pool2d(F.relu(self.bn3(self.conv3(x))), 2)  # (batch, 96, 3, 3)
        x = F.relu(self.fc1(x.flatten(1)))  # (batch, 128)
        return self.fc2(x)  # (batch, 10)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut around them (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))  # (batch, outputs, height ÷ stride, width ÷ stride)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResidualNet(nn.Module):
    """A small residual network: a stem, three stages of two blocks (16, 32, 64 channels), a mean.

    Examples
    --------
    >>> ResidualNet().eval()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = nn.Sequential(ResidualBlock(16, 16, 1), ResidualBlock(16, 16, 1))
        self.stage2 = nn.Sequential(ResidualBlock(16, 32, 2), ResidualBlock(32, 32, 1))
        self.stage3 = nn.Sequential(ResidualBlock(32, 64, 2), ResidualBlock(64, 64, 1))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.stem(x))), 2)  # (batch, 16, 14, 14)
        x = self.stage3(self.stage2(self.stage1(x)))  # (batch, 64, 4, 4)
        return self.head(x.mean((2, 3)))  # (batch, 10)


class TransformerBlock(nn.Module):
    """Self-attention with `heads` heads, then a feed-forward part; a LayerNorm before each."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)  # (batch, tokens, width)
        q, k, v = (
            f(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)  # (batch, heads, tokens, width ÷ heads)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ImageTransformer(nn.Module):
    """A small transformer for images: patches of 4×4 as 49 tokens, three blocks of four heads.

    Examples
    --------
    >>> ImageTransformer().eval()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: int = 64, blocks: int = 3, heads: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 49, width))
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, hidden) for _ in range(blocks))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position  # (batch, 49, width)
        x = self.norm(self.blocks(x))
        return self.head(x.mean(1))  # (batch, 10)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet-300-100": LeNet300,
    "lenet-5": LeNet5,
    "batchnorm-cnn": BatchNormCNN,
    "residual-net": ResidualNet,
    "image-transformer": ImageTransformer,
}


def build(name: str) -> nn.Module:
    """Build one of the lessons' networks, untrained, by its name.

    Raises
    ------
    ArgumentError
        If there is no network with this name.

    Examples
    --------
    >>> sorted(NETWORKS)
    ['batchnorm-cnn', 'image-transformer', 'lenet-300-100', 'lenet-5', 'residual-net']
    >>> type(build("lenet-5")).__name__
    'LeNet5'
    """
    return NETWORKS[checks.choice(name, "network", NETWORKS)]()
