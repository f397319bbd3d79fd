#!/bin/sh
# Runs Python with the native module under AddressSanitizer and UndefinedBehaviorSanitizer: sh tests/native/sanitize.sh BIN
# ARGUMENTS, where BIN is the virtual environment's bin directory. The exit status is that of the build or of Python.
set -eu
BIN=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
BUILD=$PWD/build/sanitize
PATH="$BIN:$PATH"

cmake -S . -B "$BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCUTWORK_SANITIZE=ON -DPython_EXECUTABLE="$BIN/python" >/dev/null
cmake --build "$BUILD"

# A package of links to the sources and the instrumented module, which comes before the installed one: sitecustomize takes
# away the import hook of the editable install.
OVERLAY=$BUILD/overlay
rm -rf "$OVERLAY"
mkdir -p "$OVERLAY/cutwork"
ln -s "$PWD"/src/cutwork/* "$OVERLAY/cutwork/"
ln -s "$BUILD"/_native*.so "$OVERLAY/cutwork/"
cat >"$OVERLAY/sitecustomize.py" <<'PYTHON'
import sys

sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("_cutwork_editable")
                    and "ScikitBuild" not in type(f).__name__]
PYTHON
export PYTHONPATH="$OVERLAY" PYTHONDONTWRITEBYTECODE=1

COMPILER=${CXX:-c++}
export LD_PRELOAD="$("$COMPILER" -print-file-name=libasan.so) $("$COMPILER" -print-file-name=libstdc++.so)"
REPORT=$BUILD/report  # in files, since a worker of pytest-xdist takes its standard error along when it is aborted
rm -f "$REPORT".*
# The stack on which use after return would be found is aligned to less than vectors of 64 bytes by gcc before 13.3
# (PR 110027).
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0:log_path=$REPORT" UBSAN_OPTIONS="print_stacktrace=1:log_path=$REPORT"
"$BIN/python" -c 'from cutwork import _native; assert "overlay" in _native.__file__, _native.__file__'
STATUS=0
"$BIN/python" "$@" || STATUS=$?
cat "$REPORT".* 2>/dev/null || true
exit $STATUS
