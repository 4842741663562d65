"""Adapter from student channels to teacher channels."""
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import ConfigError


@MODELS.register_module()
class ConvAdapter(BaseModule):
    """Convolution from the student's channels to the teacher's.

    Args:
        in_channels (int): Channels of the student map; found by the distiller.
        out_channels (int): Channels of the teacher map; found by the distiller.
        kernel_size (int): Kernel size, odd so that the map keeps its size. Defaults to 1.
        init_cfg (dict | list[dict], optional): MMEngine initialisation. Defaults to None, torch's
            own.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        if not isinstance(kernel_size, int) or kernel_size % 2 != 1:
            raise ConfigError(f'kernel_size={kernel_size!r}: must be an odd integer, e.g. 1')
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, feature: Tensor) -> Tensor:
        """Map the student's (N, C_s, H, W) or (N, C_s) to the teacher's channels C_t."""
        if feature.dim() == 2:
            return self.conv(feature[..., None, None]).flatten(1)
        return self.conv(feature)
