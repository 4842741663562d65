# The student of student_pspnet_shapes.py, its labels smoothed by the confidence of
# its running average. This loss replaces the head's own.
_base_ = 'student_pspnet_shapes.py'
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='AvatarDistiller',
    student=dict(
        cfg='{{ fileDirname }}/student_pspnet_shapes.py',
        decode_head=dict(loss_decode=dict(loss_weight=0.0))),
    teacher='ema',
    distill=dict(
        labels=dict(
            tap='decode_head.conv_seg',
            loss=dict(type='BetaSmoothingLoss', alpha=0.6, a=3.0, b=1.0))))
default_hooks = dict(
    ema_teacher=dict(type='EMATeacherHook', momentum=0.99),
    perturbation=dict(type='PerturbationHook'))
