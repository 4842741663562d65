"""Checking that two features can be compared."""
from torch import Tensor


def check_same_shape(preds_S: Tensor, preds_T: Tensor) -> None:
    """Check two features before broadcasting hides that they differ.

    Args:
        preds_S (Tensor): The student's.
        preds_T (Tensor): The teacher's.

    Raises:
        ValueError: If their shapes differ.
    """
    if preds_S.shape != preds_T.shape:
        raise ValueError(f'student map {tuple(preds_S.shape)}, but teacher map '
                         f'{tuple(preds_T.shape)}')
