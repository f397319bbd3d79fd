from pathlib import Path

import pytest

from cutwork import machine
from cutwork.machine import Processor, available_memory, cpu_name, processor


def cpuinfo(vendor: str, family: int, model: int, stepping: int = 1) -> str:
    one = (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: Some Chip\nstepping\t: {stepping}\n\n"
    )
    return one + one.replace("processor\t: 0", "processor\t: 1")


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "generation"),
    [
        ("AuthenticAMD", 23, 0x31, 0, "Zen 2"),  # Rome
        ("AuthenticAMD", 25, 0x01, 1, "Zen 3"),  # Milan
        ("AuthenticAMD", 25, 0x11, 1, "Zen 4"),  # Genoa
        ("AuthenticAMD", 25, 0x21, 0, "Zen 3"),  # Ryzen 5000
        ("AuthenticAMD", 25, 0x61, 2, "Zen 4"),  # Ryzen 7000
        ("AuthenticAMD", 26, 0x02, 1, "Zen 5"),  # Turin
        ("AuthenticAMD", 26, 0x44, 0, "Zen 5"),  # Ryzen 9000
        ("GenuineIntel", 6, 0x55, 4, "Skylake-SP"),
        ("GenuineIntel", 6, 0x55, 7, "Cascade Lake"),
        ("GenuineIntel", 6, 0x55, 11, "Cooper Lake"),
        ("GenuineIntel", 6, 0x6A, 6, "Ice Lake"),
        ("GenuineIntel", 6, 0x8F, 8, "Sapphire Rapids"),
        ("GenuineIntel", 6, 0xFF, 0, "family 6, model 255"),
        ("HygonGenuine", 24, 1, 0, "family 24, model 1"),
    ],
)
def test_generations(vendor: str, family: int, model: int, stepping: int, generation: str) -> None:
    found = processor(cpuinfo(vendor, family, model, stepping))
    assert found == Processor("Some Chip", vendor, family, model, stepping)
    assert found.generation == generation
    assert str(found) == f"Some Chip ({generation})"


def test_amx_tells_more_than_a_models_number() -> None:
    claimed = cpuinfo("GenuineIntel", 6, 0xA7, 1)
    assert processor(claimed).generation == "Rocket Lake"
    assert processor(f"{claimed}flags : avx512f amx_int8 amx_tile\n").generation == "Sapphire Rapids or later"
    assert processor(cpuinfo("GenuineIntel", 6, 0xAD, 1) + "flags : amx_int8\n").generation == "Granite Rapids"


def test_arm_tells_its_part() -> None:
    found = processor("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n")
    assert (found.vendor, found.generation) == ("ARM", "Neoverse V1")
    assert found.name


def test_nothing_known_is_said_as_nothing() -> None:
    assert processor("").generation == ""
    assert cpu_name()


def test_memory_is_the_machines_or_less_in_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 << 20 < available_memory() < 1 << 50
    (tmp_path / "groups").write_text("0::/outer/inner\n")
    monkeypatch.setattr("cutwork.machine._GROUPS", tmp_path / "groups")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("60000000\n")
    monkeypatch.setattr("cutwork.machine._CGROUP", tmp_path)
    assert available_memory() > 1 << 27
    (tmp_path / "memory.max").write_text("100000000\n")
    assert available_memory() == 40_000_000
    (tmp_path / "memory.stat").write_text("anon 50000000\nactive_file 3000000\ninactive_file 2000000\n")
    assert available_memory() == 45_000_000  # what is cached gives way
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    for group, most in (("outer/inner", "max"), ("outer", "90000000")):
        (tmp_path / group / "memory.max").write_text(most)
        (tmp_path / group / "memory.current").write_text("60000000")
    assert available_memory() == 30_000_000
    (tmp_path / "groups").write_text("5:cpuset,memory:/job\n0::/\n")
    (tmp_path / "memory" / "job").mkdir(parents=True)
    (tmp_path / "memory" / "job" / "memory.limit_in_bytes").write_text("70000000")
    (tmp_path / "memory" / "job" / "memory.usage_in_bytes").write_text("60000000")
    (tmp_path / "memory" / "job" / "memory.stat").write_text("total_active_file 5000000\ntotal_inactive_file 0\n")
    assert available_memory() == 15_000_000
    monkeypatch.setattr("cutwork.machine._CGROUP", tmp_path / "none")
    monkeypatch.setattr("cutwork.machine._MEMORY", tmp_path / "none")
    assert available_memory() > 1 << 27


def test_a_processor_that_does_not_say_its_stepping_is_one() -> None:
    found = processor("vendor_id : GenuineIntel\ncpu family : 6\nmodel : 85\nmodel name : Xeon\nstepping : unknown\n")
    assert (found.name, found.stepping, found.generation) == ("Xeon", 0, "Skylake-SP")


def test_memory_is_what_ulimit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "statm").write_text("1000 10 10 1 0 10 0\n")
    monkeypatch.setattr(machine, "_OWN_MEMORY", tmp_path / "statm")
    monkeypatch.setattr(resource, "getpagesize", lambda: 4096)
    for limit, left in ((50_000_000, 45_904_000), (1_000_000, 0)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, resource.RLIM_INFINITY))
        assert available_memory() == left
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert available_memory() > 1 << 27
