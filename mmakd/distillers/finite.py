"""Finding NaN and infinity before they reach sigma or the student's weights."""
import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from torch import Tensor


def find_nonfinite(tensors: dict[str, Tensor]) -> list[str]:
    """Find out which values are not finite on any rank.

    Every rank gets the same answer, so that all take the same decision and none waits for the
    others.

    Args:
        tensors (dict[str, Tensor]): Values by a name for messages; the same names on all ranks.

    Returns:
        list[str]: Names of those with a NaN or an infinity, with the rank where there are several.
    """
    device = next(iter(tensors.values())).device
    extremes = torch.zeros(len(tensors), 2, device=device)
    for row, tensor in zip(extremes, tensors.values()):
        if tensor.numel():
            torch.stack(torch.aminmax(tensor.detach().float()), out=row)
    finite = extremes.isfinite().all(1)
    wrong = (~finite).any().float()
    all_reduce(wrong, 'max')
    if not wrong:
        return []
    names = [name for name, good in zip(tensors, finite.tolist()) if not good]
    if get_world_size() == 1:
        return names
    found = all_gather_object([f'{name} on rank {get_rank()}' for name in names])
    return [name for names_of_rank in found for name in names_of_rank]
