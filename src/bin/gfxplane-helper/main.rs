//! gfxplane-helper, which libvirt, mdevctl, KubeVirt and oVirt call. It reads records, and asks
//! neither a device nor a daemon. It starts as fast as a program in C, because libvirt runs it for
//! every mdev whenever one appears.

// In a test, the main function is the test harness's.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code))]

mod manager_hooks;
mod mdevctl_callout;
mod qemu_hook;
#[cfg(not(test))]
#[path = "../common/start.rs"]
mod start;
mod wrapper;

use std::ffi::OsString;
use std::io::{self, Write};

use gfxplane::domain::shell::plain;
use gfxplane::host::{Root, callout, leave_no_core};
use gfxplane::publish::inventory::Sources;
use gfxplane::publish::mdevctl_call::Call;
use gfxplane::publish::offline;

const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
/// The exit code of a usage error. mdevctl takes it for "not my device", which does no harm.
const USAGE_ERROR: u8 = 2;

const USAGE: &str = "usage: gfxplane-helper capability UUID|PCI-ADDRESS|NODE-DEVICE
       gfxplane-helper -t TYPE -e EVENT -a ACTION -s STATE -u UUID -p PARENT   (as mdevctl calls it)
       gfxplane-helper qemu-hook OBJECT OPERATION SUBOP EXTRA   (as libvirt's qemu hook; domain XML on stdin)
       gfxplane-helper onDefineDomain --vmi JSON --domain XML   (as KubeVirt calls it)
       gfxplane-helper before_vm_start   (as vdsm calls it, with _hook_domxml)
       gfxplane-helper after_hostdev_list_by_caps   (as vdsm calls it, with _hook_json)
       gfxplane-helper callout   (makes mdevctl's link to it, or takes it away, as the setting \"callout\" says)
       mdevctl …   (a link of this name: mdevctl for libvirt before 10.1)";

fn run() -> u8 {
    leave_no_core();
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if wrapper::is_called(&program) {
        return wrapper::run(&root(), &program, &arguments);
    }
    if let Some(call) = manager_hooks::Call::parse(&program, &arguments) {
        return manager_hooks::run(&root(), &call);
    }
    if let Some(call) = Call::parse(&arguments) {
        return mdevctl_callout::run(&root(), &call);
    }
    // The name of a guest may be anything, even "--help", or not UTF-8.
    if arguments.first().is_some_and(|verb| verb == "qemu-hook") {
        let operation = arguments.get(2).map(OsString::as_os_str);
        return qemu_hook::run(&root(), operation.unwrap_or_default());
    }
    let words: Option<Vec<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
    match words.unwrap_or_default()[..] {
        ["capability", device] => capability(&root(), device),
        ["callout"] => match callout::set(&root()) {
            Ok(()) => SUCCESS,
            Err(error) => fail(&format!("mdevctl's link: {error}")),
        },
        _ => {
            let _ = writeln!(io::stderr(), "{USAGE}");
            USAGE_ERROR
        }
    }
}

fn root() -> Root {
    let named = std::env::var_os("GFXPLANE_ROOT").filter(|root| !root.is_empty());
    named.map_or_else(Root::system, Root::recorded)
}

/// Prints only the capability element of a device or an mdev parent. Returns the exit code.
fn capability(root: &Root, device: &str) -> u8 {
    let sources = Sources::read(root);
    let Some((_, node)) = offline::find(&sources, device) else {
        return fail(&format!(
            "there is no vfio device or mdev parent {device:?}"
        ));
    };
    match writeln!(io::stdout(), "{}", node.capability(&sources)) {
        Ok(()) => SUCCESS,
        Err(_) => FAILURE,
    }
}

/// Prints a problem to stderr. Returns the exit code of a failure.
fn fail(problem: &str) -> u8 {
    let _ = writeln!(io::stderr(), "gfxplane-helper: {}", plain(problem));
    FAILURE
}
