//! Reads the arguments that mdevctl passes to its callouts and notifiers (mdevctl(8) "CALLOUTS",
//! src/callouts.rs).

use std::ffi::OsString;

/// One call of a callout or notifier by mdevctl.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The argument of `-e`: `get`, `pre`, `post`, `live` or `notify`.
    pub event: String,
    /// The argument of `-a`: `attributes`, `start`, `define`, …
    pub action: String,
    /// The argument of `-s`: for a notifier, the outcome of the action.
    pub state: String,
    /// The argument of `-u`: the device's UUID.
    pub uuid: String,
    /// The argument of `-p`: the sysfs name of the device's parent.
    pub parent: String,
}

impl Call {
    /// Reads the arguments. Returns `None` if they don't begin with `-t`, as mdevctl's always do.
    ///
    /// The field of a missing option is empty. If an option occurs twice, the last one counts.
    /// Unknown options are ignored, because a later mdevctl may have more.
    pub fn parse(arguments: &[OsString]) -> Option<Self> {
        if arguments.first()? != "-t" {
            return None;
        }
        let mut call = Call::default();
        for pair in arguments.chunks(2) {
            let [option, value] = pair else { break };
            // A value that is not UTF-8 can't name a device of which we have a record.
            let value = value.to_str().unwrap_or_default().to_owned();
            match option.to_str() {
                Some("-e") => call.event = value,
                Some("-a") => call.action = value,
                Some("-s") => call.state = value,
                Some("-u") => call.uuid = value,
                Some("-p") => call.parent = value,
                _ => {}
            }
        }
        Some(call)
    }
}

/// Returns mdevctl's command, such as `list`, from a process's `/proc/PID/cmdline`; `list` for its
/// other name, `lsmdev`. `None` if the process is not mdevctl, or has no command.
pub fn verb(cmdline: &[u8]) -> Option<&[u8]> {
    let mut words = cmdline.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    match program.rsplit(|byte| *byte == b'/').next() {
        Some(b"mdevctl") => words.next(),
        Some(b"lsmdev") => Some(b"list"),
        _ => None,
    }
}

/// Returns whether the process with this `/proc/PID/cmdline` is an mdevctl that lists devices. Only
/// a list may get attributes: `mdevctl define` would store them in the definition.
pub fn is_list(cmdline: &[u8]) -> bool {
    verb(cmdline) == Some(b"list")
}
