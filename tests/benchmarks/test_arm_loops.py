"""How benchmarks.engine.arm_loops finds loops in what objdump prints, and tells their cycles."""

import stat
from pathlib import Path

import pytest

from benchmarks.engine import arm_loops

DISASSEMBLY = """
neondot.cpp.o:     file format elf64-littleaarch64

0000000000000000 <void cutwork::linear::gemv_dense<cutwork::linear::I8, 1>(long)>:
   0:\tmov\tx0, #0x40                   \t// #64
   4:\tldr\tq1, [x1], #16
   8:\tb.le\t18 <void cutwork::linear::gemv_dense<cutwork::linear::I8, 1>(long)+0x18>
   c:\tsdot\tv0.4s, v1.16b, v2.16b
  10:\tsubs\tx0, x0, #0x10
  14:\tb.ne\tc <void cutwork::linear::gemv_dense<cutwork::linear::I8, 1>(long)+0xc>  // b.any
  18:\tldp\tq1, q2, [x1]
  1c:\tsmmla\tv0.4s, v1.16b, v2.16b
  20:\tcbnz\tx0, 18 <void cutwork::linear::gemv_dense<cutwork::linear::I8, 1>(long)+0x18>
  24:\tb\t4 <void cutwork::linear::gemv_dense<cutwork::linear::I8, 1>(long)+0x4>
  28:\tret
"""


def test_the_innermost_loop_with_the_most_products_is_found() -> None:
    code = arm_loops.functions(DISASSEMBLY)
    (body,) = code.values()
    loops = arm_loops.innermost_loops(body)
    assert [[text.split()[0] for text in loop] for loop in loops] == [
        ["sdot", "subs", "b.ne"],
        ["ldp", "smmla", "cbnz"],
    ]
    assert list(map(arm_loops.products, loops)) == [16, 32]
    assert arm_loops.hottest(code, r"linear::gemv_dense<.*I8, 1>") == loops[1]
    with pytest.raises(ValueError, match="no loop with products in gemm"):
        arm_loops.hottest(code, "gemm")


def test_the_model_is_asked_about_the_loop_alone(tmp_path: Path) -> None:
    seen, mca = tmp_path / "seen", tmp_path / "mca"
    mca.write_text(f"#!/bin/sh\ncat >{seen}\necho 'Iterations:        1000'\necho 'Total Cycles:      2500'\n")
    mca.chmod(mca.stat().st_mode | stat.S_IXUSR)
    code = arm_loops.functions(DISASSEMBLY)
    assert arm_loops.cycles(arm_loops.hottest(code, "I8, 1"), "neoverse-n1", str(mca)) == 2.5
    assert seen.read_text().splitlines() == [
        "pass:",
        "ldp\tq1, q2, [x1]",
        "smmla\tv0.4s, v1.16b, v2.16b",
        "cbnz\tx0, pass",
    ]


def test_cycles_are_told_for_as_many_products() -> None:
    row = {"about": "dense", "set": "neondot", "instructions": 9, "loads": 2, "products": 256}
    told = arm_loops.table({"rows": [{**row, "cycles": {"neoverse-n2": 5.0}}]}).splitlines()[-1]
    assert told == "| dense | neondot | 9 | 2 | 256 | – | 2.50 | – | – |"
