"""
A newsletter from a CSV file to a real mail server, through runs of which some are killed; and whether what was said meanwhile was true.

    python -m tests.newsletter --rows 100000 --kills 5 --database mariadb --seed 7 --json newsletter.json

The truth is the mail server's list. `batch show`, `why`, `status` and `check` are asked again and again, each answer between two
looks at that list: what is called done was accepted by the second look, what was accepted long before the first is not called ready.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parts import PrivateServer, Site, eventually
from quick_sink import QuickSink

LETTER = {"to": "{{email}}", "subject": "News for {{name}}", "text": "Hello {{name}}, three stories about bread, salt and butter.", "html": "<p>Hello {{name}}</p>"}
SENT = {"to": "editor@example.com", "subject": "The newsletter is out", "text": "All of it"}
BAD_EVERY = 250  # every so many lines have an address that is none: dead, and the others go on
NEAR = 40  # mails before a kill in which nothing else is done
PACE = 0.5  # seconds between two looks at a long one: each is a process of its own, and the run wants the cores
LONG_AGO = 3.0  # seconds after which a mail that was sent must be known to be on its way


@dataclass
class Figures:
    """What came out; all is well if `lies` is empty, `lost`, `unexplained` and `then_doubled` are 0 and `then` is 1."""

    rows: int
    killed: int = 0
    runs: int = 0
    accepted: int = 0
    repeated: int = 0  # mails that were accepted twice: one for each killed run at most
    unexplained: int = 0  # repeats beyond that
    lost: int = 0
    dead: int = 0
    then: int = 0
    looks: int = 0
    seconds: float = 0.0
    lies: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not (self.lies or self.lost or self.unexplained) and self.then == 1


class Newsletter:
    """One of them on its way."""

    def __init__(self, site: Site, smtp: QuickSink, rows: int, kills: int, seed: int):
        self.site, self.smtp, self.chance = site, smtp, random.Random(seed)
        self.figures = Figures(rows)
        site.environment |= {"ASYNCSEND_EMAIL_URL": smtp.url, "ASYNCSEND_KEEP_DONE": "30d"}
        lines = [(f"reader{number}@example.com" if number % BAD_EVERY else f"reader{number} at example", f"Zoë O'Neill {number}") for number in range(rows)]
        self.good = [email for email, _ in lines if "@" in email]
        with open(site.home / "readers.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("email", "name"), *lines])
        for name, payload in (("letter", LETTER), ("sent", SENT)):
            (site.home / f"{name}.json").write_text(json.dumps(payload))
        self.kill_at = sorted(self.chance.sample(range(1, len(self.good)), kills))  # at so many accepted mails, and if we come late, not many more
        self._hold()
        self.percent = 0
        self.read = 0  # of the mail server's list
        self.accepted: dict[str, float] = {}  # recipient: when we saw it first
        self.run_began = 0.0

    def play(self) -> Figures:
        began = time.monotonic()
        self._enqueue()
        while self.site.rows("COUNT(*)", "state IN ('ready', 'running')") != [(0,)]:
            self._run()
            assert self.figures.runs < 1000, "the newsletter does not come to its end"
        self._judge()
        self.figures.seconds = round(time.monotonic() - began, 1)
        return self.figures

    def _hold(self) -> None:
        self.smtp.hold_at(min(self.kill_at[0] + self.chance.randrange(NEAR), len(self.good)) if self.kill_at else 1 << 30)

    def _enqueue(self) -> None:
        """Killed in the middle, and called again."""
        home = self.site.home
        command = ["enqueue", "email", f"@{home}/letter.json", "--each", f"{home}/readers.csv", "--batch", "november", "--then", "email", f"@{home}/sent.json"]
        first = self.site.start(*command)
        eventually(lambda: first.poll() is not None or self.site.rows("COUNT(*)") != [(0,)], 60, "the first rows")
        first.kill()
        first.communicate()
        subprocess.run(self.site.command(*command), env=self.site.environment, check=True, cwd="/", capture_output=True)
        assert self.site.rows("COUNT(*)", "batch_id = 'november'") == [(self.figures.rows,)]

    def _run(self) -> None:
        self.run_began = time.monotonic()
        run = self.site.start("run", "--max-time", "20s")
        self.figures.runs += 1
        eventually(lambda: self.smtp.recipients, 60, "the first mail")  # before it `check` says, and rightly, that there never was a run
        while run.poll() is None:
            left = self.kill_at[0] - len(self.smtp.recipients) if self.kill_at else self.figures.rows
            if left <= 0:
                run.kill()
                run.wait()
                self.kill_at.pop(0)
                self._hold()
                self.figures.killed += 1
            elif left < NEAR:
                time.sleep(0.0005)
            else:
                self.look()
                time.sleep(PACE if self.figures.rows > 5000 else 0.0)
        said = run.communicate()
        assert said == (b"", b""), said
        self._ask_status(died=run.returncode != 0)

    # ── what is said, and whether it is true ──
    def look(self) -> None:
        self.figures.looks += 1
        self.chance.choice((self._ask_batch, self._ask_why, self._ask_status, self._ask_check))()

    def _readers(self) -> int:
        """How many readers have their mail by now."""
        now = time.monotonic()
        while self.read < len(self.smtp.recipients):
            self.accepted.setdefault(self.smtp.recipients[self.read], now)
            self.read += 1
        return len(self.accepted) - (SENT["to"] in self.accepted)

    def _dead(self) -> int:
        return self.site.rows("COUNT(*)", "state = 'dead'")[0][0]

    def _ask_batch(self) -> None:
        said = json.loads(self.site("batch", "show", "november", "--json").stdout)
        readers = self._readers()
        self._expect(said["progress"] >= self.percent, f"progress went from {self.percent} to {said['progress']}")
        self._expect(said["counts"]["done"] <= readers, f"batch show calls {said['counts']['done']} done, {readers} were accepted")
        self._expect(said["total"] == self.figures.rows, f"batch show counts {said['total']} of {self.figures.rows}")
        self._expect(said["progress"] < 100 or readers == len(self.good), f"100 % with {readers} of {len(self.good)} accepted")
        self.percent = said["progress"]

    def _ask_why(self) -> None:
        self._readers()
        asked = time.monotonic()
        [(uid, payload)] = self.site.rows("uid, payload", f"id = (SELECT MIN(id) + {self.chance.randrange(self.figures.rows)} FROM asyncsend_jobs)") or [("", "")]
        if not uid:  # an id that no job got
            return
        uid, payload = (one.decode() if isinstance(one, bytes) else one for one in (uid, payload))
        recipient = json.loads(payload)["to"]
        said = self.site("why", uid).stdout
        accepted_at = self.accepted.get(recipient)
        self._readers()
        self._expect(" is done " not in said or recipient in self.accepted, f"never accepted: {said}")
        self._expect(" is dead " not in said or "@" not in recipient, f"nothing was wrong with it: {said}")
        # What this run sent a while ago is in its hands or done; what an earlier one sent may be the mail that its kill made unknown.
        if accepted_at and self.run_began < accepted_at < asked - LONG_AGO:
            self._expect(" is ready" not in said, f"accepted {asked - accepted_at:.1f} s before: {said}")

    def _ask_status(self, died: bool | None = None) -> None:
        said = json.loads(self.site("status", "--json").stdout)
        readers = self._readers()
        done = sum(one["done"] for one in said["totals"])
        self._expect(done <= readers + 1, f"status calls {done} done, {readers} were accepted")  # and the mail that says it is out
        self._expect(died is None or (said["died"], said["status"]) == (died, "idle"), f"a run that {'was killed' if died else 'ended'}: {said['status']}, died: {said['died']}")

    def _ask_check(self) -> None:
        before = self._dead()
        said = self.site("check", "--max-dead", "0", "--max-lag", "1d", "--max-failure-rate", "100%", code=None)
        after = self._dead()
        self._expect(said.returncode == 1 or not before, f"{before} dead, and check says {said.returncode}: {said.stdout}{said.stderr}")
        self._expect(said.returncode == 0 or after > 0, f"none is dead, and check says {said.returncode}: {said.stdout}{said.stderr}")

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.figures.lies.append(otherwise.strip())

    def _judge(self) -> None:
        self._ask_batch()
        self._expect(self.percent == 100, f"at the end the batch is at {self.percent} %")
        figures, received = self.figures, self.smtp.recipients
        figures.accepted = len(received)
        figures.then = received.count(SENT["to"])
        readers = [one for one in received if one != SENT["to"]]
        figures.repeated = len(readers) - len(set(readers))
        figures.unexplained = max(0, figures.repeated - figures.killed)
        figures.lost = len(set(self.good) - set(readers))
        figures.dead = self._dead()
        self._expect(figures.dead == figures.rows - len(self.good), f"{figures.dead} jobs are dead, {figures.rows - len(self.good)} lines had no address")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--database", choices=("mariadb", "sqlite"), default="mariadb")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newsletter-") as folder:
        smtp = QuickSink(Path(folder))
        server = PrivateServer() if arguments.database == "mariadb" else None
        try:
            with server.database() if server else nullcontext() as name:
                site = Site(Path(folder) / "home", server.url(name) if server else f"sqlite:///{folder}/asyncsend.sqlite3")
                site("init")
                figures = Newsletter(site, smtp, arguments.rows, arguments.kills, arguments.seed).play()
        finally:
            smtp.stop()
            if server:
                server.stop()
    print(" ".join(f"{name}={value}" for name, value in asdict(figures).items() if name != "lies"), f"lies={len(figures.lies)}")
    for lie in figures.lies[:20]:
        print("  " + lie)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(figures) | {"database": arguments.database, "seed": arguments.seed}, indent=2))
    sys.exit(not figures.well)


if __name__ == "__main__":
    main()
