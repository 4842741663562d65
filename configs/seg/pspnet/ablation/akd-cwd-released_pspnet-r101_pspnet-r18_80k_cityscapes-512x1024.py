# Ablation: the authors' released code, batch statistics instead of sigma.
_base_ = '../akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(
    distill=dict(
        logits=dict(
            loss=dict(
                perturbation=dict(fill='zero'),
                uncertainty=dict(_delete_=True, type='BatchStatistics')))))
