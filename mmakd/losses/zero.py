"""A loss that does nothing."""
from torch import Tensor, nn


def zero_loss(loss: nn.Module, preds_S: Tensor) -> Tensor:
    """Give zero where there is nothing to compare, as with no RoI in the batch.

    Args:
        loss (nn.Module): What would have been computed.
        preds_S (Tensor): An empty student map.

    Returns:
        Tensor: Scalar 0, in which every parameter has a part: DDP waits for its gradient.
    """
    return preds_S.sum() + sum(parameter.sum() * 0 for parameter in loss.parameters())
