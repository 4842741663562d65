"""Pictures of what the distillation compares."""
from .avatar_maps import AvatarMaps, draw_heat_map, draw_sigma, read_avatar_maps
from .avatar_panel import attention_map, draw_avatar_panel, draw_prediction

__all__ = ['AvatarMaps', 'attention_map', 'draw_avatar_panel', 'draw_heat_map', 'draw_prediction',
           'draw_sigma', 'read_avatar_maps']
