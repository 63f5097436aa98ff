//! Runs cases that are folders or files: recorded hosts, domains, logs, documents. Each output is
//! compared to the byte, and validated where there is a schema.
//!
//! Each folder in `tests/hosts` is a host: `root/` is its miniature root directory, `expect/` holds
//! the expected output, and `README` says where the host comes from. `UPDATE_GOLDEN=1 cargo test
//! --test cases` writes `expect/` anew. A file there that no test reads is a failure, as a stale
//! golden proves nothing.
//!
//! Documents are validated against xml-schemas/gfxplane-nodedev.rng and, without our capability,
//! against the schema of the installed libvirt. If that schema is missing, the tests fail.
//!
//! * `tests/fixup` has domains, and how they are fixed on these hosts.
//! * `tests/hook` has domains, and what the qemu hook does with them.
//! * `tests/managed` has domains of KubeVirt and oVirt, and what the hooks of these do to them.
//! * `tests/wrapper` has calls of mdevctl, and our answers for libvirt before 10.1.
//! * `tests/learn` has logs of domains, and what is learned from them.
//! * `tests/doctor` has hosts, and what stands between them and a display.
//! * `tests/overview` has hosts, and what the overview shows of them.
//! * `tests/explain` has messages and logs, and their explanations.
//! * `tests/vm/matrix-measured` has what a real QEMU did with domains.
//! * `tests/lossless` has odd XML documents, for the engine that edits them.
//! * `json-schemas` has the schemas of the JSON that the program prints of all these.
//! * `docs` has manual pages, commands with their output, and statements that can be checked against the
//!   program. `packaging/completions` has what shells complete.

mod support {
    pub(crate) mod collect;
    pub(crate) mod commands;
    pub(crate) mod completions;
    pub(crate) mod docs;
    pub(crate) mod doctor;
    pub(crate) mod explain;
    pub(crate) mod export;
    pub(crate) mod fixup;
    pub(crate) mod folders;
    pub(crate) mod hook;
    pub(crate) mod hooked;
    pub(crate) mod hostile;
    pub(crate) mod hosts;
    pub(crate) mod json;
    pub(crate) mod learn;
    pub(crate) mod lossless;
    pub(crate) mod man;
    pub(crate) mod managed;
    pub(crate) mod matrix;
    pub(crate) mod oracle;
    pub(crate) mod overlay;
    pub(crate) mod overview;
    pub(crate) mod plan;
    pub(crate) mod promises;
    pub(crate) mod property;
    pub(crate) mod schema;
    pub(crate) mod worlds;
    pub(crate) mod wrapper;
}

use std::process::ExitCode;

use libtest_mimic::{Arguments, run};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = support::overlay::trials();
    trials.extend(support::hosts::trials());
    trials.extend(support::property::trials());
    trials.extend(support::collect::trials());
    trials.extend(support::export::trials());
    trials.extend(support::doctor::trials());
    trials.extend(support::overview::trials());
    trials.extend(support::explain::trials());
    trials.extend(support::fixup::trials());
    trials.extend(support::hook::trials());
    trials.extend(support::plan::trials());
    trials.extend(support::managed::trials());
    trials.extend(support::wrapper::trials());
    trials.extend(support::learn::trials());
    trials.extend(support::matrix::trials());
    trials.extend(support::lossless::trials());
    trials.extend(support::json::trials());
    trials.extend(support::man::trials());
    trials.extend(support::completions::trials());
    trials.extend(support::commands::trials());
    trials.extend(support::docs::trials());
    run(&arguments, trials).exit_code()
}
