"""All fixtures live in parts.py, where tests can also import its classes from."""

from parts import *  # noqa: F403
from parts import pytest_terminal_summary  # noqa: F401
