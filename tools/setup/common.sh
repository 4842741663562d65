# What the scripts that make an environment share. At the root of the project set these, source
# this file and call make_stack:
#   name   of the script, before its messages
#   venv   the environment to make
#   stack  pip constraints: the versions
#   mmcv   distribution of mmcv
#   newest the newest minor version of Python 3 that these run on; the oldest is 10
#   steps  how many there are

readonly py=$venv/bin/python
readonly log=$venv/mmcv-build.log
export CXX=${CXX:-c++}

die() {
    echo "$name: $*" >&2
    exit 1
}

step() {
    echo
    echo "$name [$1/$steps] $2"
}

install() {
    "$py" -m pip install --disable-pip-version-check --no-build-isolation -c "$stack" "$@"
}

is_suitable() {
    "$1" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null
}

find_python() {
    local candidate minor candidates=(python3)
    for ((minor = newest; minor >= 10; minor--)); do
        candidates+=("python3.$minor")
    done
    for candidate in ${PYTHON:-${candidates[@]}}; do
        is_suitable "$candidate" && echo "$candidate" && return
    done
    [[ -z ${PYTHON:-} ]] || die "PYTHON=$PYTHON is not a Python 3.10 to 3.$newest"
    die "no Python 3.10 to 3.$newest on PATH; install one or name it: PYTHON=..."
}

# Everything that the compile would only miss minutes later.
check_build_tools() {
    local python=$1
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments; install its venv package (python3-venv)"
    echo '#include <vector>' | "$CXX" -x c++ -std=c++17 -fsyntax-only - 2>/dev/null ||
        die "no C++17 compiler ($CXX); install one (g++ or clang) or name it: CXX=..."
    "$python" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        die "the headers of $python are missing; install its dev package (python3-dev)"
}

make_venv() {
    if "$py" -m pip --version >/dev/null 2>&1; then
        is_suitable "$py" ||
            die "$venv has another Python than 3.10 to 3.$newest; remove it: rm -r $venv"
        check_build_tools "$py"
    else
        local python
        python=$(find_python)
        check_build_tools "$python"
        step 1 "virtual environment $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
}

# Sets with_cuda: whether mmcv can be compiled for a GPU.
look_for_cuda() {
    with_cuda=false
    if "$py" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        if command -v nvcc >/dev/null; then
            with_cuda=true
        else
            echo "$name: no nvcc on PATH, so mmcv is compiled without its CUDA ops" >&2
        fi
    fi
}

# Reads a build on stdin and keeps of it what tells how far it is: ninja counts the files.
show_progress() {
    local line end='\n'
    [[ -t 1 ]] && end='\r'
    while IFS= read -r line; do
        if [[ $line =~ \[([0-9]+)/([0-9]+)\] ]]; then
            printf "  compiled %s of %s files$end" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
        elif [[ $line =~ ^(Collecting|Building|Successfully|ERROR|\ +Using\ cached).* ]]; then
            echo "  ${BASH_REMATCH[0]}"
        fi
    done
}

# The default flags, -O3 -g, take twice as long; the ops are no bottleneck.
install_mmcv() {
    # Without nvcc, mmcv must not see a GPU, or it would try to compile for it.
    local gpu=(FORCE_CUDA=1)
    $with_cuda || gpu=(FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=-1)
    local cores
    cores=$(getconf _NPROCESSORS_ONLN)
    (
        export MMCV_WITH_OPS=1 CFLAGS='-O1 -g0' MAX_JOBS="${MAX_JOBS:-$cores}" "${gpu[@]}"
        install -v "$@" "$mmcv" 2>&1
    ) | tee "$log" | show_progress || {
        tail -n 40 "$log"
        die "mmcv was not built; the whole log is $log"
    }
}

mmcv_ops_work() {
    "$py" -c '
import sys
from mmcv.ops import get_compiling_cuda_version
sys.exit(sys.argv[1] == "true" and get_compiling_cuda_version() == "not available")
' "$with_cuda" 2>/dev/null
}

check_stack() {
    # opencv-python links libGL, which a machine without a display may lack;
    # opencv-python-headless, the same files otherwise, does not. The one installed last counts.
    if ! "$py" -c 'import cv2' 2>/dev/null; then
        echo "$name: opencv-python does not load here (no libGL?); taking opencv-python-headless"
        install --force-reinstall --no-deps opencv-python-headless
    fi
    # pip caches the wheel by mmcv's version alone: one built for another torch, or without CUDA,
    # is of no use here.
    mmcv_ops_work || {
        echo "$name: the ops of pip's cached mmcv do not fit; compiling them again"
        install_mmcv --no-cache-dir --force-reinstall --no-deps
    }
    "$py" -c '
import mmcv, mmdet, mmengine, mmseg, torch
import mmcv.ops
print(f"torch {torch.__version__}, mmengine {mmengine.__version__}, mmcv {mmcv.__version__},",
      f"mmdet {mmdet.__version__}, mmseg {mmseg.__version__}")'
}

# Its arguments are what pip is to install: mmakd with its extras, and more.
make_stack() {
    make_venv

    step 2 'build tools and torch'
    install ninja packaging setuptools wheel
    install torch numpy
    look_for_cuda

    step 3 "mmcv with ops (CUDA: $with_cuda); compiles for 5 to 20 minutes if pip has no wheel"
    install_mmcv

    step 4 'mmdet, mmseg, mmakd and the development tools'
    install -e "$@"

    step 5 'check'
    check_stack
}
