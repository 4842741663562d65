"""A CUDA device for a build of torch that has only the CPU: CUDA's rules, the CPU's values.

Each operation runs twice: on fake tensors of torch's ``FakeTensorMode``, which raises
``FakeTensorDeviceMismatchError`` where devices are mixed and knows where the results are, and on
the values, which are kept on the CPU. So whatever depends on values (assigners, samplers,
``item``) runs as it is. Only kernels that mmcv has for CUDA need a stand-in.
"""
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

_FAKE = FakeTensorMode()
_KNOWN: dict[Any, Any] = {}
_COPIES = {torch.ops.aten._to_copy, torch.ops.aten.copy_}
# Copies from and to the GPU, and what depends on its values: for these the host waits.
waits: Counter = Counter()


class CudaTensor(Tensor):
    """A tensor that is on the GPU for torch and for all who ask it.

    Attributes:
        value (Tensor): Its value, on the CPU.
    """

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> 'CudaTensor':
        tensor: Any = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(),
            dtype=value.dtype, device=torch.device('cuda', 0))
        tensor.value = value
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        # torch's own refuses subclasses.
        return self.detach().cpu().tolist()


class _Factories(TorchDispatchMode):
    """Also makes tensors on the GPU from none there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    if not any(_is_cuda(part) for part in flat):
        with unset_fake_temporarily():
            return func(*args, **kwargs)
    devices = _devices_of_results(func, flat, spec)
    wrappers = {id(part.value): part for part in flat if isinstance(part, CudaTensor)}
    values = [_value(part) for part in flat]
    with unset_fake_temporarily():
        args, kwargs = tree_unflatten(values, spec)
        results, spec = tree_flatten(func(*args, **kwargs))
        for part, value in zip(flat, values):
            if isinstance(part, torch.Generator):
                part.set_state(value.get_state())
    on_gpu = [isinstance(part, Tensor) for part in results] if devices is None else [
        device == 'cuda' for device in devices]
    has_copied = func.overloadpacket in _COPIES and len(
        {isinstance(part, CudaTensor) for part in flat if isinstance(part, Tensor)} | {*on_gpu}
    ) == 2
    if has_copied or devices is None:
        waits[str(func)] += 1
    return tree_unflatten([
        part if not is_there else wrappers[id(part)] if id(part) in wrappers
        else CudaTensor(part) for part, is_there in zip(results, on_gpu)], spec)


def _devices_of_results(func: Any, flat: list[Any], spec: Any) -> list[str | None] | None:
    """Ask fake tensors, once for arguments of a kind; None where sizes depend on values."""
    for part in flat:
        if isinstance(part, torch.Generator) and part.device.type != 'cuda':
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    key = func, str(spec), str([
        (part.shape, part.stride(), part.dtype, part.device) if isinstance(part, Tensor)
        else None if isinstance(part, torch.Generator) else part for part in flat])
    if key not in _KNOWN:
        _KNOWN[key] = _ask(func, flat, spec)
    return _KNOWN[key]


def _ask(func: Any, flat: list[Any], spec: Any) -> list[str | None] | None:
    with _FAKE:
        fakes = [torch.empty_strided(part.shape, part.stride(), dtype=part.dtype,
                                     device=part.device) if isinstance(part, Tensor)
                 else None if isinstance(part, torch.Generator) else part for part in flat]
        args, kwargs = tree_unflatten(fakes, spec)
        try:
            results = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            return None
    return [part.device.type if isinstance(part, Tensor) else None
            for part in tree_flatten(results)[0]]


def _is_cuda(part: Any) -> bool:
    return isinstance(part, CudaTensor) or (
        isinstance(part, torch.device) and part.type == 'cuda')


def _value(part: Any) -> Any:
    if isinstance(part, CudaTensor):
        return part.value
    if isinstance(part, torch.Generator):
        generator = torch.Generator()
        generator.set_state(part.get_state())
        return generator
    return torch.device('cpu') if isinstance(part, torch.device) else part


class _Extension:
    """Stands in for mmcv's CUDA kernels: its CPU kernels, on the values.

    Args:
        module (module): ``mmcv._ext``.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            tensors = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
            if len({part.device for part in tensors}) > 1:
                raise RuntimeError(f'mmcv: {name} with tensors on different devices')
            with unset_fake_temporarily():
                args, kwargs = tree_map(_value, (args, kwargs))
                found = getattr(self._module, name)(*args, **kwargs)
            return tree_map(lambda part: CudaTensor(part) if isinstance(part, Tensor) else part,
                            found)

        return run


def _focal_loss(pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand in for mmcv's CUDA kernel, which the CPU has not; by mmdet's formula."""
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
    if pred.dtype == torch.bfloat16:
        raise RuntimeError('"sigmoid_focal_loss_forward_cuda_kernel" not implemented for '
                           "'BFloat16'")
    one_hot = torch.nn.functional.one_hot(target, pred.size(1) + 1)[:, :-1]
    return py_sigmoid_focal_loss(pred, one_hot, *args, **kwargs)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Have a GPU in the block."""
    extension = _Extension(import_module('mmcv._ext'))
    with _FAKE, _Factories(), ExitStack() as patches:
        for place, value in {
                'torch.cuda.is_available': lambda: True,
                'torch.cuda.is_bf16_supported': lambda: True,
                'mmengine.logging.logger._get_device_id': lambda: 0,
                # So that a module gets new parameters, of this class.
                'torch.__future__._overwrite_module_params_on_conversion': True,
                'mmengine.runner.amp.get_device': lambda: 'cuda',
                'mmengine.runner.runner.get_device': lambda: 'cuda',
                'mmengine.runner.log_processor.get_max_cuda_memory': lambda device: 0,
                'mmengine.runner.runner.collect_env': dict,
                'mmdet.models.losses.focal_loss.sigmoid_focal_loss': _focal_loss,
                'mmcv.ops.nms.ext_module': extension,
                'mmcv.ops.roi_align.ext_module': extension}.items():
            patches.enter_context(mock.patch(place, value))
        yield
