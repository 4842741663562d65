#!/usr/bin/env bash
# Test with several processes: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# On several machines, run it on each with NNODES, NODE_RANK and MASTER_ADDR set; PORT (29500) must
# be free. Without CUDA, GPUS is the number of CPU processes.
set -euo pipefail
tools=$(dirname "${BASH_SOURCE[0]}")

# Outside any environment, that of `make setup` if it is there.
python=${PYTHON:-python}
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$tools/../.venv/bin/python" ]; then
    python=$tools/../.venv/bin/python
fi

if [ $# -lt 3 ]; then
    echo 'usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]' >&2
    exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3

exec "$python" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
