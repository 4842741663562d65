# CWD alone, without Avatars and sigma.
_base_ = 'akd-cwd_rtmdet-l_rtmdet-s_pafpn_300e_coco.py'
model = dict(
    distill=dict(
        pafpn=dict(
            loss=dict(
                _delete_=True,
                type='ChannelWiseDivergence',
                tau=1.0,
                loss_weight=1.0))))
