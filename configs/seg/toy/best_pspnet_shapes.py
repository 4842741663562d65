# What is proven best in docs/study/results.md: AKD on CWD at the base's own temperature.
_base_ = 'akd-cwd_pspnet_shapes.py'
model = dict(distill=dict(logits=dict(loss=dict(criterion=dict(tau=2.0)))))
