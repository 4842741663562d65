#!/usr/bin/env bash
# Make .venv with the default stack, at the versions of requirements/stack.txt. `make setup` calls
# this; run again after an interruption, it goes on from the step that was cut off.
#
# PYTHON names the interpreter, MAX_JOBS the number of compilers at a time. pip reads its own
# settings: for CPU-only torch on Linux, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly name=setup venv=.venv stack=requirements/stack.txt mmcv=onedl-mmcv newest=12 steps=5
. tools/setup/common.sh

make_stack '.[onedl,dev]'
