"""How much of a process lies in huge pages: where processes are compared, all should have as many."""

from pathlib import Path


def huge_share(process: int | str) -> float:
    """Of a process's private memory, the part that is in transparent huge pages; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    sizes = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in text.splitlines()[1:]}
    return round(sizes.get("AnonHugePages", 0) / max(1, sizes.get("Anonymous", 0)), 3)
