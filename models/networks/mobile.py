"""Depthwise separable networks for small images (Howard et al. 2017, MobileNet,
arXiv:1704.04861)."""

from __future__ import annotations

from torch import Tensor, nn


def make_convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return convolution, batch normalisation, ReLU; an export folds the first two into one."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def make_separable_convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 3x3 filter for each channel, then a 1x1 mix of the channels: MobileNet, Fig. 3."""
    return nn.Sequential(
        make_convolution(
            inputs, inputs, 3, stride, groups=inputs
        ),  # (B, inputs, H/stride, W/stride)
        make_convolution(inputs, outputs, 1),  # (B, outputs, H/stride, W/stride)
    )


class Mobile(nn.Module):
    """A stem, five separable convolutions up to ``4 * width`` channels, the mean over the image,
    one linear layer."""

    def __init__(self, width: int, stem: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = make_convolution(channels, width, 3, stem)
        self.body = nn.Sequential(
            make_separable_convolution(width, 2 * width, stride=1),
            make_separable_convolution(2 * width, 2 * width, stride=2),
            make_separable_convolution(2 * width, 4 * width, stride=1),
            make_separable_convolution(4 * width, 4 * width, stride=2),
            make_separable_convolution(4 * width, 4 * width, stride=1),
        )
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)  # (B, channels, H, W) -> (B, width, H/stem, W/stem)
        x = self.body(x)  # (B, 4*width, H/stem/4, W/stem/4)
        return self.head(x)  # type: ignore[no-any-return]  # (B, classes); nn.Module calls are untyped


def mobile(width: int = 16, stem: int = 1, channels: int = 1, classes: int = 10) -> Mobile:
    """``stem`` is the stride of the first convolution: 2 makes all later layers four times
    cheaper."""
    return Mobile(width, stem, channels, classes)
