"""The memory of a graph."""
import weakref

import torch


class Saved:
    """A tensor that a graph keeps; freed with the graph."""

    def __init__(self, tensor):
        self.tensor = tensor


class SavedForBackward:
    """Counts the bytes of the tensors that living graphs keep."""

    def __enter__(self):
        self.saved = weakref.WeakSet()
        self.hooks = torch.autograd.graph.saved_tensors_hooks(
            self.pack, lambda saved: saved.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def pack(self, tensor):
        saved = Saved(tensor)
        self.saved.add(saved)
        return saved

    @property
    def bytes(self):
        return sum({saved.tensor.data_ptr(): saved.tensor.nbytes for saved in self.saved}.values())
