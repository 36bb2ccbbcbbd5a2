"""`python -m asyncsend` and the `asyncsend` command."""

from __future__ import annotations


def main() -> None:
    import os

    # Whoever starts us may have closed 0, 1 or 2: then the lock or a socket would get that number, and a print would go into it.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    from asyncsend.cli import cli

    cli(prog_name="asyncsend")


if __name__ == "__main__":
    main()
