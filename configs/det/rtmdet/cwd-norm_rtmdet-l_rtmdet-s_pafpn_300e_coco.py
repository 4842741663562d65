# Both maps standardised over the batch, no Avatars, as MMYOLO distils RTMDet.
_base_ = 'akd-cwd_rtmdet-l_rtmdet-s_pafpn_300e_coco.py'
model = dict(
    distill=dict(
        pafpn=dict(
            loss=dict(
                perturb=False,
                uncertainty=dict(_delete_=True, type='BatchStatistics')))))
