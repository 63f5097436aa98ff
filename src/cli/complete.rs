//! Completes command lines. The shells ask the programs themselves, which know the domains and
//! devices of the host.
//!
//! The scripts in packaging/completions run the program with [`ASKED`] in its environment. For zsh
//! and fish, its value is the index of the word at the cursor, and the arguments are `--` and all
//! words. For bash, its value is `bash`, and the arguments are `--`, the line up to the cursor, and
//! `COMP_WORDBREAKS`: bash passes words with their quotation marks, and replaces only a part of a
//! word. The program prints a line for each candidate: the word, a tab, and the word's meaning.

mod line;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Arg, Command};
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter, complete,
};

use crate::cli::End;
use crate::cli::overview::guests;
use crate::domain::Domain;
use crate::domain::shell::{is_harmless, named, plain};
use crate::host::Root;
use crate::libvirt::{Context, Libvirt};
use crate::publish::inventory::{Sources, inventory};
use crate::xml::Document;
use line::Typed;

/// The environment variable that is set if a shell asks for candidates.
pub const ASKED: &str = "_GFXPLANE_COMPLETE";

/// A command line that the user is typing.
#[derive(Debug, Clone)]
pub struct Line {
    /// The words, the program's name first.
    words: Vec<OsString>,
    /// The index of the word at the cursor.
    place: usize,
    /// The word at the cursor as it was typed, if bash asks.
    typed: Option<Typed>,
}

impl Line {
    /// Returns the command line that a shell asks to complete; `None` if no shell asks.
    #[must_use]
    pub fn asked() -> Option<Self> {
        let asked = std::env::var(ASKED).ok()?;
        let mut words = std::env::args_os().skip_while(|word| word != "--").skip(1);
        if asked == "bash" {
            let [line, breaks] = [words.next()?, words.next()?];
            let (words, typed) = line::split(&line.to_string_lossy(), &breaks.to_string_lossy());
            return Some(Line {
                place: words.len() - 1,
                words: words.into_iter().map(OsString::from).collect(),
                typed: Some(typed),
            });
        }
        let place: usize = asked.parse().ok()?;
        let mut words: Vec<OsString> = words.collect();
        // Some shells leave out the empty word that is to be completed.
        if place == words.len() {
            words.push(OsString::new());
        }
        Some(Line {
            words,
            place,
            typed: None,
        })
    }

    /// Returns libvirt's URI that the command line names with `-c` or `--connect`; `None` without
    /// them.
    #[must_use]
    pub fn connect(&self) -> Option<String> {
        self.option(&["-c", "--connect"])
    }

    fn option(&self, names: &[&str]) -> Option<String> {
        let words: Vec<&str> = self.words.iter().filter_map(|word| word.to_str()).collect();
        let after = |pair: &[&str]| names.contains(&pair[0]).then(|| pair[1].to_owned());
        let joined = |word: &&str| {
            let (name, value) = word.split_once('=')?;
            names.contains(&name).then(|| value.to_owned())
        };
        let value = words.windows(2).find_map(after);
        value.or_else(|| words.iter().find_map(joined))
    }

    /// Prints the candidates for the word at the cursor. `command` has the program's arguments.
    ///
    /// # Errors
    /// The output can't be written.
    pub fn end(self, command: Command, libvirt: Arc<dyn Libvirt>) -> anyhow::Result<End> {
        let root = self.option(&["--root", "--host"]);
        let root = root.or_else(|| std::env::var("GFXPLANE_ROOT").ok());
        let context = Arc::new(Context {
            root: root.map_or_else(Root::system, |root| Root::recorded(PathBuf::from(root))),
            connect: self.connect(),
            quiet: true,
            libvirt,
        });
        // We do not complete the program's own name.
        if self.place == 0 || self.place >= self.words.len() {
            return Ok(End::Done);
        }
        let with = |arg: Arg| with_values(arg, &context);
        let mut command = command
            .mut_args(with)
            .mut_subcommands(|verb| verb.mut_args(with));
        let here = std::env::current_dir().ok();
        // The shell does not replace a quoted tilde by a home directory, but `complete` would.
        let begins = self.words[self.place].to_string_lossy().starts_with('~');
        if begins && self.typed.as_ref().is_some_and(|typed| !typed.is_home) {
            return Ok(End::Done);
        }
        let found = complete(&mut command, self.words, self.place, here.as_deref())?;
        let mut out = io::stdout().lock();
        for candidate in found.iter().filter(|candidate| !candidate.is_hide_set()) {
            let word = candidate.get_value().to_string_lossy();
            // A word with such characters can't be typed in a shell.
            if !word.chars().all(is_harmless) {
                continue;
            }
            let word = match &self.typed {
                Some(typed) => typed.rest(&word),
                None => Some(word.into_owned()),
            };
            let Some(word) = word else { continue };
            let help = candidate.get_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let line = plain(help.lines().next().unwrap_or_default());
            writeln!(out, "{word}\t{line}")?;
        }
        Ok(End::Done)
    }
}

/// Makes an argument complete its values on this host, which depend on the value's name, such as
/// `DOMAIN`.
fn with_values(arg: Arg, context: &Arc<Context>) -> Arg {
    let names = arg.get_value_names().unwrap_or_default();
    let find: fn(&Context, &Arg) -> Vec<CompletionCandidate> = match names {
        [name] => match name.as_str() {
            "DOMAIN" | "DOMAIN|FILE" | "DOMAIN|FILE|-" => domains,
            "DEVICE" => devices,
            "PARENT/TYPE" => types,
            "KEY=VALUE" => policies,
            "WORD" => |_, _| words(&["asked", "auto", "full", "off"]),
            "WORDS" => return arg.add(ArgValueCompleter::new(losses)),
            "URI" => |_, _| words(&["qemu:///system", "qemu:///session"]),
            "DIR" => return arg.add(ArgValueCompleter::new(PathCompleter::dir())),
            _ => return arg,
        },
        _ => return arg,
    };
    let may_be_file = names.iter().any(|name| name.contains("FILE"));
    let (context, about) = (Arc::clone(context), arg.clone());
    arg.add(ArgValueCompleter::new(move |current: &OsStr| {
        let current_text = current.to_string_lossy();
        let mut found = find(&context, &about);
        found.retain(|one| {
            one.get_value()
                .to_string_lossy()
                .starts_with(&*current_text)
        });
        if found.is_empty() && may_be_file {
            found = PathCompleter::any().complete(current);
        }
        found
    }))
}

fn words(all: &[&str]) -> Vec<CompletionCandidate> {
    all.iter().map(CompletionCandidate::new).collect()
}

/// Completes the list of `--consent`. Offers a word only once, and `all` only as the first.
fn losses(current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let (before, last) = match current.rsplit_once(',') {
        Some((before, last)) => (format!("{before},"), last),
        None => (String::new(), &*current),
    };
    let is_free =
        |word: &&str| word.starts_with(last) && !before.split(',').any(|one| one == *word);
    let all: &[&str] = if before.is_empty() {
        &["remote", "video", "all"]
    } else {
        &["remote", "video"]
    };
    let found = all.iter().copied().filter(is_free);
    found
        .map(|word| CompletionCandidate::new(format!("{before}{word}")))
        .collect()
}

fn candidate(word: impl Into<OsString>, help: String) -> CompletionCandidate {
    CompletionCandidate::new(word).help(Some(help.into()))
}

fn domains(context: &Context, _: &Arg) -> Vec<CompletionCandidate> {
    let guests = guests(context, &mut Vec::new()).domains.into_iter();
    let name = |guest: crate::publish::overview::Defined| {
        let uuid = || {
            let document = Document::parse(&guest.xml).ok()?;
            Domain::new(&document).ok()?.uuid
        };
        let word = named(Some(&guest.name), None).or_else(|| named(None, uuid()))?;
        Some(candidate(word, guest.state.word().to_owned()))
    };
    guests.filter_map(name).collect()
}

fn devices(context: &Context, _: &Arg) -> Vec<CompletionCandidate> {
    let devices = inventory(&Sources::read(&context.root)).devices.into_iter();
    let name = |device: crate::publish::inventory::DeviceEntry| {
        let kind = device.type_id.or(device.driver);
        candidate(device.id.to_string(), kind.unwrap_or_default())
    };
    devices.map(name).collect()
}

fn types(context: &Context, _: &Arg) -> Vec<CompletionCandidate> {
    let types = inventory(&Sources::read(&context.root)).types.into_iter();
    let name = |one: crate::publish::inventory::TypeEntry| {
        let word = format!("{}/{}", one.parent, one.type_id);
        candidate(word, one.name.unwrap_or_default())
    };
    types.map(name).collect()
}

/// Returns each `KEY=VALUE` of a policy, from the help of the argument.
fn policies(_: &Context, arg: &Arg) -> Vec<CompletionCandidate> {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut found = Vec::new();
    for word in help.split_whitespace() {
        let Some((key, values)) = word.trim_end_matches([',', ';']).split_once('=') else {
            continue;
        };
        let values = values.split(['|', ',']).filter(|value| !value.is_empty());
        found.extend(values.map(|value| CompletionCandidate::new(format!("{key}={value}"))));
    }
    found
}
