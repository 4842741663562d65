"""Receptive tokens and their masks."""
import torch
from torch import Tensor, nn


class MaskTokens(nn.Module):
    """Tokens that mask the relevant positions of a map (MasKD, arXiv 2205.14589).

    A token is a vector of the map's channels; its mask is the sigmoid of its product with the
    feature at each position. Names and shapes of the weights are those of the authors' code.

    Args:
        num_tokens (int): Number T of tokens.
        channels (int): Channels C of the map.
        weight_masks (bool): Whether a small network weights the masks for each image.
    """

    def __init__(self, num_tokens: int, channels: int, weight_masks: bool) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(0.01 * torch.randn(num_tokens, channels))
        self.prob: nn.Module | None = None
        if weight_masks:
            self.prob = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1),
                                      nn.AdaptiveAvgPool2d(1),
                                      nn.Conv2d(channels, num_tokens, 1))

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Mask a map, while the tokens are learned.

        Args:
            feature (Tensor): Map (N, C, H, W), float32.

        Returns:
            tuple[Tensor, Tensor]: The map times the weighted sum of the masks, or their plain sum
            without ``weight_masks``; and the masks (N, T, H, W).
        """
        masks = self.masks(feature)
        parts = masks if self.prob is None else masks * self.weights(feature)[..., None, None]
        return feature * parts.sum(1, keepdim=True), masks

    def masks(self, feature: Tensor) -> Tensor:
        """Compute the masks (N, T, H, W), in [0, 1], of a map (N, C, H, W)."""
        return torch.einsum('tc,nchw->nthw', self.mask_token, feature).sigmoid()

    def weights(self, feature: Tensor) -> Tensor:
        """Compute weights (N, T) of the masks, of sum 1; all alike without ``weight_masks``."""
        if self.prob is None:
            number = len(self.mask_token)
            return feature.new_full((len(feature), number), 1 / number)
        return self.prob(feature).flatten(1).softmax(1)


def dice_overlap(masks: Tensor) -> Tensor:
    """Measure how alike masks (N, T, H, W) are, by the Dice coefficient of every two of an image.

    It is the mean of ``2 a.b / (a.a + b.b)``; 0 for a single mask.
    """
    flat = masks.flatten(2)
    products = flat @ flat.transpose(1, 2)
    squares = products.diagonal(dim1=1, dim2=2)
    dice = 2 * products / (squares[:, :, None] + squares[:, None]).clamp(min=1e-12)
    number = masks.size(1)
    others = dice.masked_fill(torch.eye(number, dtype=torch.bool, device=masks.device), 0)
    return others.sum() / max(len(masks) * number * (number - 1), 1)
