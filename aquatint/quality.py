"""How far images are from images, and samples from a data set: the figures that every quality claim here is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image (N, ...) in [-1, 1]; (N,), infinite where they are equal."""
    error = (images - reference).double().square().flatten(1).mean(1)
    return 10 * torch.log10(4.0 / error)


def pixel_distance(images: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference of each image (N, ...) in [-1, 1], in grey levels of 255; (N,)."""
    return (images - reference).double().abs().flatten(1).mean(1) * 127.5


class FeatureNet(nn.Module):
    """A small classifier of 28 x 28 images whose 32 features are compared by `frechet_distance`."""

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 96, 3, padding=1)
        self.dense = nn.Linear(96 * 9, width)
        self.head = nn.Linear(width, classes)

    def features(self, images: Tensor) -> Tensor:
        """(N, 1, 28, 28) in [-1, 1] -> (N, 32)."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)
        return F.relu(self.dense(x.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@dataclass(frozen=True)
class FeatureSpace:
    """A trained FeatureNet, with the mean (32,) and covariance (32, 32) of its features over real test images."""

    net: FeatureNet
    mean: Tensor
    covariance: Tensor

    @staticmethod
    def load(path: Path) -> FeatureSpace:
        """From the safetensors file that examples/train_fashion_mnist.py writes."""
        weights = load_file(path)
        mean, covariance = weights.pop("reference.mean"), weights.pop("reference.covariance")
        net = FeatureNet()
        net.load_state_dict({k: v.float() for k, v in weights.items()})
        return FeatureSpace(net.eval(), mean, covariance)

    def distance(self, images: Tensor) -> float:
        """The Fréchet distance of `images` (N, 1, 28, 28) from the real ones."""
        with torch.no_grad():
            features = self.net.features(images.clamp(-1, 1)).double()
        return frechet_distance(features.mean(0), features.T.cov(), self.mean.double(), self.covariance.double())


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) (Heusel et al. 2017, equation 6)."""
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross).item()
