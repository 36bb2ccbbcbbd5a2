"""Producers insert in transactions of their own while a run drains: none of their INSERTs may deadlock or time out because of it."""

import threading

import pytest
from parts import Site, eventually, made_store

ROWS, PRODUCERS = 400, 4


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "READ COMMITTED"])
def test_no_insert_of_a_producer_fails_while_a_run_drains(any_server, tmp_path, isolation):
    with any_server.database() as name:
        made_store(any_server.url(name)).close()
        site = Site(tmp_path / "home", any_server.url(name))
        site.tasks("from asyncsend import task\n@task\ndef noop(): pass\n")
        failed: list[str] = []

        def produce() -> None:
            with any_server.connect(name) as connection, connection.cursor() as cursor:
                cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
                connection.autocommit(False)
                for number in range(ROWS):
                    try:
                        cursor.execute("INSERT INTO asyncsend_jobs (task, payload, priority) VALUES ('noop', '{}', %s)", (number % 3,))
                        connection.commit()
                    except Exception as error:
                        failed.append(str(error))
                        connection.rollback()

        run = site.start("run", "--linger", "--max-time", "60s")
        eventually(lambda: site.store().standing("default").status == "in-progress", what="the run")
        producers = [threading.Thread(target=produce) for _ in range(PRODUCERS)]
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join(120)
        assert failed == []
        eventually(lambda: site.rows("COUNT(*)", "state = 'done' GROUP BY state")[:1] == [(ROWS * PRODUCERS,)], 60, "all jobs")
        run.terminate()
        out, err = run.communicate(timeout=60)
        assert (run.returncode, out, err) == (0, b"", b"")
