# The student of student_gfl_shapes.py learns the distributions of the teacher's boxes, and how
# they relate. Train the teacher first:
#   python tools/train.py configs/det/toy/teacher_gfl_shapes.py
_base_ = 'student_gfl_shapes.py'
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='AvatarDistiller',
    student={{_base_.model}},
    teacher='{{ fileDirname }}/teacher_gfl_shapes.py',
    teacher_ckpt='work_dirs/teacher_gfl_shapes/epoch_10.pth',
    distill=dict(
        boxes=dict(
            tap='bbox_head.gfl_reg',
            loss=dict(
                type='DistributionCorrelationLoss',
                source='bins',
                num_bins=17,
                loss_weight=0.1))))
# Its seed decides which positions are related.
default_hooks = dict(perturbation=dict(type='PerturbationHook'))
