"""The student, and the same network with one thing wrong each. All read (B, 1, 8, 8) and answer (B, 10)."""

from __future__ import annotations

from torch import Tensor, nn


def convolution(inputs: int, outputs: int, stride: int, running: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs, track_running_stats=running),
        nn.ReLU(),
    )


def student(width: int = 16, dropout: float = 0.05, running: bool = True) -> nn.Sequential:
    """Three convolutions, the mean over the image, a dropout, one linear layer."""
    return nn.Sequential(
        convolution(1, width, 1, running),  # (B, width, 8, 8)
        convolution(width, 2 * width, 2, running),  # (B, 2*width, 4, 4)
        convolution(2 * width, 4 * width, 1, running),  # (B, 4*width, 4, 4)
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),  # (B, 4*width)
        nn.Dropout(dropout),
        nn.Linear(4 * width, 10),
    )


def batch_statistics(width: int = 16) -> nn.Sequential:
    """Batch normalisation without running statistics: in evaluation too, an answer depends on its neighbours in the batch."""
    return student(width, running=False)


class Forgetful(nn.Module):
    """``torch.nn.functional.dropout`` is active unless it is told: ``training=self.training`` was forgotten."""

    def __init__(self, width: int) -> None:
        super().__init__()
        *body, self.head = student(width, 0.0)
        self.body = nn.Sequential(*body)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.body(image), 0.2))  # type: ignore[no-any-return]  # untyped call


def forgetful(width: int = 16) -> Forgetful:
    return Forgetful(width)


class Stretched(nn.Module):
    """Stretches each image to its own darkest and brightest pixel; a blank image has no such range and becomes NaN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = student(width)

    def forward(self, image: Tensor) -> Tensor:
        image = image - image.amin((1, 2, 3), keepdim=True)
        return self.body(image / image.amax((1, 2, 3), keepdim=True))  # type: ignore[no-any-return]  # untyped call


def stretched(width: int = 16) -> Stretched:
    return Stretched(width)
