# Everything a developer or CI runs. Servers come from scripts/stack; the build's own folder is cargo's: CARGO_TARGET_DIR holds.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# A build and the servers share the machine's cores: one goal at a time.
.NOTPARALLEL:

CARGO ?= cargo
# Optimized, because the tests push millions of points. planted-bugs: faults that tests switch on to prove they are caught.
TEST_FLAGS ?= --profile tests --features planted-bugs
# What goes to the tests' own runner, for instance: make test TEST_ARGS='--nocapture exactly_once'
TEST_ARGS ?=
CARGO_TARGET_DIR ?= target
# How many tests run at once: most of them wait most of the time, so twice as many as there are cores.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

# How many seeds the small random test gets under make chaos, for instance: make chaos CHAOS_SEEDS=50
CHAOS_SEEDS ?= 0

# The backlog of the tests of memory under make chaos, in MiB; the brokers need as much room on their disk.
CHAOS_MEMORY_MIB ?= 10240

# Sets KAFKA_BROKERS and DATABASE_URL of the servers that run.
STACK_ENV = stack_env=$$(scripts/stack env); eval "$$stack_env"

.PHONY: help
help: ## list the targets
	@printf 'usage: make TARGET\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: tools up ## set everything up and run the main job on real data
	$(CARGO) build --release
	@# Without the brokers: the demo brings its own Kafka.
	@$(STACK_ENV); unset KAFKA_BROKERS; "$(CARGO_TARGET_DIR)/release/series-ingest" demo

.PHONY: test
test: tools up ## set everything up and run all tests, against real servers
	@# Built first, so that compiling takes no time from tests that have deadlines.
	$(CARGO) test $(TEST_FLAGS) --no-run
	scripts/stack python >/dev/null
	@# Not on a machine whose Python is too old for one of them: 77, and the test says so.
	@for list in python/tests/requirements-pandas-*.txt; do scripts/stack python "$$list" >/dev/null || (($$? == 77)); done
	@# required: a server that does not answer fails a test instead of skipping it.
	@$(STACK_ENV); export SERIES_INGEST_TESTS=required; set -x; $(CARGO) test $(TEST_FLAGS) --no-fail-fast -- $(TEST_ARGS)

# The tests of exactly-once; their tables have the profile that SERIES_INGEST_TEST_PROFILE names, and an operator's trigger
# with SERIES_INGEST_TEST_TRIGGER=on.
EXACTLY_ONCE = arrival:: claims:: crashes:: damage:: dead_letters:: deletions:: disk_faults:: duplicates:: lost_commits:: outages:: \
	refusals:: restores:: server_faults:: topics::

.PHONY: test-profiles
test-profiles: tools up ## run the exactly-once tests on the profile throughput, and with the foreign key's trigger
	$(CARGO) test $(TEST_FLAGS) --test integration --no-run
	@$(STACK_ENV); export SERIES_INGEST_TESTS=required; set -x; \
	SERIES_INGEST_TEST_PROFILE=throughput $(CARGO) test $(TEST_FLAGS) --test integration --no-fail-fast -- $(EXACTLY_ONCE) $(TEST_ARGS); \
	SERIES_INGEST_TEST_TRIGGER=on $(CARGO) test $(TEST_FLAGS) --test integration --no-fail-fast -- $(EXACTLY_ONCE) $(TEST_ARGS)

.PHONY: chaos
chaos: tools up ## break servers and workers at random for CHAOS_MINUTES (30), after each kind of outage for 30 s
	$(CARGO) test $(TEST_FLAGS) --test integration --test chaos --no-run
	@# A round of CHAOS_SEEDS is the small one of make test, with the seeds from 1 on.
	@$(STACK_ENV); export SERIES_INGEST_TESTS=required; set -x; \
	MEMORY_MIB="$(CHAOS_MEMORY_MIB)" $(CARGO) test $(TEST_FLAGS) --test integration -- --nocapture --test-threads 1 memory::; \
	OUTAGE_S=30 $(CARGO) test $(TEST_FLAGS) --test integration -- --nocapture server_faults::; \
	for seed in $$(seq "$(CHAOS_SEEDS)"); do \
	  SEED=$$seed $(CARGO) test $(TEST_FLAGS) --test integration -- --nocapture outages_kills_and_rebalances; done; \
	$(CARGO) test $(TEST_FLAGS) --test chaos

# How long each fuzz target runs.
FUZZ_SECONDS ?= 600

# The sanitizer is in the C libraries too, and librdkafka's configure links with them: LDFLAGS.
.PHONY: fuzz
fuzz: tools ## give each fuzz target random input for FUZZ_SECONDS; takes a nightly compiler and cargo-fuzz
	@fuzz() { set -x; mkdir -p "fuzz/corpus/$$1"; LDFLAGS=-fsanitize=address $(CARGO) +nightly fuzz run "$$1" "fuzz/corpus/$$1" "$${@:2}" -- -max_total_time=$(FUZZ_SECONDS); }; \
	fuzz message tests/corpus; fuzz inputs tests/corpus/inputs; fuzz journal; fuzz copy; fuzz configuration config

.PHONY: bench
bench: tools up ## measure decode and encode, then the whole way from Kafka to the table
	@$(STACK_ENV); set -x; $(CARGO) bench; $(CARGO) run --release -- bench

.PHONY: lint
lint: tools ## check format, lints, documentation, scripts and dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps
	@if command -v shellcheck >/dev/null; then set -x; shellcheck scripts/* .ci/run; \
	else echo 'lint: shellcheck is not installed, the scripts are not checked'; fi
	@if $(CARGO) deny --version >/dev/null 2>&1; then set -x; $(CARGO) deny check bans licenses sources; \
	else echo 'lint: cargo-deny is not installed, the dependencies are not checked (cargo install --locked cargo-deny)'; fi

# Not part of lint: its answer changes with the world, not with the code, and it takes the advisories from the network.
.PHONY: audit
audit: ## look for known vulnerabilities in the dependencies (cargo-deny)
	$(CARGO) deny check advisories

.PHONY: sbom
sbom: ## print what is in the binary, crates and C libraries, as CycloneDX
	@$(CARGO) run --quiet --example sbom

.PHONY: tools
tools: ## install what the build needs, where it is missing
	@scripts/stack tools

.PHONY: up
up: ## bring Kafka and TimescaleDB up
	@scripts/stack up

.PHONY: down
down: ## stop Kafka and TimescaleDB; their data stays
	@scripts/stack down

.PHONY: clean
clean: ## delete what cargo built; the servers and their data stay (scripts/stack reset)
	$(CARGO) clean
