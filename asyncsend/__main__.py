"""`python -m asyncsend` and the `asyncsend` command."""

from __future__ import annotations


def main() -> None:
    import io
    import os
    import sys

    # `python -m` looks for modules in the current folder first, and that may be anybody's: a click.py there is not ours to execute.
    first = sys.path[0] if sys.path and not sys.flags.safe_path else ""
    if first and os.path.isdir(first) and os.path.samefile(first, ".") and not os.path.samefile(first, os.path.join(os.path.dirname(__file__), "..")):
        del sys.path[0]
    # Whoever starts us may have closed 0, 1 or 2: then the lock or a socket would get that number, and a print would go into it.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal's letters cannot show must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if sys.argv[1:] == ["run"]:  # cron's line: what it costs, it costs each minute
            from asyncsend import cron

            sys.exit(cron.start())
        if sys.argv[1:] in (["status"], ["status", "--json"]):  # what a page or a monitor asks again and again
            from asyncsend import overview

            sys.exit(overview.start(as_json="--json" in sys.argv))
    except KeyboardInterrupt:
        sys.exit("Aborted!")
    from asyncsend.cli import cli

    cli(prog_name="asyncsend")


if __name__ == "__main__":
    main()
