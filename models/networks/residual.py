"""Residual networks for small images (He et al. 2016, arXiv:1512.03385): three stages, each twice
as wide as the one before."""

from __future__ import annotations

from torch import Tensor, nn


def make_convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution without bias, and batch normalisation; an export folds the two into
    one."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Block(nn.Module):
    """``relu(shortcut(x) + two convolutions of x)``: He et al., Fig. 2, with a 1x1 shortcut where
    the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = make_convolution(inputs, outputs, 3, stride)
        self.second = make_convolution(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity() if same else make_convolution(inputs, outputs, 1, stride)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        change = self.second(
            self.relu(self.first(x))
        )  # (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)
        return self.relu(self.shortcut(x) + change)  # type: ignore[no-any-return]  # nn.Module calls are untyped


class Residual(nn.Module):
    """``blocks`` blocks in each of three stages of ``width``, ``2 * width`` and ``4 * width``
    channels."""

    def __init__(self, width: int, blocks: int, stem: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(make_convolution(channels, width, 3, stem), nn.ReLU())
        layers: list[nn.Module] = []
        inputs = width
        for stage, outputs in enumerate((width, 2 * width, 4 * width)):
            for block in range(blocks):
                layers.append(Block(inputs, outputs, stride=2 if stage > 0 and block == 0 else 1))
                inputs = outputs
        self.stages = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)  # (B, channels, H, W) -> (B, width, H/stem, W/stem)
        x = self.stages(x)  # (B, 4*width, H/stem/4, W/stem/4)
        return self.head(x)  # type: ignore[no-any-return]  # (B, classes); nn.Module calls are untyped


def residual(
    width: int = 16, blocks: int = 1, stem: int = 1, channels: int = 1, classes: int = 10
) -> Residual:
    """``stem`` is the stride of the first convolution: 2 makes all later layers four times
    cheaper."""
    return Residual(width, blocks, stem, channels, classes)
