# The student of student_pspnet_shapes.py, taught by plain CWD on the logits.
_base_ = 'student_pspnet_shapes.py'
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='AvatarDistiller',
    student={{_base_.model}},
    teacher='{{ fileDirname }}/teacher_pspnet_shapes.py',
    teacher_ckpt='work_dirs/teacher_pspnet_shapes/iter_1100.pth',
    distill=dict(
        logits=dict(
            tap='decode_head.conv_seg',
            loss=dict(
                type='ChannelWiseDivergence', tau=1.0, loss_weight=5.0))))
