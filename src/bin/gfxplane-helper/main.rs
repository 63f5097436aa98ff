//! What libvirt and mdevctl call: reads records, opens no device, talks to nobody, and starts as
//! fast as a program in C, because libvirt has it run for each mdev again whenever one appears.

mod mdevctl;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use gfxplane::host::Root;
use gfxplane::inventory::{Sources, inventory};
use gfxplane::nodedev::offline;

// The unwinder from libgcc's archive instead of libgcc_s.so: loading that library would be a
// third of the run time of this program.
#[link(name = "gcc_eh", kind = "static", modifiers = "+whole-archive,-bundle")]
#[allow(unsafe_code)]
unsafe extern "C" {}

const USAGE: &str = "usage: gfxplane-helper capability UUID|PCI-ADDRESS|NODE-DEVICE
       gfxplane-helper -t TYPE -e EVENT -a ACTION -s STATE -u UUID -p PARENT   (as mdevctl calls it)";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(call) = mdevctl::Call::parse(&arguments) {
        return mdevctl::run(&root(), &program, &call);
    }
    let words: Vec<&str> = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .collect();
    match words[..] {
        ["capability", device] => capability(&root(), device),
        _ => {
            let _ = writeln!(io::stderr(), "{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn root() -> Root {
    std::env::var_os("GFXPLANE_ROOT").map_or_else(Root::system, Root::recorded)
}

/// Prints the bare capability element.
fn capability(root: &Root, device: &str) -> ExitCode {
    let sources = Sources::read(root);
    let inventory = inventory(&sources);
    let capability =
        offline::find(&sources, device).and_then(|(_, node)| node.capability(&inventory));
    match capability {
        Some(capability) => match writeln!(io::stdout(), "{capability}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        None => {
            let _ = writeln!(
                io::stderr(),
                "gfxplane-helper: there is no vfio device or mdev parent {device:?}"
            );
            ExitCode::FAILURE
        }
    }
}
