"""Convolutional stem of the tiny networks: from pixels to features at 1/4, 1/8 and 1/16 of the resolution."""

from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class StemFeatures(NamedTuple):
    """Features `(B, C, H/s, W/s)` at strides s = 4, 8 and 16."""

    quarter: Tensor
    eighth: Tensor
    sixteenth: Tensor


class ConvBlock(nn.Sequential):
    """3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.get_parameter('weight'))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, h, w)` to the same shape."""
        residual: Tensor = self.norm2(self.conv2(self.conv1(x)))
        return (x + residual).relu()


def fold_batch_norms(module: nn.Module) -> None:
    """Merge each batch normalisation below `module` into the convolution before it; for inference only."""
    for part in module.modules():
        if isinstance(part, ConvBlock) and isinstance(part[1], nn.BatchNorm2d):
            part[0], part[1] = fuse_conv_bn_eval(cast('nn.Conv2d', part[0]), part[1]), nn.Identity()
        elif isinstance(part, ResidualBlock) and isinstance(part.norm2, nn.BatchNorm2d):
            part.conv2, part.norm2 = fuse_conv_bn_eval(part.conv2, part.norm2), nn.Identity()


class ConvStem(nn.Module):
    """A small residual network.

    Args:
        channels: Channels at strides 4, 8 and 16.
        blocks: Residual blocks at each of them.
    """

    def __init__(self, channels: tuple[int, int, int], blocks: tuple[int, int, int]) -> None:
        super().__init__()
        stages = []
        previous = channels[0] // 2
        self.entry = ConvBlock(3, previous, stride=2)
        for width, count in zip(channels, blocks, strict=True):
            stages.append(nn.Sequential(ConvBlock(previous, width, 2), *(ResidualBlock(width) for _ in range(count))))
            previous = width
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> StemFeatures:
        """Extract features of `(B, 3, H, W)` normalised rgb."""
        x = self.entry(image)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return StemFeatures(*features)


class StemPatchEmbedding(nn.Module):
    """Takes the place of a ViT's patch embedding: `(B, 3, H, W)` to `(B, C, H/16, W/16)`."""

    def __init__(self, stem: ConvStem, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stem = stem
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Embed normalised images."""
        embedded: Tensor = self.project(self.stem(image).sixteenth)
        return embedded
