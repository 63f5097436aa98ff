//! gfxplane-probe, the program that opens devices and that udev runs. It needs no libvirt.

// In a test, the main function is the test harness's.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code))]

#[cfg(not(test))]
#[path = "../common/start.rs"]
mod start;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use nix::sys::stat::{Mode, umask};

use gfxplane::cli::complete::Line;
use gfxplane::cli::probe::{Arguments, prober};
use gfxplane::cli::{End, exit_code};
use gfxplane::device::evidence::{Method, resolve};
use gfxplane::device::facts::Reason;
use gfxplane::device::id::DeviceId;
use gfxplane::domain::shell::plain_lines;
use gfxplane::host::run::{forget as forget_device, publish_unasked};
use gfxplane::host::sysfs::Device;
use gfxplane::host::{Root, mdevctl, settings, sysfs};
use gfxplane::libvirt::{Failure, Without};
use gfxplane::probe::asking::{Request, ask_and_keep};
use gfxplane::probe::instance::{keep, sweep};
use gfxplane::probe::{Asked, Manner, child};
use gfxplane::publish::inventory::{Sources, active};
use gfxplane::publish::words::{neutral_properties, properties, words};

fn run() -> u8 {
    fill_standard_files();
    // Everybody may read our files in /run, but only we may write them.
    let _ = umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let internal = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--child", id, asker, ref manner @ ..] => Some(as_child(id, asker, manner)),
        ["--udev", name] => Some(with_id(name, udev)),
        ["--forget", name] => Some(with_id(name, |id| {
            forget_device(&Root::system(), id).map_err(|e| Failure::Environment(e.to_string()))?;
            Ok(End::Done)
        })),
        ["--keep", name] => Some(with_id(name, |id| Ok(End::of(keep(&Root::system(), id))))),
        ["--sweep"] => Some(Ok(End::of(sweep(&Root::system())))),
        _ => None,
    };
    exit_code(&internal.unwrap_or_else(by_hand))
}

fn as_child(id: &str, asker: &str, manner: &[&str]) -> anyhow::Result<End> {
    with_id(id, |id| {
        let (Ok(asker), Some(manner)) = (asker.parse(), Manner::from_arguments(manner)) else {
            return Err(Failure::Usage("--child ID PID [MANNER…]".into()).into());
        };
        child::run(&Root::system(), id, asker, manner);
        Ok(End::Done)
    })
}

fn with_id(text: &str, then: impl FnOnce(DeviceId) -> anyhow::Result<End>) -> anyhow::Result<End> {
    then(
        text.parse()
            .map_err(|error: gfxplane::device::id::NotADevice| Failure::Usage(error.to_string()))?,
    )
}

fn by_hand() -> anyhow::Result<End> {
    if let Some(line) = Line::asked() {
        return line.end(Arguments::command(), Arc::new(Without));
    }
    let arguments = Arguments::parse();
    let context = arguments.global.context()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let end = arguments.probe.run(&context, &prober()?, &mut out);
    out.flush()?;
    end
}

/// Prints the properties of a device, for `IMPORT{program}`.
///
/// Asks an mdev without a valid record, but only at `add`; at `add` and `change`, also has a
/// libvirt with the wrapper read its definition again ([`mdevctl::have_read_again`]). Never asks a
/// PCI device, but writes what is known about it to `/run/gfxplane/devices`. Prints at least one
/// property, so that udev has a data file for the device, from which the mdevctl notifier sees that
/// this program has run.
fn udev(id: DeviceId) -> anyhow::Result<End> {
    let root = Root::system();
    let action = std::env::var_os("ACTION").unwrap_or_default();
    let is_mdev = matches!(id, DeviceId::Mdev(_));
    if is_mdev && action == "add" {
        ask_new(&root, id)?;
    }
    let (sources, device) = Sources::read_device(&root, id);
    let mut out = io::stdout().lock();
    let entry = device.map(|device| active(&sources, &device));
    let (finding, require) = entry.map_or_else(
        || (resolve(Vec::new(), Reason::Vanished), Vec::new()),
        |entry| (entry.finding, entry.require),
    );
    out.write_all(properties(&words(&finding, &require)).as_bytes())?;
    out.write_all(neutral_properties(&finding, &require).as_bytes())?;
    // The tree in /run/gfxplane/devices leaves out QEMU's statements.
    let evidence = finding.evidence.as_ref();
    if let Some(evidence) = evidence.filter(|by| !is_mdev && by.method != Method::Qemu)
        && let Err(error) = publish_unasked(&root, id, &finding.facts, evidence.method)
    {
        complain(format_args!(
            "{id} is not in /run/gfxplane/devices: {error}"
        ));
    }
    // A libvirt that shows only the attributes of definitions does not read them again at these
    // events.
    if (action == "add" || action == "change")
        && let DeviceId::Mdev(uuid) = id
        && let Some(parent) = sysfs::parent_of(&root, id)
        && let Err(error) = mdevctl::have_read_again(&root, &parent, uuid)
    {
        complain(format_args!(
            "libvirt may show outdated attributes of {id}: /etc/mdevctl.d/{parent}: {error}"
        ));
    }
    Ok(End::Done)
}

/// Prints a problem to stderr. The program does not fail, because udev ignores the properties of a
/// program that fails.
fn complain(problem: fmt::Arguments<'_>) {
    let problem = plain_lines(&problem.to_string());
    let _ = writeln!(io::stderr(), "gfxplane-probe: {problem}");
}

/// Asks a device that has just appeared.
///
/// The kernel announces an mdev before it attaches the driver. After that, it links the type, by
/// which rules know the device (drivers/vfio/mdev/mdev_core.c, `mdev_device_create`). The driver's
/// link appears before the device can be opened (drivers/base/dd.c, `really_probe`). So until the
/// deadline, "no driver" and "no such device" only mean that it is too early.
fn ask_new(root: &Root, id: DeviceId) -> anyhow::Result<()> {
    let config = settings::config(root, &mut Vec::new());
    let prober = prober()?;
    let limit = Instant::now() + config.deadline;
    loop {
        let (mut sources, mut device) = Sources::read_device(root, id);
        while device.as_ref().is_some_and(|device| !can_be_opened(device)) && Instant::now() < limit
        {
            thread::sleep(Duration::from_millis(10));
            (sources, device) = Sources::read_device(root, id);
        }
        let deadline = limit.saturating_duration_since(Instant::now());
        let request = Request {
            prober: &prober,
            asked: Asked::Unasked(config.probe),
            fresh: false,
            deadline,
            path: None,
        };
        let outcome = ask_and_keep(root, &sources, id, device.as_ref(), &request);
        let reason = outcome.answer.facts.display.reason();
        let is_early = matches!(reason, Some(Reason::NoDriver | Reason::Vanished));
        if !is_early || device.is_none() || Instant::now() >= limit {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn can_be_opened(device: &Device) -> bool {
    let has_node = device.iommu_group.is_some() || device.cdev.is_some();
    device.driver.is_some() && has_node && device.type_id.is_some()
}

/// Opens /dev/null as stdin, stdout and stderr if these are closed, so that no other file gets
/// their numbers. Rust's own start would do this, but this program does without it
/// (`src/bin/common/start.rs`).
fn fill_standard_files() {
    while let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        if null.as_raw_fd() > 2 {
            break;
        }
        std::mem::forget(null);
    }
}
