"""A set of instructions with two functions of its own, the others borrowed, added as a real one is: a file, a line."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SET = """
#include "kernels/set.h"

namespace cutwork {
extern int64_t own_products;  // counts what this set has multiplied by itself
namespace {

#include "kernels/common.inc"

namespace int4 {
#include "kernels/int4/ops/generic.inc"
using I4 = GenericI4;
}

namespace linear {
#include "kernels/linear/no_spmm_rows.inc"
#include "kernels/linear/ops/generic.inc"
using F32 = GenericF32;
using Bf16 = GenericBf16;

struct I8 : GenericI8 {
  using Masked = I8;
  static Acc dot(Acc acc, const Chunk& chunk, const InputValue* x) {
    ++own_products;
    for (int64_t k = kCols - 1; k >= 0; --k) acc.lane[k % 2] += int32_t{chunk.lane[k]} * int32_t{x[k]};
    return acc;
  }
  static void sum4(const Acc* acc, int stride, Sum* out) {
    for (int r = 0; r < 4; ++r) out[r] = acc[r * stride].lane[0] + acc[r * stride].lane[1];
  }
};
}

namespace slots {
#include "kernels/slots/ops/generic.inc"
using Op = GenericSlots;
}

namespace floats {
#include "kernels/floats/generic.inc"
}

namespace attention {
using namespace floats;
#include "kernels/attention/float_dots.inc"
using BfloatDots = FloatDots<uint16_t>;
using CodeDots = FloatDots<int8_t>;
}

#include "kernels/set.inc"

}  // namespace

namespace sets {
extern const Isa pretend, elsewhere;
constinit const Isa pretend = {.name = "pretend", .needs = kCompiledFor, .kernels = kKernels};
}
}
"""

# Of a processor that has what no processor has.
ELSEWHERE = """
#include "kernels/set.h"

namespace cutwork::sets {
extern const Isa elsewhere;
constinit const Isa elsewhere = {.name = "elsewhere", .needs = Features{1} << 31, .kernels = {}};
}
"""

PROGRAM = """
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "kernels/isa.h"

namespace cutwork {
int64_t own_products = 0;
}
using namespace cutwork;

std::vector<float> multiply(const Isa& isa, Algorithm algorithm, const Weight& weight, int64_t tokens) {
  const LinearKernels& kernels = isa.kernels.linear;
  std::vector<float> x(tokens * weight.cols), y(tokens * weight.rows);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(int(i * 37 % 101) - 50);
  void* input = std::aligned_alloc(64, (kernels.input_bytes(weight.dtype, tokens, weight.cols) + 63) / 64 * 64);
  void* scratch = std::aligned_alloc(64, (kernels.scratch_bytes(algorithm, weight, tokens) + 127) / 64 * 64);
  kernels.prepare(weight.dtype, x.data(), weight.cols, tokens, weight.cols, 0, tokens, input);
  kernels.multiply(algorithm, weight, input, tokens, 0, weight.rows, y.data(), weight.rows, scratch);
  std::free(input);
  std::free(scratch);
  return y;
}

const char* why_not(const char* name) {
  static char text[300];
  try {
    find_available_isa(name);
    return "available";
  } catch (const std::invalid_argument& error) {
    std::snprintf(text, sizeof text, "%s", error.what());
    return text;
  }
}

int main() {
  constexpr int64_t rows = 21, cols = 150;
  std::vector<int8_t> codes(rows * cols);
  std::vector<float> floats(rows * cols), scale(rows, 0.5f);
  std::vector<int32_t> sums(rows);
  for (size_t i = 0; i < codes.size(); ++i) {
    codes[i] = int8_t(int(i * 61 % 255) - 127);
    floats[i] = float(codes[i]) / 3;
    sums[i / cols] += codes[i];
  }
  Weight weight = {};
  weight.rows = rows;
  weight.cols = cols;
  for (const Isa* isa : available_isas()) std::printf("%s ", isa->name);
  std::printf("\\n%s\\n", chosen_isa().name);
  for (const char* name : {"elsewhere", "avx512"}) std::printf("%s\\n", why_not(name));
  for (DType dtype : {DType::i8, DType::f32}) {
    weight.dtype = dtype;
    weight.values = dtype == DType::i8 ? static_cast<const void*>(codes.data()) : floats.data();
    weight.scale = scale.data();
    weight.row_sums = sums.data();
    for (Algorithm algorithm : {Algorithm::gemv, Algorithm::gemm}) {
      own_products = 0;
      const auto expected = multiply(find_isa("scalar"), algorithm, weight, 5);
      const auto found = multiply(find_isa("pretend"), algorithm, weight, 5);
      std::printf("%s %s\\n", found == expected ? "same" : "different", own_products > 0 ? "own" : "borrowed");
    }
  }
}
"""


def test_a_set_is_a_file_and_a_line(tmp_path: Path) -> None:
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("needs the sources")
    shutil.copytree(ROOT / "native", tmp_path / "native")
    lines = (ROOT / "CMakeLists.txt").read_text().replace("add_set(scalar)\n", "add_set(@)\nadd_set(scalar)\n")
    (tmp_path / "CMakeLists.txt").write_text(lines.replace("add_set(@)", "add_set(elsewhere)\nadd_set(pretend)"))
    sets = tmp_path / "native" / "kernels" / "sets"
    (sets / "pretend.cpp").write_text(SET)
    (sets / "elsewhere.cpp").write_text(ELSEWHERE)
    options = [
        "-DCUTWORK_X86=OFF",
        "-DCUTWORK_NEON=OFF",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DPython_ROOT_DIR={sys.prefix}",
    ]
    build = tmp_path / "build"
    configure = [Path(sys.executable).with_name("cmake"), "-S", tmp_path, "-B", build, *options]
    subprocess.run(configure, check=True, capture_output=True)
    commands = {
        Path(entry["file"]).relative_to(tmp_path / "native").as_posix(): shlex.split(entry["command"])
        for entry in json.loads((build / "compile_commands.json").read_text())
        if Path(entry["file"]).is_relative_to(tmp_path / "native")
    }
    (tmp_path / "program.cpp").write_text(PROGRAM)
    names = ["kernels/isa.cpp", "kernels/tuning.cpp"]
    names += [f"kernels/sets/{name}.cpp" for name in ("elsewhere", "pretend", "scalar")]
    compiler = commands[names[0]][0]
    wanted = [[*commands[name], "-O0"] for name in names]
    program = [compiler, "-std=c++20", "-I", tmp_path / "native", "-c", tmp_path / "program.cpp", "-o", "program.o"]

    def compiled(command: list[str | Path]) -> Path:
        done = subprocess.run(command, cwd=build, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return build / command[command.index("-o") + 1]

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [program, *wanted]))
    if shutil.which("nm"):  # what is shared by name may be linked into what another processor runs
        sets = [path for path in objects if path.parent.name == "sets"]
        shared = subprocess.run(["nm", "-C", *sets], check=True, capture_output=True, text=True).stdout.splitlines()
        assert len(sets) == 3 and not [line for line in shared if " W " in line or " V " in line]
    compiled([compiler, *objects, "-o", "program"])
    own = {name: value for name, value in os.environ.items() if name != "CUTWORK_ISA"}
    done = subprocess.run([build / "program"], env=own, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "pretend scalar ",
        "pretend",
        "this processor does not support the instruction set 'elsewhere' (in CUTWORK_ISA or isa=); choose one of "
        "pretend, scalar",
        "this build knows no instruction set 'avx512' (in CUTWORK_ISA or isa=); choose one of pretend, scalar",
        "same own",  # int8: gemv by its own products, exact as all sets' are
        "same borrowed",
        "same borrowed",  # floats
        "same borrowed",
    ]
