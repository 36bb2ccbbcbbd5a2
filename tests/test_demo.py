"""The demo is the first thing a newcomer sees: what it shows is true, and what it says to try next works as it stands."""

import subprocess
import sys


def test_the_demo_shows_every_outcome_and_its_next_steps_work(tmp_path):
    folder = tmp_path / "demo"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    shown = subprocess.run([sys.executable, "-m", "asyncsend", "demo", "--folder", str(folder)], env=environment, capture_output=True, text=True, cwd="/", check=True).stdout
    for state in ("done", "dead", "held", "ready"):
        assert f"  {state} " in shown
    assert "3 mails lie in" in shown
    assert len(list((folder / "outbox" / "new").glob("*.eml"))) == 3
    steps = [line.strip() for line in shown.partition("5. Try next")[2].splitlines() if line.strip()]
    assert len(steps) >= 8
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join(steps)], env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the bank is closed" in done.stdout
    assert "* * * * *" in done.stdout
