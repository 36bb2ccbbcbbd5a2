"""Take one rule out of the protocol, and the simulation or the model must notice: checks that cannot fail are none."""

import mutants
import pytest
import simulation
import test_state_machine
from parts import Clock, made_store

# A seed whose history needs the rule. When the product or the simulation changes, another may: it is looked for among the first.
NEEDED_IN = {
    "no-fence": 10, "claim-without-owner": 9, "claim-without-state": 2, "settle-without-state": 0, "charge-at-claim": 0,
    "settle-by-id-only": 0, "lease-not-renewed": 10, "rescue-of-a-living-run": 0, "take-without-generation": 0, "journal-cleared-before-the-settle": 0,
    "journal-not-replayed": 0, "start-mark-not-committed": 0, "crash-uncharged": 0,
    "effect-after-the-lease": 10, "order-not-asked": 1, "limit-not-counted": 1,
}  # fmt: skip
MOST_SEEDS = 150
SEEN_BY_THE_MODEL = [
    "settle-without-owner", "claim-without-owner", "claim-without-state", "settle-without-state", "charge-at-claim", "settle-by-id-only",
    "lease-not-renewed", "rescue-of-a-living-run", "take-without-generation", "start-mark-not-committed",
]  # fmt: skip


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    made = simulation.Databases("sqlite", tmp_path_factory.mktemp("mutants"))
    yield made
    made.close()


def test_every_mutant_is_looked_for():
    assert {*NEEDED_IN, *SEEN_BY_THE_MODEL} == set(mutants.MUTANTS)


@pytest.mark.parametrize("name", NEEDED_IN)
def test_the_simulation_notices(databases, name):
    for seed in (NEEDED_IN[name], *range(MOST_SEEDS)):
        with mutants.mutant(name):
            broken = simulation.simulate(seed, databases.fresh(), databases.folder).rules.broken
        if broken:
            assert simulation.simulate(seed, databases.fresh(), databases.folder).rules.broken == [], "the product itself breaks here"
            return
    pytest.fail(f"{name} survives {MOST_SEEDS} seeds: what no history needs may as well not be there")


@pytest.mark.parametrize("name", SEEN_BY_THE_MODEL)
def test_the_model_notices(tmp_path, name):
    clock = Clock()
    clock.store = store = made_store(f"sqlite:///{tmp_path / 'asyncsend.sqlite3'}", clock)
    store._execute("PRAGMA synchronous = OFF", {})
    with mutants.mutant(name), pytest.raises(AssertionError):
        test_state_machine.play(store, clock, 200)
    store.close()


def test_a_mutant_whose_text_is_gone_is_an_error():
    with pytest.raises(AssertionError, match="correct the mutant"), mutants.changed(mutants.RunStatements, "beat", ("no such text", "")):
        pass
