# What is proven best in docs/study/results.md: CWD at its own temperature.
_base_ = 'cwd_retinanet_shapes.py'
model = dict(distill=dict(fpn=dict(loss=dict(tau=8.0))))
