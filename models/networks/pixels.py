"""Networks that answer at each pixel, of images of any size: convolutions that look further and
further apart (Yu and Koltun 2016, "Multi-Scale Context Aggregation by Dilated Convolutions",
arXiv:1511.07122)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def make_dilated_convolution(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    """Return a 3x3 convolution whose taps are ``dilation`` pixels apart, batch normalisation, ReLU;
    an export folds the first two into one."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class DilatedPixels(nn.Module):
    """A convolution for each of ``dilations``, and a linear layer at each pixel."""

    def __init__(self, width: int, dilations: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        inputs = [channels, *[width] * (len(dilations) - 1)]
        self.body = nn.Sequential(
            *(
                make_dilated_convolution(before, width, dilation)
                for before, dilation in zip(inputs, dilations, strict=True)
            )
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(self.body(image))  # (B, channels, H, W) -> (B, classes, H, W)
        return x.permute(0, 2, 3, 1)  # type: ignore[no-any-return]  # (B, H, W, classes)


def dilated(
    width: int = 16,
    dilations: Sequence[int] = (1, 2, 4, 2, 1),
    channels: int = 1,
    classes: int = 11,
) -> DilatedPixels:
    """With these ``dilations`` an answer sees 21 by 21 pixels."""
    return DilatedPixels(width, dilations, channels, classes)
