"""Taps: modules whose outputs are read from a network."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..utils.errors import ConfigError, suggest

Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


class FeatureTaps:
    """Records the outputs of modules while a ``with`` block runs.

    A module that returns several tensors, or is called several times, gives a list of maps. The
    hooks are removed at the end of the block, so none are copied or saved with the network. The
    features live as long as this object.

    Args:
        model (nn.Module): The network.
        taps (Iterable[str]): Dotted paths of modules.
        roi_extractors (Iterable[str]): Dotted paths of RoI extractors, whose RoIs are recorded.
            Defaults to ().
        inputs_of (Iterable[str]): Dotted paths of modules whose arguments are recorded. Defaults
            to ().

    Attributes:
        features (dict[str, list[Tensor]]): The features by path.
        rois (dict[str, list[Tensor]]): RoIs (R, 5) by path: image in the batch, x1, y1, x2, y2;
            one tensor per call.
        calls (dict[str, list[Call]]): Positional and keyword arguments by path, of each call.
    """

    def __init__(self, model: nn.Module, taps: Iterable[str],
                 roi_extractors: Iterable[str] = (), inputs_of: Iterable[str] = ()) -> None:
        self.model = model
        self.features: dict[str, list[Tensor]] = {tap: [] for tap in taps}
        self.rois: dict[str, list[Tensor]] = {path: [] for path in roi_extractors}
        self.calls: dict[str, list[Call]] = {path: [] for path in inputs_of}
        self._versions: list[tuple[str, str, Tensor, int]] = []
        self._handles: list[RemovableHandle] = []
        self._forwards: dict[str, Any] = {}

    def __enter__(self) -> FeatureTaps:
        for paths, recorder in (self.features, self._recorder), (self.rois, self._roi_recorder):
            for path in paths:
                module = self.model.get_submodule(path)
                self._handles.append(module.register_forward_hook(recorder(path)))
        for path in self.calls:
            module = self.model.get_submodule(path)
            self._forwards[path] = vars(module).get('forward')
            # Heads are run by their forward method, which no hook sees.
            module.forward = self._call_recorder(path, module.forward)
        return self

    def _recorder(self, tap: str) -> Callable[..., None]:

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            maps = _tensors(output)
            self.features[tap] += maps
            self._watch('tap', tap, maps)

        return hook

    def _roi_recorder(self, path: str) -> Callable[..., None]:

        def hook(module: nn.Module, args: tuple[Any, Tensor], output: Any) -> None:
            self.rois[path].append(args[1].detach())

        return hook

    def _call_recorder(self, path: str, forward: Callable) -> Callable:

        def record(*args: Any, **kwargs: Any) -> Any:
            self.calls[path].append((args, kwargs))
            self._watch('perturb_at', path, _tensors([args, kwargs]))
            return forward(*args, **kwargs)

        return record

    def _watch(self, key: str, path: str, tensors: list[Tensor]) -> None:
        self._versions += [(key, path, tensor, tensor._version) for tensor in tensors]

    def overwritten(self) -> set[tuple[str, str]]:
        """Find the maps that a later layer changed in place.

        Returns:
            set[tuple[str, str]]: ``('tap', path)`` of a module whose output changed,
            ``('perturb_at', path)`` of one whose input did.
        """
        return {(key, path) for key, path, tensor, version in self._versions
                if tensor._version != version}

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        for path, forward in self._forwards.items():
            own = vars(self.model.get_submodule(path))
            own.pop('forward', None)
            if forward is not None:  # of a context around this one
                own['forward'] = forward


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = output.values()
    elif not isinstance(output, (list, tuple)):
        return []
    return [tensor for part in output for tensor in _tensors(part)]


def check_tap(model: nn.Module, key: str, tap: Any, side: str) -> None:
    """Check that a tap, the value of a config key, names a module of the student or teacher.

    Raises:
        ConfigError: If it does not; names the nearest modules.
    """
    names = dict(model.named_modules())
    if not isinstance(tap, str) or not tap or tap not in names:
        raise ConfigError(f'{key}={tap!r}: the {side} ({type(model).__name__}) has no such '
                          f'module; {suggest(tap, filter(None, names))}')


def forward_to_taps(model: Any, taps: Iterable[str], inputs: Tensor,
                    data_samples: list | None) -> None:
    """Run a network up to the stage of its deepest tap.

    Args:
        model (BaseModel): A detector or a segmentor.
        taps (Iterable[str]): Dotted paths of modules.
        inputs (Tensor): Normalised images (N, 3, H, W).
        data_samples (list, optional): Their data samples, which some heads need.
    """
    stages = {tap.split('.')[0] for tap in taps}
    if stages <= {'backbone'}:
        model.backbone(inputs)
    elif stages <= {'backbone', 'neck'}:
        model.extract_feat(inputs)
    elif stages <= {'backbone', 'neck', 'rpn_head'}:
        model.rpn_head.forward(model.extract_feat(inputs))
    else:
        model(inputs, data_samples, mode='tensor')
