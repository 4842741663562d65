# Learns the tokens that the MasKD configs read, from the teacher of
# teacher_retinanet_shapes.py.
_base_ = 'student_retinanet_shapes.py'
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='MaskTokenLearner',
    teacher='{{ fileDirname }}/teacher_retinanet_shapes.py',
    teacher_ckpt='work_dirs/teacher_retinanet_shapes/epoch_10.pth',
    tap='neck',
    num_tokens=6)
train_cfg = dict(max_epochs=2, val_interval=2)
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='Adam', lr=0.01, weight_decay=0.001))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        T_max=2,
        eta_min=1e-6,
        convert_to_iter_based=True)
]
