#!/usr/bin/env bash
# Train with several processes: tools/dist_train.sh CONFIG GPUS [options of train.py]
# On several machines, run it on each with NNODES, NODE_RANK and MASTER_ADDR set; PORT (29500) must
# be free. Without CUDA, GPUS is the number of CPU processes.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo 'usage: tools/dist_train.sh CONFIG GPUS [options of train.py]' >&2
    exit 2
fi
config=$1 gpus=$2
shift 2

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --launcher pytorch "$@"
