"""
Templates of mails: `welcome.html`, `welcome.txt`, `welcome.subject` in one folder, filled with the params of a row (Jinja2, sandboxed).

A row chooses a name and gives values; it is never a template itself. Nothing in here may differ between two attempts.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import threading
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import (
    BaseLoader,
    StrictUndefined,
    Template,
    TemplateNotFound,
    TemplateRuntimeError,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    select_autoescape,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from asyncsend.answers import Answer, BadPayload, Retry
from asyncsend.tasks.members import text
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jinja2 import Environment

    from asyncsend.tasks import Payload

MAX_FILE_BYTES = 1024 * 1024
MAX_CHARACTERS = 5_000_000  # of one part: twenty times what Gmail shows of a mail
CPU_SECONDS = 5.0
MEMORY = 256 * 1024 * 1024  # what a template may take beyond what the process has
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class _TooMuch(Exception):
    """A template that would go on for ever, or fill the memory."""


class _Outside(Exception):
    """A template that lies outside of the folder."""


class Templates:
    """The templates of one folder, compiled when first asked for and again when their file has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = _Environment(
            loader=_Folder(folder), undefined=StrictUndefined, autoescape=select_autoescape(["html"], default=False), finalize=_shown, trim_blocks=True, lstrip_blocks=True
        )
        # What these print differs from one attempt to the next.
        del self._environment.globals["lipsum"], self._environment.filters["random"]

    def filled(self, payload: Payload) -> Payload:
        """The payload with subject, text and html instead of template and params. Retry if a file is not there, BadPayload if it cannot be filled."""
        name = text(payload, "template", required=True) or ""
        if not _NAME.fullmatch(name) or len(name) > 200:
            raise BadPayload(f"template {printable(name, 60)!r} is no name: letters, digits, _ . - and / between folders, without .html or .txt")
        for given in ("text", "html"):
            if payload.get(given) is not None:
                raise BadPayload(f"{given} and template are both given: a mail is made of one of them")
        params = payload.get("params")
        if params is not None and not isinstance(params, dict):
            raise BadPayload('params must be an object: {"name": "Ann"}')
        with _explained(name, self.folder), _bounded():
            parts = self._render(name, params or {})
        rest = {member: value for member, value in payload.items() if member not in ("template", "params")}
        return {**parts, **{member: value for member, value in rest.items() if value is not None or member not in parts}}

    def _render(self, name: str, params: dict[str, Any]) -> dict[str, str]:
        html, plain, subject = (self._find(f"{name}.{kind}") for kind in ("html", "txt", "subject"))
        if html is None and plain is None:
            raise _missing(f"{name}.html and {name}.txt are", self.folder)
        parts = {member: _filled(template, template.root_render_func, params) for member, template in (("html", html), ("text", plain)) if template}
        if subject is not None:
            parts["subject"] = _filled(subject, subject.root_render_func, params)
        elif html is not None and "subject" in html.blocks:
            parts["subject"] = unescape(_filled(html, html.blocks["subject"], params))
        elif plain is not None and "subject" in plain.blocks:
            parts["subject"] = _filled(plain, plain.blocks["subject"], params)
        if "subject" in parts:  # a file ends with a line end, and a block may be written over several lines
            parts["subject"] = " ".join(parts["subject"].split())
        return parts

    def _find(self, name: str) -> Template | None:
        with _explained(name, self.folder):
            try:
                return self._environment.get_template(name)
            except TemplateNotFound:
                return None


def _filled(template: Template, function: Callable[..., Iterator[str]], params: dict[str, Any]) -> str:
    """What a template or one of its blocks makes of these params."""
    environment = template.environment
    assert isinstance(environment, _Environment)
    pieces, size = [], 0
    with _explained(template.name or "", environment.folder):
        for piece in function(template.new_context(params)):
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise _TooMuch(f"it makes more than {MAX_CHARACTERS:,} characters: does a loop go too far?")
            pieces.append(piece)
    return "".join(pieces)


@contextlib.contextmanager
def _explained(name: str, folder: Path) -> Iterator[None]:
    """Turn what Jinja2 raises into an answer that names template and line."""
    try:
        yield
    except (Answer, TemplateNotFound) as error:
        if isinstance(error, TemplateNotFound) and error.name != name:
            raise _missing(f"{printable(str(error.name), 100)}, which {_place(error, name)} asks for, is", folder) from error
        raise
    except TemplateSyntaxError as error:
        raise BadPayload(f"template {error.name or name}, line {error.lineno}: {printable(error.message or '', 300)}") from error
    except UndefinedError as error:
        advice = 'give it in params, or write {{ … | default("") }}'
        raise BadPayload(f"template {_place(error, name)}: {printable(str(error), 300)}: {advice}") from error
    except (MemoryError, RecursionError) as error:
        raise BadPayload(f"template {_place(error, name)}: it takes too much memory: does a loop or an include go too far?") from error
    except Exception as error:
        kind = "" if isinstance(error, (_TooMuch, _Outside, TemplateRuntimeError)) else f"{type(error).__name__}: "
        raise BadPayload(f"template {_place(error, name)}: {kind}{printable(str(error), 300)}") from error


def _place(error: BaseException, name: str) -> str:
    """The innermost template an error comes from, and the line."""
    found, step = name, error.__traceback__
    while step is not None:
        template = step.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            found = f"{template.name}, line {template.get_corresponding_lineno(step.tb_lineno)}"
        step = step.tb_next
    return found


def _missing(what: str, folder: Path) -> Retry:
    # A deploy may be under way: a failed attempt, not a dead job.
    return Retry(None, f"{what} not in {folder}: put it there, or set ASYNCSEND_TEMPLATES", reason="no-template")


def _shown(value: Any) -> Any:
    """A value as it is printed: nothing that has an address in memory, which every attempt would print otherwise, and no None."""
    if value is None:
        raise TemplateRuntimeError('a value is null, and a mail would say None: write {{ … or "" }}')
    if not isinstance(value, (str, int, float, list, dict, tuple, Undefined)):
        raise TemplateRuntimeError(f"a {type(value).__name__} cannot be printed: are its () missing, or a |list, |join?")
    return value


class _Environment(ImmutableSandboxedEnvironment):
    @property
    def folder(self) -> Path:
        assert isinstance(self.loader, _Folder)
        return self.loader.folder

    def join_path(self, template: str, parent: str) -> str:
        """The name as it is: relative to the folder. What an .html takes in must escape as it does."""
        if parent.endswith(".html") and not template.endswith(".html"):
            raise TemplateRuntimeError(f"{printable(template, 100)} is not .html, so its values would not be escaped: an .html may take in .html only")
        return template


class _Folder(BaseLoader):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        root = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(root, template))
        if not path.startswith(root + os.sep) or not template.isprintable():
            raise _Outside(f"{printable(template, 100)!r} does not lie in {self.folder}")
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # a named pipe would wait for its other end
                seen = os.fstat(file.fileno())
                raw = file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise TemplateNotFound(template) from error
        except OSError as error:
            raise Retry(None, f"cannot read the template {printable(path, 150)} ({error.strerror})", reason="no-template") from error
        if len(raw) > MAX_FILE_BYTES:
            raise _TooMuch(f"it is larger than {MAX_FILE_BYTES:,} bytes")

        def unchanged() -> bool:
            try:
                now = os.stat(path)
            except OSError:
                return False
            return (now.st_mtime_ns, now.st_size, now.st_ino) == (seen.st_mtime_ns, seen.st_size, seen.st_ino)

        return raw.decode("utf-8"), path, unchanged


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """CPU_SECONDS of our own CPU time, however busy the host is, and MEMORY more than we have; _TooMuch or MemoryError beyond."""
    if threading.current_thread() is not threading.main_thread():  # no signals there: the job's timeout is the bound
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        raise _TooMuch(f"it is not done after {CPU_SECONDS:g} s of CPU time: does a loop go too far?")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        with contextlib.suppress(OSError, ValueError, IndexError):  # no /proc, no bound
            with open("/proc/self/statm", "rb") as file:
                wanted = int(file.read().split()[0]) * resource.getpagesize() + MEMORY
            if soft == resource.RLIM_INFINITY or soft > wanted:
                resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    finally:
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
