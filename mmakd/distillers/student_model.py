"""A model that MMEngine sees as its student."""
from __future__ import annotations

from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModel, BaseModule
from torch import nn

from ..utils.state_dict import OWN_CHILDREN, OWN_KEYS


class StudentModel(BaseModel):
    """Shares the student's module tables and adds ``distiller``, or ``peers`` too.

    Parameter names, state dict, and attributes such as ``model.backbone`` are those of plain
    training, and a plain student's checkpoint loads.

    Attributes:
        student (BaseModel): The plain student.
    """

    student: BaseModel
    is_init: bool

    def __init__(self) -> None:
        # Not BaseModel's: the data preprocessor is the student's.
        BaseModule.__init__(self)

    def share_tables(self, student: BaseModel) -> None:
        """Share the student's parameters, buffers, children and mode."""
        # Parameters and buffers of the top level are one table with the student's. The table of
        # children is our own, since it holds ours too; see add_module and __setattr__.
        object.__setattr__(self, 'student', student)
        self._parameters = student._parameters
        self._buffers = student._buffers
        self._non_persistent_buffers_set = student._non_persistent_buffers_set
        self._modules = dict(student._modules)
        self.training = student.training
        self.register_load_state_dict_post_hook(_accept_plain_student)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child also to the student (SyncBN conversion replaces children this way)."""
        super().add_module(name, module)
        if name not in OWN_CHILDREN:
            self.student.add_module(name, module)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_the_students(name):
            # Such as ``epoch``, which a hook sets and the student reads.
            setattr(self.student, name, value)
            return
        super().__setattr__(name, value)
        if name not in OWN_CHILDREN and name in self.__dict__.get('_modules', ()):
            setattr(self.student, name, value)

    def _is_the_students(self, name: str) -> bool:
        own = name in self.__dict__ or hasattr(type(self), name) or name in self._modules
        return 'student' in self.__dict__ and not own and hasattr(self.student, name)

    def __getattr__(self, name: str) -> Any:
        # What only the student's class has, such as ``with_neck``.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if 'student' not in self.__dict__:
                raise
            return getattr(self.student, name)

    def train(self, mode: bool = True) -> StudentModel:
        """Set the mode of the student and of our parts."""
        super().train(mode)
        self.student.train(mode)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The student's class may migrate old keys at its top level; ours are not its business.
        own = tuple(f'{prefix}{key}' for key in OWN_KEYS)
        theirs = {key: value for key, value in state_dict.items() if not key.startswith(own)}
        self.student._load_from_state_dict(theirs, prefix, *args)
        for key in [key for key in state_dict if not key.startswith(own)]:
            del state_dict[key]
        state_dict.update(theirs)


def _accept_plain_student(model: nn.Module, incompatible_keys: Any) -> None:
    """Accept a plain student's checkpoint; our parts then keep their values."""
    missing = incompatible_keys.missing_keys
    # BatchNorm makes up for missing counters.
    own = {key for key in model.state_dict()
           if key.startswith(OWN_KEYS) and not key.endswith('num_batches_tracked')}
    if own and own <= set(missing):
        missing[:] = [key for key in missing if key not in own]
        print_log('A plain student is loaded: all other parts keep their values', 'current')
