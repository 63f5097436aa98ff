//! `gfxplane` without a verb: the host as a tree, from its graphics cards to its guests' screens.
//!
//! Only [`read`] reads the host. The other functions turn its result into text.

mod html;

pub use html::page;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::page::{Page, count};
use crate::cli::{End, json};
use crate::domain::shell::quoted;
use crate::explain::doctor::Verdict;
use crate::host::{Warning, domains, pci_ids, settings};
use crate::libvirt::surroundings::HostSurroundings;
use crate::libvirt::{Context, Failure, SYSTEM};
use crate::plan::Level;
use crate::predict::viewers;
use crate::probe::opened_unasked;
use crate::publish::inventory::{Sources, State, inventory};
use crate::publish::overview::{
    Defined, DeviceLine, Given, GuestEntry, GuestState, Guests, GuestsFrom, Overview, ParentLine,
    Problem, TypeLine, overview,
};
use crate::publish::unknown::Around;

/// The options of the overview, which are those of `gfxplane` without a verb.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct OverviewArgs {
    /// Without a verb: print the overview as JSON
    #[arg(long)]
    json: bool,
    /// Without a verb: write the overview to this file, as one page of HTML (- for stdout)
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<PathBuf>,
    /// Without a verb: also show other devices, unused virtual functions and notes
    #[arg(long)]
    all: bool,
}

impl OverviewArgs {
    /// Returns the first option of the overview that the user gave, if any. They are wrong with a
    /// verb.
    #[must_use]
    pub(crate) fn given(&self) -> Option<&'static str> {
        [
            (self.json, "--json"),
            (self.html.is_some(), "--html"),
            (self.all, "--all"),
        ]
        .into_iter()
        .find_map(|(is_given, name)| is_given.then_some(name))
    }

    /// Prints the overview. Returns [`End::Lacking`] if libvirt could not tell the guests.
    ///
    /// # Errors
    /// libvirt is on another host; the file or the output can't be written.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let mut found = read(context, self.all)?;
        let warnings = std::mem::take(&mut found.warnings);
        let unknown = found.guests_unknown.as_ref();
        // `gfxplane check --all` ends in the same way.
        let end = match unknown.is_some_and(|problem| problem.level > Level::Info) {
            true => End::Lacking,
            false => End::Done,
        };
        if self.json {
            found.warnings = warnings;
            json(out, &found)?;
            return Ok(end);
        }
        context.warn(&warnings);
        match &self.html {
            None => text(&found).print(out)?,
            Some(path) => write_to(path, &page(&found), false, out)?,
        }
        Ok(end)
    }
}

/// Writes the file that the user named, so that nobody ever sees half of it; for `-`, writes to
/// `out`. Follows a link. If `is_program` is true, the file is executable. Writes into a path that
/// is no regular file, such as `/dev/stdout` or a FIFO, without replacing it.
pub(super) fn write_to(
    path: &Path,
    text: &str,
    is_program: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if path.as_os_str() == "-" {
        return Ok(out.write_all(text.as_bytes())?);
    }
    let written = if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let file = std::fs::OpenOptions::new().write(true).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
    } else {
        let target = path.canonicalize();
        replace_whole(target.as_deref().unwrap_or(path), text, is_program)
    };
    let failed = |error| Failure::Environment(format!("{}: {error}", path.display()));
    Ok(written.map_err(failed)?)
}

/// Writes a new file, which then replaces any earlier one, or a link, as a whole. Others may read
/// the file and, if `is_program` is true, run it.
pub(super) fn replace_whole(path: &Path, text: &str, is_program: bool) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    // Others may read the file, whatever the user's umask was ([`crate::cli::tool::run`]).
    let rights = std::fs::Permissions::from_mode(if is_program { 0o777 } else { 0o666 });
    // The error for the temporary file would name that file, which the user does not know.
    std::fs::metadata(directory)?;
    let mut file = tempfile::Builder::new()
        .permissions(rights)
        .tempfile_in(directory)
        .map_err(|error| io::Error::from(error.kind()))?;
    file.as_file_mut().write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// Reads the host and its guests, and makes the overview. `all` is the option `--all`.
///
/// # Errors
/// libvirt is on another host, whose devices can't be seen from here.
pub fn read(context: &Context, all: bool) -> Result<Overview, Failure> {
    let surroundings = HostSurroundings::new(context, true, None, None)?;
    let sources = Sources::read(&context.root);
    let mut inventory = inventory(&sources);
    let gpus = sources.host.gpus.iter().map(|gpu| &gpu.pci);
    let parents = sources.host.parents.iter();
    let parents = parents.filter_map(|parent| parent.pci.as_ref());
    let ids: Vec<(u16, u16)> = gpus
        .chain(parents)
        .map(|pci| (pci.vendor, pci.device))
        .collect();
    let names = match ids[..] {
        [] => BTreeMap::new(),
        _ => pci_ids::names(&context.root, &ids),
    };
    let guests = guests(context, &mut inventory.warnings);
    let config = settings::config(&context.root, &mut inventory.warnings);
    let unasked = opened_unasked(&sources, config.probe);
    let around = Around::read(&context.root, unasked, &mut inventory.warnings);
    let policy = surroundings.policy();
    let mut found = overview(
        Given {
            sources: &sources,
            inventory: &inventory,
            around: &around,
            names: &names,
            guests: &guests,
            policy: &policy,
            connect: context.connect.as_deref(),
            all,
        },
        &surroundings,
    );
    for warning in surroundings.warnings() {
        if !found.warnings.contains(&warning) {
            found.warnings.push(warning);
        }
    }
    Ok(found)
}

/// Returns all domains: libvirt's or, if the system's libvirt can't be asked, those in its files,
/// with a warning if it has failed. If there are neither, returns none, with the reason.
pub(super) fn guests(context: &Context, warnings: &mut Vec<Warning>) -> Guests {
    let root = &context.root;
    let mut failure = None;
    if !root.is_recorded() || context.connect.is_some() {
        match context.libvirt.guests() {
            Ok(Some(mut domains)) => {
                domains.sort_by(|a, b| a.name.cmp(&b.name));
                return Guests {
                    domains,
                    from: GuestsFrom::Libvirt,
                    unknown: None,
                };
            }
            Ok(None) => {}
            Err(error) => failure = Some(error.to_string()),
        }
    }
    // The files are those of the system's libvirt.
    let is_system = matches!(context.connect.as_deref(), None | Some(SYSTEM));
    let files = is_system.then(|| domains::read(root, warnings)).flatten();
    let Some(files) = files else {
        return Guests {
            domains: Vec::new(),
            from: GuestsFrom::Nowhere,
            unknown: Some(unknown(context, failure)),
        };
    };
    if let Some(failure) = failure {
        context.say(&format!(
            "warning: {failure}: these are the guests of libvirt's files"
        ));
    }
    let domains = files.into_iter().map(|file| Defined {
        name: file.name,
        xml: file.xml,
        state: match file.runs {
            Some(true) => GuestState::Running,
            Some(false) => GuestState::ShutOff,
            None => GuestState::Unknown,
        },
    });
    Guests {
        domains: domains.collect(),
        from: GuestsFrom::Files,
        unknown: None,
    }
}

/// Returns why the guests are not known. `failure` is libvirt's error, if libvirt was asked.
fn unknown(context: &Context, failure: Option<String>) -> Problem {
    let is_recorded = context.root.is_recorded();
    let uri = context.connect.as_deref().unwrap_or(SYSTEM);
    let start = "sudo systemctl start libvirtd # or virtqemud.socket, where each driver has a daemon of its own";
    let as_root = "sudo gfxplane # reads libvirt's files if libvirt does not answer";
    let mut fixes = Vec::new();
    if failure.is_some() {
        fixes.push(match uri {
            SYSTEM => start.to_owned(),
            other => format!("virsh -c {} list # has to work first", quoted(other)),
        });
    }
    if !is_recorded && uri == SYSTEM && !nix::unistd::geteuid().is_root() {
        fixes.push(as_root.to_owned());
    }
    let (level, why) = match failure {
        Some(failure) => (Level::Warn, failure),
        None if is_recorded => (Level::Info, "the recording has none".into()),
        None => (
            Level::Info,
            "this gfxplane was installed without libvirt, and /etc/libvirt/qemu can't be read"
                .into(),
        ),
    };
    Problem {
        level,
        text: why,
        fixes,
    }
}

/// A line of the overview, with its details.
struct Row {
    depth: usize,
    /// The verdict; `None` for a line that can be neither right nor wrong.
    verdict: Option<Level>,
    name: String,
    /// The text after the name. Empty parts are left out.
    parts: Vec<String>,
    problems: Vec<Problem>,
    /// The command with which the user can see the screen.
    look: Option<String>,
}

impl Row {
    fn new(depth: usize, verdict: Option<Level>, name: &str) -> Self {
        Row {
            depth,
            verdict,
            name: name.to_owned(),
            parts: Vec::new(),
            problems: Vec::new(),
            look: None,
        }
    }

    fn rest(&self) -> String {
        let parts = self.parts.iter().map(String::as_str);
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        parts.join(", ")
    }
}

/// Returns the first line: the counts, and what is wrong.
fn headline(overview: &Overview) -> String {
    let summary = overview.summary;
    let gpus = match summary.gpus {
        0 => "no graphics card".into(),
        some => count(some, "graphics card", "graphics cards"),
    };
    let guests = match (summary.guests, overview.guests_from) {
        (_, GuestsFrom::Nowhere) => match &overview.guests_unknown {
            Some(problem) if problem.level == Level::Info => {
                format!("guests are not known ({})", problem.text)
            }
            _ => "guests are not known".into(),
        },
        (0, _) => "no guest has a vfio device".into(),
        (some, _) => count(some, "guest with a vfio device", "guests with vfio devices"),
    };
    let mut text = format!("{gpus}, {guests}");
    let mut wrong = Vec::new();
    if summary.refused > 0 {
        wrong.push(format!("{} would be refused", summary.refused));
    }
    if summary.unknown > 0 {
        wrong.push(format!("{} may be refused", summary.unknown));
    }
    if summary.dark > 0 {
        wrong.push(count(summary.dark, "screen is dark", "screens are dark"));
    }
    if !wrong.is_empty() {
        text = format!("{text}: {}", wrong.join(", "));
    }
    text
}

/// Returns the lines of the overview, in groups: one for each graphics card, and others for what
/// belongs to none.
fn groups(overview: &Overview) -> Vec<Vec<Row>> {
    let mut groups: Vec<Vec<Row>> = Vec::new();
    // If the reason is no problem, it is already in the first line.
    if let Some(problem) = overview
        .guests_unknown
        .as_ref()
        .filter(|one| one.level > Level::Info)
    {
        let mut row = Row::new(0, Some(problem.level), "Guests are not known");
        row.problems.push(problem.clone());
        groups.push(vec![row]);
    }
    groups.extend(overview.parents.iter().map(of_parent));
    if !overview.absent.is_empty() {
        let mut rows = vec![Row::new(0, None, "Devices that none of these offers")];
        rows.extend(overview.absent.iter().flat_map(of_device));
        groups.push(rows);
    }
    if !overview.guests.is_empty() {
        let mut rows = vec![Row::new(0, None, "Guests whose devices are not known")];
        rows.extend(overview.guests.iter().map(of_guest));
        groups.push(rows);
    }
    groups
}

fn of_parent(parent: &ParentLine) -> Vec<Row> {
    let mut row = Row::new(0, None, &parent.card.address);
    row.parts
        .extend(parent.name.clone().or_else(|| parent.card.ids.clone()));
    row.parts.push(match (&parent.card.driver, parent.gpu) {
        (Some(driver), _) => format!("driver {driver}"),
        (None, true) => "no driver".into(),
        (None, false) => String::new(),
    });
    row.parts.extend(parent.card.render_node.clone());
    if let Some(total) = parent.card.total_vfs {
        row.parts
            .push(format!("{} of {total} virtual functions", parent.card.vfs));
    }
    if let Some(missing) = &parent.card.missing {
        row.verdict = missing.certain.then_some(Level::Warn);
        row.problems.push(Problem {
            level: missing.level(),
            text: missing.text.clone(),
            fixes: missing.fixes.clone(),
        });
    }
    let mut rows = vec![row];
    rows.extend(parent.types.iter().map(|one| of_type(parent, one)));
    rows.extend(parent.devices.iter().flat_map(of_device));
    rows
}

fn of_type(parent: &ParentLine, one: &TypeLine) -> Row {
    let mut row = Row::new(1, None, &one.type_id);
    row.parts
        .extend(one.name.clone().filter(|name| *name != one.type_id));
    if one.parent != parent.card.address {
        row.parts.push(format!("of {}", one.parent));
    }
    row.parts.push(match one.available_instances {
        Some(0) => "none left".into(),
        Some(left) => format!("{left} left"),
        None => String::new(),
    });
    row.parts.push(display(&one.display, &one.known));
    row
}

/// Describes a display in words, followed in parentheses by its evidence or, if the display is
/// unknown, by the reason.
fn display(display: &[String], known: &str) -> String {
    match display {
        [one] if one == "none" => format!("no display ({known})"),
        [one] if one == "unknown" => format!("display unknown ({known})"),
        _ => format!("display {} ({known})", display.join(",")),
    }
}

fn of_device(device: &DeviceLine) -> Vec<Row> {
    let worst = device.problems.iter().map(|problem| problem.level).max();
    let mut row = Row::new(
        1,
        worst.filter(|level| *level > Level::Info),
        &device.id.to_string(),
    );
    row.parts.extend(device.type_id.clone());
    if device.is_whole {
        row.parts.push("the whole card".into());
    }
    if device.state == Some(State::Defined) {
        row.parts.push("not started".into());
    }
    // Why a display is not known is said once, as a problem.
    let is_known = device.display != ["unknown"] || device.problems.is_empty();
    if device.state.is_some() && is_known {
        row.parts.push(display(&device.display, &device.known));
    }
    row.problems.clone_from(&device.problems);
    let mut rows = vec![row];
    rows.extend(device.guests.iter().map(of_guest));
    rows
}

fn of_guest(guest: &GuestEntry) -> Row {
    let worst = guest.problems.iter().map(|problem| problem.level).max();
    // The refusal may be listed with another device of the guest.
    let starts = match guest.starts {
        Some("no") => Level::Fail,
        Some("yes") => Level::Info,
        _ => Level::Warn,
    };
    let verdict = worst.map_or(starts, |worst| worst.max(starts));
    let mut row = Row::new(2, Some(verdict), &guest.name);
    row.parts.push(guest.state.word().into());
    let by = viewers(&guest.shown_by);
    if !by.is_empty() {
        row.parts.push(format!("screen shown by {}", by.join(", ")));
    }
    if guest.starts == Some("no") && worst != Some(Level::Fail) {
        row.parts.push("would be refused".into());
    }
    row.problems.clone_from(&guest.problems);
    row.look.clone_from(&guest.look);
    row
}

/// Returns the overview as text.
#[must_use]
pub fn text(overview: &Overview) -> Page {
    let mut page = Page::default();
    page.words(Some(overview.worst.into()), 0, &headline(overview), "");
    for group in groups(overview) {
        page.blank();
        for row in group {
            let verdict = row.verdict.map(Verdict::from);
            page.words(verdict, row.depth, &row.name, &row.rest());
            let below = row.depth + 1;
            for problem in &row.problems {
                page.words(None, below, "", &problem.text);
                page.commands(below, "fix", &problem.fixes);
            }
            page.commands(below, "look", row.look.as_slice());
        }
    }
    page
}
