#!/bin/sh
# Builds the native module for 64-bit ARM and runs its tests under qemu, on processors with and without dot products:
# sh tests/native/aarch64.sh BIN [pytest arguments], where BIN is the virtual environment's bin directory. CPUS names the
# processors; a -k of your own takes the place of the kernels' tests against the references. What qemu calls `max` is
# taken without SVE, by which NumPy's matrix products, the references, come out wrong there.
#
# Needs Debian's g++-aarch64-linux-gnu and qemu-user; the rest, a Python for ARM and its packages, is downloaded to
# build/aarch64. The exit status is that of the build or of the tests, 77 where something cannot be had.
set -eu
BIN=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
BUILD=$PWD/build/aarch64
ROOT=$BUILD/root
SITE=$BUILD/site
CPUS=${CPUS:-cortex-a72 neoverse-n1 neoverse-v1 max,sve=off}
PATH="$BIN:$PATH"

cannot() {
  echo "aarch64: $1"
  exit 77
}

for TOOL in aarch64-linux-gnu-g++ qemu-aarch64 apt-get dpkg; do
  command -v "$TOOL" >/dev/null || cannot "there is no $TOOL; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user"
done
mkdir -p "$BUILD/debs" "$BUILD/apt/lists/partial" "$BUILD/apt/cache/archives/partial" "$BUILD/wheels"

# Unpacked, not installed: the system stays as it is.
if [ ! -e "$ROOT/lib" ]; then
  for TASK in "update" "download libpython3.13-minimal libpython3.13-stdlib libpython3.13-dev python3.13-minimal libc6
      libgcc-s1 libstdc++6 libexpat1 libffi8 zlib1g libbz2-1.0 liblzma5 libssl3t64 libzstd1"; do
    (cd "$BUILD/debs" && apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
      -o APT::Sandbox::User="" -o Dir::State::Lists="$BUILD/apt/lists" -o Dir::Cache="$BUILD/apt/cache" $TASK) ||
      cannot "Debian's Python 3.13 for arm64 cannot be downloaded"
  done
  rm -rf "$ROOT"
  for DEB in "$BUILD"/debs/*.deb; do dpkg -x "$DEB" "$ROOT"; done
  ln -s usr/lib "$ROOT/lib"
fi
if [ ! -e "$SITE/nanobind" ]; then
  "$BIN/python" -m pip download -q -d "$BUILD/wheels" --only-binary=:all: --python-version 313 \
    --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 nanobind numpy pydantic pytest rich ||
    cannot "the packages for Python 3.13 on arm64 cannot be downloaded"
  rm -rf "$SITE"
  mkdir "$SITE"
  for WHEEL in "$BUILD"/wheels/*.whl; do "$BIN/python" -m zipfile -e "$WHEEL" "$SITE"; done
fi

# A Python for ARM that runs here, which cmake too takes for the one to build for.
cat >"$BUILD/python" <<SHELL
#!/bin/sh
exec qemu-aarch64 -cpu "\${QEMU_CPU:-max}" -E PYTHONPATH="\${PYTHONPATH:-$SITE}" -L "$ROOT" "$ROOT/usr/bin/python3.13" "\$@"
SHELL
chmod +x "$BUILD/python"

cmake -S . -B "$BUILD/module" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$PWD/tests/native/aarch64.cmake" \
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="-isystem $ROOT/usr/include" \
  -DPython_EXECUTABLE="$BUILD/python" -DPython_ROOT_DIR="$ROOT/usr" >/dev/null
cmake --build "$BUILD/module"

# What the sets are for: lookups in all, dot products of bytes, products of matrices of bytes, those of bfloat16.
for WANTED in neon:tbl neondot:tbl neondot:sdot neoni8mm:tbl neoni8mm:smmla neonbf16:bfdot; do
  OBJECT=$BUILD/module/CMakeFiles/_native.dir/native/kernels/sets/${WANTED%:*}.cpp.o
  FOUND=$(aarch64-linux-gnu-objdump -d --no-show-raw-insn "$OBJECT" | grep -cw "${WANTED#*:}" || true)
  echo "aarch64: ${WANTED%:*} has $FOUND ${WANTED#*:}"
  [ "$FOUND" -gt 0 ] || exit 1
done

OVERLAY=$BUILD/overlay  # links to the sources and the module for ARM
rm -rf "$OVERLAY"
mkdir -p "$OVERLAY/cutwork"
ln -s "$PWD"/src/cutwork/* "$OVERLAY/cutwork/"
ln -s "$BUILD"/module/_native*.so "$OVERLAY/cutwork/"
"$BIN/python" -m tests.native.written_parity "$BUILD/parity"
export CUTWORK_PARITY="$BUILD/parity"
export PYTHONPATH="$OVERLAY:$SITE:$PWD" PYTHONDONTWRITEBYTECODE=1 CUTWORK_COSTS=default
for CPU in $CPUS; do
  export QEMU_CPU="$CPU"
  echo "==== $CPU: $("$BUILD/python" -c 'from cutwork import _native; print(*_native.isas())')"
  "$BUILD/python" -m pytest -q -p no:cacheprovider --noconftest -p tests.native.few_shapes \
    -k "neon and (matches or any_mask) or written_parity" tests/native/test_slots.py tests/native/test_kernels.py \
    tests/native/test_int4.py tests/native/written_parity.py "$@"
done
# Attention over bfloat16 and matrices of bytes, which the first of the processors above do not multiply.
[ $# -gt 0 ] || QEMU_CPU=neoverse-v1 "$BUILD/python" -m pytest -q -p no:cacheprovider --noconftest \
  -k "neondot and test_attention and bf16 and (1-1-64 or 9-3-20 or 8-1-33) or neoni8mm and (i8- and every_tail or saturate)" \
  tests/native/test_executor_ops.py tests/native/test_kernels.py
