"""Pictures of what the distillation compares."""
from .avatar_maps import AvatarMaps, draw_heat_map, draw_sigma, read_avatar_maps

__all__ = ['AvatarMaps', 'draw_heat_map', 'draw_sigma', 'read_avatar_maps']
