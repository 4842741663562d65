# The student of student_retinanet_shapes.py, taught by plain CWD on the FPN.
_base_ = 'student_retinanet_shapes.py'
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='AvatarDistiller',
    student={{_base_.model}},
    teacher='{{ fileDirname }}/teacher_retinanet_shapes.py',
    teacher_ckpt='work_dirs/teacher_retinanet_shapes/epoch_10.pth',
    distill=dict(
        fpn=dict(
            tap='neck',
            loss=dict(
                type='ChannelWiseDivergence', tau=1.0, loss_weight=7.5))))
