"""`cutwork`, `python -m cutwork`: the command line, which can be interrupted while it is being imported, too."""

from cutwork.interrupts import careful_interrupts, leave


def main() -> None:
    """Run the command line."""
    careful_interrupts()
    try:
        from cutwork.cli import main as command
    except KeyboardInterrupt:
        leave()
    command()


if __name__ == "__main__":
    main()
