"""What this machine is, and how much of its memory is left."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_MEMORY, _OWN_MEMORY = Path("/proc/meminfo"), Path("/proc/self/statm")
_CGROUP, _GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

# Families, ranges of models and what they are called, as in Linux's arch/x86/kernel/cpu/amd.c and intel-family.h.
_AMD: dict[int, dict[str, tuple[range, ...]]] = {
    23: {"Zen": (range(0x30), range(0x50, 0x60)), "Zen 2": (range(0x30, 0x50), range(0x60, 0xB0))},
    25: {"Zen 3": (range(0x10), range(0x20, 0x60)), "Zen 4": (range(0x10, 0x20), range(0x60, 0xB0))},
    26: {
        "Zen 5": (range(0x30), range(0x40, 0x50), range(0x60, 0x80)),
        "Zen 6": (range(0x50, 0x60), range(0x80, 0xB0), range(0xC0, 0xD0)),
    },
}
_INTEL = {
    "Haswell": (0x3C, 0x3F, 0x45, 0x46),
    "Broadwell": (0x3D, 0x47, 0x4F, 0x56),
    "Skylake": (0x4E, 0x5E),
    "Kaby Lake": (0x8E, 0x9E),
    "Ice Lake": (0x6A, 0x6C, 0x7D, 0x7E),
    "Tiger Lake": (0x8C, 0x8D),
    "Rocket Lake": (0xA7,),
    "Alder Lake": (0x97, 0x9A),
    "Raptor Lake": (0xB7, 0xBA, 0xBF),
    "Meteor Lake": (0xAA, 0xAC),
    "Lunar Lake": (0xBD,),
    "Arrow Lake": (0xB5, 0xC5, 0xC6),
    "Sapphire Rapids": (0x8F,),
    "Emerald Rapids": (0xCF,),
    "Granite Rapids": (0xAD, 0xAE),
    "Sierra Forest": (0xAF,),
}
_WITH_AMX = ("Sapphire Rapids", "Emerald Rapids", "Granite Rapids")
_ARM = {0xD0C: "Neoverse N1", 0xD40: "Neoverse V1", 0xD49: "Neoverse N2", 0xD4F: "Neoverse V2", 0xD84: "Neoverse V3"}


@dataclass(frozen=True)
class Processor:
    """A processor as the system tells of it: two with the same name may be of different generations."""

    name: str
    vendor: str = ""
    family: int = 0
    model: int = 0  # on ARM the part
    stepping: int = 0
    amx: bool = False  # whether it multiplies matrices of bytes, which hypervisors tell more truly than the model

    @property
    def generation(self) -> str:
        """Such as "Zen 4" or "Ice Lake"; family and model where they are not known, "" where nothing is."""
        known = None
        if self.vendor == "AuthenticAMD":
            names = _AMD.get(self.family, {})
            known = next((name for name, ranges in names.items() if any(self.model in r for r in ranges)), None)
        elif self.vendor == "GenuineIntel" and self.family == 6:
            if self.model == 0x55:  # one model of three generations
                known = "Cooper Lake" if self.stepping >= 10 else "Cascade Lake" if self.stepping >= 5 else "Skylake-SP"
            else:
                known = next((name for name, models in _INTEL.items() if self.model in models), None)
                if self.amx and known not in _WITH_AMX:  # as some clouds give theirs an older model's number
                    known = f"{_WITH_AMX[0]} or later"
        elif self.vendor == "ARM":
            known = _ARM.get(self.model)
        return known or (f"family {self.family}, model {self.model}" if self.vendor else "")

    def __str__(self) -> str:
        return f"{self.name} ({self.generation})" if self.generation else self.name


def processor(cpuinfo: str | None = None) -> Processor:
    """The processor that runs this, or the first one of such a text as /proc/cpuinfo."""
    if cpuinfo is None:
        cpuinfo = _read(_CPUINFO)
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "CPU implementer" in fields:
        arm = fields["CPU implementer"] == "0x41"
        name = fields.get("model name") or platform.machine()
        return Processor(name, "ARM" if arm else fields["CPU implementer"], model=_number(fields.get("CPU part")))
    return Processor(
        fields.get("model name") or platform.processor() or platform.machine(),
        fields.get("vendor_id", ""),
        family=_number(fields.get("cpu family")),
        model=_number(fields.get("model")),
        stepping=_number(fields.get("stepping")),
        amx="amx_int8" in fields.get("flags", "").split(),
    )


def _number(text: str | None) -> int:
    """0 for what is none: sandboxes such as gVisor's say "unknown"."""
    try:
        return int(text or "0", 0)
    except ValueError:
        return 0


def cpu_name() -> str:
    """The processor's name as the system tells it, with its generation: "AMD EPYC (Zen 5)"."""
    return str(processor())


def available_memory() -> int:
    """Bytes this process could still take: of the machine, or what its control group or `ulimit -v` leaves of them."""
    if sys.platform == "win32":
        return _windows_memory()
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _read(_MEMORY).splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    return min([*free, *_memory_of_groups(), *_addresses()])


def _memory_of_groups() -> Iterator[int]:
    """Bytes that the control group of this process, and each above it, leave it: cached files give way to it."""
    for line in _read(_GROUPS).splitlines():  # hierarchy:controllers:path
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            mounts, limit, used, cached = (_CGROUP, _CGROUP / "unified"), "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            mounts, cached = (_CGROUP / "memory", _CGROUP / controllers), "total_"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        for mount in mounts:
            group = mount / path.lstrip("/")
            for folder in (group, *(above for above in group.parents if above.is_relative_to(mount))):
                most, now = _read(folder / limit).strip(), _read(folder / used).strip()
                if most.isdigit() and now.isdigit():
                    facts = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines())
                    files = sum(int(facts.get(f"{cached}{state}_file", 0)) for state in ("active", "inactive"))
                    yield max(0, int(most) - max(0, int(now) - files))


def _addresses() -> Iterator[int]:
    """Bytes that this process may still map, if that is limited: mapped files count as well."""
    try:
        import resource
    except ModuleNotFoundError:  # as on Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read(_OWN_MEMORY).split()
    if limit != resource.RLIM_INFINITY and pages:
        yield max(0, limit - int(pages[0]) * resource.getpagesize())


class _MemoryStatus(ctypes.Structure):
    """What Windows calls MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("physical", ctypes.c_uint64),
        ("free", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 5),
    )


def _windows_memory() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.free)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
