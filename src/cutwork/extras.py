"""What to install where something optional is missing."""

from importlib.metadata import requires


def install(extra: str) -> str:
    """The command that brings the packages of an extra, by their names, as Cutwork itself may be on no index."""
    lines = [line.partition(";") for line in requires("cutwork") or ()]
    packages = [f'"{package}"' for package, _, marker in lines if marker.replace("'", '"').endswith(f'"{extra}"')]
    return " ".join(["pip install", *packages])
