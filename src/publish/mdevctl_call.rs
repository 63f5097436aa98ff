//! Reads the arguments with which mdevctl calls its callouts and notifiers (mdevctl(8) "CALLOUTS",
//! src/callouts.rs).

use std::ffi::OsString;

/// One call by mdevctl.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The argument of `-e`: `get`, `pre`, `post`, `live` or `notify`.
    pub event: String,
    /// The argument of `-a`: `attributes`, `start`, `define`, …
    pub action: String,
    /// The argument of `-s`: the outcome, in a notification.
    pub state: String,
    /// The argument of `-u`: the device's UUID.
    pub uuid: String,
    /// The argument of `-p`: the sysfs name of the device's parent.
    pub parent: String,
}

impl Call {
    /// Reads the arguments. Returns `None` if they aren't mdevctl's, which always begin with `-t`.
    ///
    /// An option that is missing is empty. If an option occurs twice, the last one counts. Unknown
    /// options are ignored, because a later mdevctl may have more.
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

/// Returns the mdevctl command with which a process was started, from its `/proc/PID/cmdline`.
/// `None` if the process is not mdevctl, or has no command.
pub fn verb(cmdline: &[u8]) -> Option<&[u8]> {
    let mut words = cmdline.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    match program.rsplit(|byte| *byte == b'/').next() {
        Some(b"mdevctl") => words.next(),
        Some(b"lsmdev") => Some(b"list"),
        _ => None,
    }
}

/// Returns whether a process is an mdevctl that lists devices, from its `/proc/PID/cmdline`. Only a
/// list may get attributes: `mdevctl define` would store them in the definition.
pub fn is_list(cmdline: &[u8]) -> bool {
    verb(cmdline) == Some(b"list")
}
