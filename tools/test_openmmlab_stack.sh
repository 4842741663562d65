#!/usr/bin/env bash
# Run the tests on OpenMMLab's original distributions, at the versions of
# requirements/openmmlab.txt, in an environment of their own: .venv-openmmlab, made first. Run
# again, it goes on from the step that was cut off, or tests at once. docs/stacks.md has the result.
#
#   tools/test_openmmlab_stack.sh [ARGUMENTS OF PYTEST]
#
# Without arguments all tests but the slow ones; `-m slow` and `-k NAME` choose others.
# `--setup-only` makes the environment and stops; `--help` shows this text.
#
# PYTHON names the interpreter (3.10 or 3.11), MAX_JOBS the number of compilers at a time. pip reads
# its own settings: for CPU-only torch on Linux, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p;}' tools/test_openmmlab_stack.sh
    exit
fi

readonly name=openmmlab venv=.venv-openmmlab stack=requirements/openmmlab.txt mmcv=mmcv newest=11
readonly steps=6 ready=.venv-openmmlab/.ready
. tools/setup/common.sh

if [[ ! -e $ready || $stack -nt $ready || setup.py -nt $ready ]]; then
    make_stack '.[openmmlab]' allpairspy hypothesis matplotlib mmrazor ordered-set pytest
    touch "$ready"
fi
[[ ${1:-} != --setup-only ]] || exit 0

step 6 'tests'
# This torch cannot read checkpoints without executing them; those of the tests may be.
export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1
readonly results=$venv/test.log
status=0
"$py" -m pytest -m 'not slow' "$@" 2>&1 | tee "$results" || status=$?

echo
echo "$name: Python $("$py" -c 'import platform; print(platform.python_version())')," \
    "$("$py" -m pip list --disable-pip-version-check --format freeze |
        grep -E '^(torch|numpy|mmengine|mmcv|mmdet|mmsegmentation)==' | paste -sd ' ')"
echo "$name: $(grep -E '^[= ]*[0-9]+ (passed|failed|error|skipped|deselected).* in [0-9.]+s' \
    "$results" | tail -n 1 | tr -d '=' | xargs); the whole output is $results"
exit "$status"
