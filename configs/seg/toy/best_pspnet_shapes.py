# What is proven best in docs/study/results.md: CWD at its own temperature.
_base_ = 'cwd_pspnet_shapes.py'
model = dict(distill=dict(logits=dict(loss=dict(tau=2.0))))
