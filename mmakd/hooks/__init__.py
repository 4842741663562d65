"""Hooks."""
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .avatar_visualization_hook import AvatarVisualizationHook
from .distillation_balance_hook import DistillationBalanceHook
from .distillation_log_hook import DistillationLogHook
from .distillation_schedule_hook import DistillationScheduleHook
from .ema_teacher_hook import EMATeacherHook
from .exact_resume_hook import ExactResumeHook
from .perturbation_hook import PerturbationHook
from .supervision_complexity_hook import SupervisionComplexityHook
from .teacher_checkpoint_hook import TeacherCheckpointHook
from .teacher_eval_hook import TeacherEvalHook

__all__ = [
    'AtomicCheckpointHook', 'AvatarVisualizationHook', 'DistillationBalanceHook',
    'DistillationLogHook', 'DistillationScheduleHook', 'EMATeacherHook', 'ExactResumeHook',
    'PerturbationHook', 'SupervisionComplexityHook', 'TeacherCheckpointHook', 'TeacherEvalHook'
]
