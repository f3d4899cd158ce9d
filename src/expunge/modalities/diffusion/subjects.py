"""Pictures of given subjects: reference pictures are fused into the words that name them. Source: Face-diffuser (arXiv 2311.10329)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SubjectFusion(nn.Module):
    """The state of a word that names a subject, and the features of the subject's reference picture, become one state.

    c <- LN(MLP2(MLP1([c; r]) + c)), where both MLPs are LN, linear, GELU, linear, and MLP2 adds to its input.

    Args:
        width: of states and features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.join = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))
        self.refine = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, references: Tensor, places: Tensor) -> Tensor:
        """States with subjects; those of other words stay as they are.

        Args:
            states: of a text encoder, (batch, words, width).
            references: features of the reference pictures, (batch, subjects, width).
            places: of the last token of each subject's word, (batch, subjects); -1: no such subject.

        Returns:
            (batch, words, width)
        """
        at = places.clamp_min(0)[..., None].expand(-1, -1, states.shape[-1])
        words = states.gather(1, at)
        joined = self.join(torch.cat([words, references], -1)) + words
        fused = torch.where(places[..., None] >= 0, self.norm(self.refine(joined) + joined), words)
        result = states.clone()
        for k in range(places.shape[1]):  # one by one, so that an absent subject overwrites no word
            one = torch.where(places[:, k, None, None] >= 0, fused[:, k : k + 1], result.gather(1, at[:, k : k + 1]))
            result = result.scatter(1, at[:, k : k + 1], one)
        return result


class ReferenceEncoder(nn.Module):
    """Features of reference pictures: a small convolutional network, in place of the image encoder of CLIP.

    Args:
        channels: of the pictures.
        width: of the features.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        sizes = (channels, width // 2, width, width)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes))
        self.projection = nn.Linear(16 * width, width)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures: (batch, channels, height, width), from -1 to 1. Returns: (batch, width)."""
        x = pictures
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        features: Tensor = self.projection(F.adaptive_avg_pool2d(x, 4).flatten(1))
        return features

    def untrained(self) -> ReferenceEncoder:
        """The same encoder with new weights."""
        return ReferenceEncoder(self.channels, self.width)


def cropped(picture: Tensor, mask: Tensor, noise: Tensor, side: int) -> Tensor:
    """A reference picture: the box around a subject, with noise wherever the subject is not.

    Args:
        picture: (channels, height, width).
        mask: of the subject from 0 to 1, (height, width).
        noise: uniform over the values of pictures, of the shape of the picture.
        side: of the result, which is square.

    Returns:
        (channels, side, side)
    """
    inside = mask > 0.5
    if not bool(inside.any()):
        return F.interpolate(noise[None], size=(side, side), mode="nearest")[0]
    rows, columns = (inside.any(d).nonzero()[:, 0] for d in (1, 0))
    box = (slice(None), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    shown = torch.where(inside, picture, noise)[box]
    return F.interpolate(shown[None], size=(side, side), mode="bilinear", align_corners=False, antialias=True)[0]
