//! Runs all of libvirt's own test documents: checks how they are fixed, and that we read them as
//! libvirt does. `tests/libvirt-source` fetches them.

mod support {
    pub(crate) mod argv;
    pub(crate) mod corpus;
    pub(crate) mod oracle;
    pub(crate) mod promises;
    #[expect(
        dead_code,
        reason = "tests/cases.rs holds node devices against schemas, too"
    )]
    pub(crate) mod schema;
    #[expect(dead_code, reason = "chance is for tests/cases.rs")]
    pub(crate) mod worlds;
}

use std::process::ExitCode;

use libtest_mimic::{Arguments, run};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    run(&arguments, support::corpus::trials()).exit_code()
}
