# Two commands are all a newcomer needs: make demo, make test. Both make their own virtual environment in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: help demo test lint types audit bench torture soak simulate newsletter clean

help:  ## list these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(VENV)/.installed  ## see jobs go out in a temporary folder
	$(BIN)/asyncsend demo

# Most tests wait for servers and processes, so three files go at a time; each of the three has a MariaDB of its own.
test: $(VENV)/.tested  ## install what is missing, then check style and types and run all tests
	tests/install-servers.sh
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive asyncsend
	$(BIN)/python -m pytest -n 3 --dist loadfile

lint: $(VENV)/.tested  ## style only
	$(BIN)/ruff check .

types: $(VENV)/.tested  ## types only
	$(BIN)/mypy

audit: $(VENV)/.tested  ## known weaknesses of our code and of what it stands on; asks the advisory service, so it needs the network
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive asyncsend
	@$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/frozen.txt
	@$(BIN)/pip-audit --strict --disable-pip --no-deps --progress-spinner off --requirement $(VENV)/frozen.txt > $(VENV)/audited.txt 2>&1; \
	code=$$?; tail -n 40 $(VENV)/audited.txt; \
	if grep -qE 'ConnectionError|ServiceError|could not be audited|[Cc]ould not connect|timed out' $(VENV)/audited.txt; then \
		echo "NOT AUDITED: the advisory service cannot be reached from this machine, so nothing is known; run make audit where there is a network"; exit 1; \
	fi; exit $$code

# In an environment that has what `pip install asyncsend` brings and pytest, for the server of the tests: what the tests need besides makes pymysql's import dearer.
PEERS = $(if $(ONLY),$(findstring peers,$(ONLY)),peers)
bench: $(VENV)-bare/.installed $(PEERS:peers=$(VENV)-peers/.installed)  ## measure everything against raw floors and other queues: make bench QUICK=1, make bench ONLY=tick,drain
	tests/install-servers.sh $(PEERS)
	BENCH_PEERS=$(VENV)-peers $(VENV)-bare/bin/python -m benchmarks --size $(if $(QUICK),quick,full) --only '$(ONLY)'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "asyncsend needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "this Python cannot make a virtual environment: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	@touch $@

$(VENV)-bare/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m venv $(VENV)-bare
	$(VENV)-bare/bin/python -m pip install --quiet --disable-pip-version-check --editable . pytest
	@touch $@

# One by one: what cannot be had today becomes a row of the table that says so.
$(VENV)-peers/.installed: $(VENV)/bin/python benchmarks/peers-requirements.txt
	$(BIN)/python -m venv $(VENV)-peers
	@grep -o '^[^# ]*' benchmarks/peers-requirements.txt | while read -r package; do \
	    $(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check "$$package" || echo "NOT INSTALLED: $$package"; \
	done
	@touch $@

torture: $(VENV)/.tested  ## kill real runs and look at the sinks, on each database: make torture KILLS=10000 LANES=2
	for database in $(or $(DATABASES),mariadb sqlite); do \
	    $(BIN)/python -m tests.torture --kills $(or $(KILLS),1000) --database $$database --seed $(or $(SEED),7) --lanes $(or $(LANES),1) \
	        --workers $(or $(WORKERS),1) --json benchmarks/results/torture-$$database.json || exit; \
	done
	$(BIN)/python -m tests.contention $(or $(SERVERS),mariadb)
	$(BIN)/python -m pytest tests/test_mutants.py

soak: $(VENV)/.tested  ## the same for hours: make soak HOURS=8
	$(BIN)/python -m tests.torture --kills 100000000 --seconds $$(( $(or $(HOURS),1) * 3600 )) --database $(or $(DATABASE),mariadb) --workers $(or $(WORKERS),3)

simulate: $(VENV)/.tested  ## play simulated histories of runs: make simulate SEEDS=100000 DATABASE=mariadb
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) --database $(or $(DATABASE),sqlite) --first $(or $(FIRST),0)

newsletter: $(VENV)/.tested  ## 100,000 lines of a CSV file to a real mail server, five runs killed: make newsletter ROWS=100000 KILLS=5
	$(BIN)/python -m tests.newsletter --rows $(or $(ROWS),100000) --kills $(or $(KILLS),5) --database $(or $(DATABASE),mariadb) --seed $(or $(SEED),7)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-bare $(VENV)-peers build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
