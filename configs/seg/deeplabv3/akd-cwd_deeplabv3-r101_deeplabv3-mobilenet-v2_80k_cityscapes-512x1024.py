# A smaller student.
_base_ = 'akd-cwd_deeplabv3-r101_deeplabv3-r18_80k_cityscapes-512x1024.py'
model = dict(
    student='mmseg::mobilenet_v2/'
    'mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py')
