# The student of student_pspnet_shapes.py, taught by the running average of itself.
_base_ = 'student_pspnet_shapes.py'
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='AvatarDistiller',
    student={{_base_.model}},
    teacher='ema',
    distill=dict(
        logits=dict(
            tap='decode_head.conv_seg',
            loss=dict(type='KLDivergence', tau=1.0, loss_weight=1.0))))
default_hooks = dict(
    ema_teacher=dict(type='EMATeacherHook', momentum=0.99, ramp_iters=300))
