"""The residual networks of the literature on distillation for CIFAR (He et al. 2016,
arXiv:1512.03385).

They and the names of their tensors are those of the code of Tian et al. 2020, arXiv:1910.10699.
"""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """``relu(x + two convolutions of x)``, with a 1x1 convolution of x if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        changed = (
            ()
            if same
            else (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        self.downsample = nn.Sequential(*changed)  # without layers it gives back its input
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        change = self.relu(
            self.bn1(self.conv1(x))
        )  # (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)
        change = self.bn2(self.conv2(change))
        return self.relu(self.downsample(x) + change)  # type: ignore[no-any-return]  # nn.Module calls are untyped


class ResNet(nn.Module):
    """A stem, ``layer1`` to ``layer3`` of ``blocks`` blocks each, the mean over the image, one
    linear layer."""

    def __init__(self, blocks: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width // 2, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.relu = nn.ReLU()
        self.layer1 = make_stage(blocks, width // 2, width, 1)
        self.layer2 = make_stage(blocks, width, 2 * width, 2)
        self.layer3 = make_stage(blocks, 2 * width, 4 * width, 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(4 * width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(image)))  # (B, channels, H, W) -> (B, width/2, H, W)
        x = self.layer1(x)  # (B, width, H, W)
        x = self.layer2(x)  # (B, 2*width, H/2, W/2)
        x = self.layer3(x)  # (B, 4*width, H/4, W/4)
        return self.fc(self.pool(x))  # type: ignore[no-any-return]  # (B, classes); nn.Module calls are untyped


def make_stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def resnet(depth: int = 8, width: int = 64, channels: int = 3, classes: int = 100) -> ResNet:
    """Return a network with ``width`` channels in the first stage and half of them in the stem:
    resnet8x4 and resnet32x4 have 64.

    Raises ValueError if ``depth`` is not 6n + 2 or ``width`` is odd.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1 or width < 2 or width % 2:
        raise ValueError(
            f"depth must be 6n + 2 (8, 14, 20, ...) and width even, got {depth} and {width}"
        )
    return ResNet(blocks, width, channels, classes)
