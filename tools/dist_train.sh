#!/usr/bin/env bash
# Train with several processes: tools/dist_train.sh CONFIG GPUS [options of train.py]
# On several machines, run it on each with NNODES, NODE_RANK and MASTER_ADDR set; PORT (29500) must
# be free. Without CUDA, GPUS is the number of CPU processes.
set -euo pipefail
tools=$(dirname "${BASH_SOURCE[0]}")

# Outside any environment, that of `make setup` if it is there.
python=${PYTHON:-python}
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$tools/../.venv/bin/python" ]; then
    python=$tools/../.venv/bin/python
fi

if [ $# -lt 2 ]; then
    echo 'usage: tools/dist_train.sh CONFIG GPUS [options of train.py]' >&2
    exit 2
fi
config=$1 gpus=$2
shift 2

exec "$python" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
