# As cwd_pspnet_shapes.py, taught by checkpoints of the teacher's own training, one
# after the other. The complexity of what they teach is logged.
_base_ = 'cwd_pspnet_shapes.py'
default_hooks = dict(
    teacher_checkpoint=dict(
        type='TeacherCheckpointHook',
        checkpoints=[
            'work_dirs/teacher_pspnet_shapes/iter_275.pth',
            'work_dirs/teacher_pspnet_shapes/iter_550.pth',
            'work_dirs/teacher_pspnet_shapes/iter_825.pth',
            'work_dirs/teacher_pspnet_shapes/iter_1100.pth'
        ]),
    supervision_complexity=dict(
        type='SupervisionComplexityHook', interval=50))
