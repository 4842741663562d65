# As transfer_pspnet_shapes.py, with the running average of the student as a second
# teacher, also of the images without labels.
_base_ = 'transfer_pspnet_shapes.py'
model = dict(
    teacher=dict(
        _delete_=True,
        big=dict(
            cfg='{{ fileDirname }}/teacher_pspnet_shapes.py',
            ckpt='work_dirs/teacher_pspnet_shapes/iter_1100.pth'),
        mean=dict(cfg='ema')),
    teacher_ckpt='auto',  # named teachers have their own
    distill=dict(
        logits=dict(teacher='big'),
        consistency=dict(
            teacher='mean',
            tap='decode_head.conv_seg',
            loss=dict(type='KLDivergence', tau=1.0, loss_weight=0.3))))
default_hooks = dict(
    ema_teacher=dict(type='EMATeacherHook', momentum=0.99, ramp_iters=300))
