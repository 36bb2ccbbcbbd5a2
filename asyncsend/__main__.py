"""`python -m asyncsend` and the `asyncsend` command."""

from __future__ import annotations


def main() -> None:
    from asyncsend.cli import cli

    cli(prog_name="asyncsend")


if __name__ == "__main__":
    main()
