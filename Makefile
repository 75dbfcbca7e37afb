# The two commands to know: `make run` shows berth at work, `make test` shows that it does work.
# The build itself is meson's (meson.build); this file only names the steps.

.DEFAULT_GOAL := help
BUILD ?= build
SECONDS_EACH ?= 30

.PHONY: help deps languages engines build run test test-installers test-engines test-vm test-upgrade bench bench-memory bench-engines bench-neighbours check asan tsan asan-suites tsan-suites soak fuzz install clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

deps: ## install what is missing (apt) and make the system users
	@scripts/deps.sh

languages: ## install the toolchains of the languages that tests run (apt)
	@scripts/deps.sh languages

engines: ## install Docker, Podman and gVisor, of which tests start a daemon of their own (apt)
	@scripts/deps.sh engines

build: deps ## compile into build/
	@[ -f $(BUILD)/build.ninja ] || meson setup $(BUILD)
	@ninja -C $(BUILD)

run: build ## start a server, run hello through it, serve until Ctrl-C
	@BUILD=$(BUILD) scripts/run.sh

test: build languages engines ## unit tests, then the suites against the real programs
	@BUILD=$(BUILD) scripts/test.sh

test-installers: build languages ## libraries of rust, go, typescript and java from their registries
	@BERTH_INSTALLERS=1 BERTH_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -B -m pytest -p no:cacheprovider \
		-ra tests/integration/test_library_installers.py

test-engines: build engines ## every conformance case and attack on docker, Podman and gVisor too, and deploy/Dockerfile built (long)
	@BERTH_TEST_WAYS=all BERTH_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -B -m pytest -p no:cacheprovider -ra \
		-n $${BERTH_TEST_JOBS:-3} --dist loadfile \
		tests/integration/test_conformance.py tests/integration/test_conformance_limits.py \
		tests/integration/test_conformance_sessions.py tests/integration/test_docker_daemon.py \
		tests/integration/test_docker_layers.py tests/integration/test_docker_tls.py \
		tests/integration/test_podman.py tests/integration/test_deploy_image.py \
		tests/integration/test_engines.py tests/integration/test_runsc.py tests/integration/test_init_carried.py tests/security/test_attacks.py

test-vm: build ## the suites in a virtual machine: Debian's kernel, systemd, pure cgroup v2
	@BUILD=$(BUILD) scripts/test_vm.sh

test-upgrade: build ## sessions of an older build (PREVIOUS=commit) under this one's server
	@BUILD=$(BUILD) scripts/test_upgrade.sh

bench: build ## latency and throughput beside their baselines, printed
	@BUILD=$(BUILD) scripts/bench.sh

bench-memory: build ## what 10, 100 and 500 idle sessions take, printed
	@BUILD=$(BUILD) scripts/bench.sh memory

bench-engines: build engines ## native, docker, gVisor, and Docker's own SDK beside each other
	@/usr/bin/python3 -B bench/engines.py --build $(BUILD)

bench-neighbours: build ## latency beside endless output, readers that stop, a thousand idle connections
	@/usr/bin/python3 -B bench/neighbours.py --build $(BUILD)

check: deps ## include arrows, headers, format, banned calls, clang-tidy
	@scripts/check.sh

asan: deps ## unit tests with AddressSanitizer and UBSan
	@scripts/sanitize.sh build-asan address,undefined

tsan: deps ## unit tests of what has threads, with ThreadSanitizer
	@scripts/sanitize.sh build-tsan thread

asan-suites: build ## integration suites, server and engine with AddressSanitizer and UBSan
	@BUILD=$(BUILD) scripts/sanitize_suites.sh build-asan address,undefined berth-server berth-native berth-monitor

tsan-suites: build ## integration suites, server with ThreadSanitizer
	@BUILD=$(BUILD) scripts/sanitize_suites.sh build-tsan thread berth-server

soak: build ## hundreds of kills at random, under requests and sessions, and 1000 races; BERTH_SEED=N repeats a run
	@BERTH_SOAK=1 BERTH_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -B -m pytest -p no:cacheprovider \
		-s -q tests/integration/test_random_kills.py tests/integration/test_session_kills.py \
		tests/integration/test_session_races.py

fuzz: deps ## run each fuzzer for SECONDS_EACH (30) seconds
	@SECONDS_EACH=$(SECONDS_EACH) scripts/fuzz.sh

install: build ## install into the prefix of the build folder, with the units of systemd
	@meson install -C $(BUILD) --no-rebuild
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemd-sysusers && systemctl daemon-reload; fi

clean: ## remove the build folders
	rm -rf $(BUILD) build-asan build-tsan build-fuzz build-check
