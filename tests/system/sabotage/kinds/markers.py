"""A network with both kinds of output, and the same with one thing wrong each."""

from __future__ import annotations

from torch import Tensor, nn

from attar.models.networks.pixels import make_dilated_convolution


class Marker(nn.Module):
    """(B, 1, 8, 8) to the logits of three attributes (B, 3) and of each pixel (B, 8, 8, 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs, dilations = (1, width, width, width), (1, 2, 4, 1)
        self.body = nn.Sequential(
            *(make_dilated_convolution(before, width, each) for before, each in zip(inputs, dilations, strict=True))
        )
        self.pixels = nn.Conv2d(width, 3, 1)
        self.attributes = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(image)
        return self.attributes(x), self.pixels(x).permute(0, 2, 3, 1)


class Certain(Marker):
    """The attributes end in a sigmoid, as a network does that is asked for probabilities."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        attributes, pixels = super().forward(image)
        return attributes.sigmoid(), pixels


class TransposedMarker(Marker):
    """The classes of a pixel stand where a convolution leaves them."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        attributes, pixels = super().forward(image)
        return attributes, pixels.permute(0, 3, 1, 2)


def marker(width: int = 12) -> Marker:
    return Marker(width)


def certain(width: int = 12) -> Certain:
    return Certain(width)


def channels_first(width: int = 12) -> TransposedMarker:
    return TransposedMarker(width)
