//! Tests the manual pages of docs/man. People write their prose; some blocks are made from the
//! programs, and the pages of gfxplane's verbs as a whole. `UPDATE_GOLDEN=1` writes these anew. The pages about settings and rules are
//! compared with what the program takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Arg, CommandFactory};
use clap_mangen::Man;
use gfxplane::cli::{probe, tool};
use gfxplane::device::rules::Rules;
use gfxplane::host::config::Config;
use libtest_mimic::{Failed, Trial};

use crate::support::hosts::{entries, golden};

/// The pages that people write.
const PAGES: [&str; 5] = [
    "gfxplane-helper.8",
    "gfxplane-probe.8",
    "gfxplane-rules.5",
    "gfxplane.1",
    "gfxplane.toml.5",
];

/// Returns all tests of the pages.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("man::folder", folder_is_tidy),
        Trial::test("man::settings", settings),
        Trial::test("man::rules", rules),
    ];
    for page in PAGES {
        trials.push(Trial::test(format!("man::{page}::blocks"), move || {
            golden(&path(page), &with_blocks(&read(page)?)?)
        }));
    }
    for verb in verbs() {
        let page = format!("gfxplane-{}.1", verb.get_name());
        trials.push(Trial::test(format!("man::{page}"), move || {
            golden(&path(&page_of(&verb)), &whole(&verb)?)
        }));
    }
    for page in pages() {
        let (of, other) = (page.clone(), page.clone());
        trials.push(Trial::test(format!("man::{page}::head"), move || head(&of)));
        trials.push(Trial::test(format!("man::{page}::roff"), move || {
            roff(&other)
        }));
    }
    trials
}

/// Returns the names of all pages.
fn pages() -> BTreeSet<String> {
    let of_verbs = verbs().into_iter().map(|verb| page_of(&verb));
    PAGES
        .iter()
        .map(ToString::to_string)
        .chain(of_verbs)
        .collect()
}

/// Returns the verbs that people type.
fn verbs() -> Vec<clap::Command> {
    let mut tool = tool::Arguments::command();
    tool.build();
    let typed = |verb: &&clap::Command| !verb.is_hide_set() && verb.get_name() != "help";
    tool.get_subcommands().filter(typed).cloned().collect()
}

fn page_of(verb: &clap::Command) -> String {
    format!("gfxplane-{}.1", verb.get_name())
}

/// Returns the page of a verb: its usage, its purpose, and the options that only it takes.
fn whole(verb: &clap::Command) -> Result<String, Failed> {
    let is_shared = |argument: &Arg| argument.is_global_set() || argument.get_id() == "help";
    let shown = verb.clone().mut_args(|argument| {
        let hidden = argument.is_hide_set() || is_shared(&argument);
        argument.hide(hidden)
    });
    let man = Man::new(shown.clone());
    let part = |render: &dyn Fn(&mut Vec<u8>) -> std::io::Result<()>| -> Result<String, Failed> {
        let mut roff = Vec::new();
        render(&mut roff)?;
        Ok(with_values(
            &shown,
            without_headings(&String::from_utf8(roff)?),
        ))
    };
    let tool = read("gfxplane.1")?;
    let head = tool.lines().find(|line| line.starts_with(".TH "));
    let head = head.ok_or("gfxplane.1 has no .TH")?;
    let name = verb.get_name();
    let title = format!("GFXPLANE-{}", name.to_uppercase());
    let about = verb
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let synopsis = part(&|roff| man.render_synopsis_section(roff))?;
    let description = part(&|roff| man.render_description_section(roff))?;
    let options = part(&|roff| man.render_options_section(roff))?;
    let options = match options.trim() {
        "" => String::new(),
        options => format!(".SH OPTIONS\n{options}\n"),
    };
    Ok(format!(
        ".\\\" This page is made from the program: UPDATE_GOLDEN=1 cargo test --test cases man::\n\
         {}\n\
         .SH NAME\n\
         gfxplane\\-{} \\- {}\n\
         .SH SYNOPSIS\n{synopsis}\
         .SH DESCRIPTION\n{description}\
         {options}\
         .SH SEE ALSO\n\
         .BR gfxplane (1)\n\
         has the options of all verbs, exit codes, files and examples.\n",
        head.replacen("GFXPLANE", &title, 1),
        name.replace('-', "\\-"),
        first_small(&about).replace('-', "\\-"),
    ))
}

/// Returns a text whose first letter is small, as whatis has it.
fn first_small(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

fn path(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/man")
        .join(page)
}

fn read(page: &str) -> Result<String, Failed> {
    let path = path(page);
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Checks that each page is known here, and that each program in people's PATH has one.
fn folder_is_tidy() -> Result<(), Failed> {
    let wanted = pages();
    let found = entries(&path(""));
    if found != wanted {
        return Err(format!("docs/man has {found:?}: expected {wanted:?}").into());
    }
    let manifest: toml::Table = toml::from_str(include_str!("../../Cargo.toml"))?;
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array();
    let in_path = |asset: &&toml::Value| asset["dest"].as_str() == Some("/usr/bin/");
    let mut programs = assets.into_iter().flatten().filter(in_path).peekable();
    if programs.peek().is_none() {
        return Err("Cargo.toml installs no program".into());
    }
    for asset in programs {
        let source = asset["source"].as_str().unwrap_or_default();
        let name = source.rsplit('/').next().unwrap_or_default();
        let has_page = |page: &&str| page.rsplit_once('.').is_some_and(|(of, _)| of == name);
        if !PAGES.iter().any(has_page) {
            return Err(format!("{name} has no manual page").into());
        }
    }
    Ok(())
}

/// Checks the page's name and version, and that it names no page of ours that does not exist.
fn head(page: &str) -> Result<(), Failed> {
    let text = read(page)?;
    let (name, section) = page.rsplit_once('.').expect("it has a section");
    let begin = format!(".TH {} {section} ", name.to_uppercase());
    let end = format!(" \"gfxplane {}\"", env!("CARGO_PKG_VERSION"));
    let is_head = |line: &str| line.starts_with(&begin) && line.ends_with(&end);
    if !text.lines().any(is_head) {
        return Err(format!("{page} does not say {begin}DATE{end}").into());
    }
    for line in text.lines().filter(|line| line.starts_with(".BR gfxplane")) {
        let line = line.replace("\\-", "-");
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, name, section, ..] = words[..]
            && let Some(section) = section.strip_prefix('(')
        {
            let named = format!("{name}.{}", section.split(')').next().unwrap_or_default());
            if !pages().contains(&named) {
                return Err(format!("{page}: {line}: there is no page {named}").into());
            }
        }
    }
    Ok(())
}

/// Checks the page with mandoc.
fn roff(page: &str) -> Result<(), Failed> {
    let output = Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning"])
        .arg(path(page))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("mandoc can't be run ({error}): packaging/setup installs it"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned().into()),
    }
}

/// Returns a page with its blocks as the programs have them. A block begins with `.\" generated:
/// NAME` and ends with `.\" end of NAME`.
fn with_blocks(text: &str) -> Result<String, Failed> {
    let mut made = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        made += line;
        made.push('\n');
        if let Some(name) = line.strip_prefix(".\\\" generated: ") {
            let end = format!(".\\\" end of {name}");
            if !lines.any(|line| line == end) {
                return Err(format!("a block is not closed by {end}").into());
            }
            made += &block(name)?;
            made += &end;
            made.push('\n');
        }
    }
    Ok(made)
}

fn block(name: &str) -> Result<String, Failed> {
    match name {
        "the options of all verbs" => options(&tool::Arguments::command()),
        "verbs" => Ok(list()),
        "the options of gfxplane-probe" => options(&probe::Arguments::command()),
        "the usage of gfxplane-helper" => usage_of_helper(),
        _ => Err(format!("nobody makes the block {name:?}").into()),
    }
}

/// Returns the arguments and options of a command.
fn options(command: &clap::Command) -> Result<String, Failed> {
    let mut roff = Vec::new();
    Man::new(command.clone()).render_options_section(&mut roff)?;
    let roff = without_headings(&String::from_utf8(roff)?);
    Ok(with_values(command, with_aliases(command, roff)))
}

/// Adds each option's other names, which clap_mangen leaves out.
fn with_aliases(command: &clap::Command, mut roff: String) -> String {
    for argument in command.get_arguments() {
        let (Some(long), Some(others)) = (argument.get_long(), argument.get_visible_aliases())
        else {
            continue;
        };
        let bold = |name: &str| format!("\\fB{}\\fR", format!("--{name}").replace('-', "\\-"));
        let all: Vec<String> = std::iter::once(long).chain(others).map(bold).collect();
        let term = |name: &str| format!(".TP\n{name}");
        roff = roff.replace(&term(&bold(long)), &term(&all.join(", ")));
    }
    roff
}

/// Adds to the usage the values of options, and the dots of arguments that may be repeated, which
/// clap_mangen leaves out.
fn with_values(command: &clap::Command, mut roff: String) -> String {
    for argument in command.get_arguments() {
        let values = argument.get_value_names().unwrap_or_default();
        if let Some(long) = argument.get_long()
            && argument.get_action().takes_values()
        {
            let option = format!("\\fB{}\\fR]", format!("--{long}").replace('-', "\\-"));
            let words: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
            let shown = format!(
                "{} \\fI{}\\fR]",
                &option[..option.len() - 1],
                words.join(" ")
            );
            roff = roff.replace(&option, &shown);
        }
        let many = argument
            .get_num_args()
            .is_some_and(|count| count.max_values() > 1);
        if argument.is_positional() && many {
            for value in values {
                let value = value.as_str().replace('-', "\\-");
                let place = format!("\\fI{value}\\fR");
                for (open, close) in [('[', ']'), ('<', '>')] {
                    let once = format!("{open}{place}{close}");
                    roff = roff.replace(&once, &format!("{once}..."));
                }
            }
        }
    }
    roff
}

/// Returns a line for each verb, with its page.
fn list() -> String {
    let line = |verb: clap::Command| {
        let name = verb.get_name().replace('-', "\\-");
        let about = verb
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        format!(
            ".TP\n.BR gfxplane\\-{name} (1)\n{}\n",
            about.replace('-', "\\-")
        )
    };
    verbs().into_iter().map(line).collect()
}

fn without_headings(roff: &str) -> String {
    let preamble = [".ie ", ".el ", ".SH "];
    roff.replace("\\*(Aq", "\\(aq")
        .replace("\n.br\n\n.br\n", "\n\n")
        .lines()
        .filter(|line| !preamble.iter().any(|word| line.starts_with(word)))
        .flat_map(|line| [line.trim_end(), "\n"])
        .collect()
}

/// Returns what the helper says if it doesn't know what is wanted.
fn usage_of_helper() -> Result<String, Failed> {
    let output = Command::new(env!("CARGO_BIN_EXE_gfxplane-helper"))
        .stdin(Stdio::null())
        .output()?;
    let usage = String::from_utf8(output.stderr)?;
    let usage = usage.replace("usage: ", "").replace("\n       ", "\n");
    Ok(format!(".EX\n{}.EE\n", usage.replace('-', "\\-")))
}

/// Returns the words that are expected, as an error names them: the keys of a table, the words of a
/// value.
fn expected(error: &str) -> Result<BTreeSet<String>, Failed> {
    let (_, words) = error
        .rsplit_once(": expected ")
        .ok_or_else(|| format!("this error names nothing that is expected: {error}"))?;
    let mut found: BTreeSet<String> = BTreeSet::new();
    for (index, word) in words.split('`').enumerate() {
        if index % 2 == 1 {
            found.insert(word.to_owned());
        }
    }
    Ok(found)
}

/// Returns the paragraphs of a section or subsection: `.TP`, `.B KEY`, and the text about the key.
fn keys<'t>(page: &'t str, heading: &str) -> Result<Vec<(&'t str, &'t str)>, Failed> {
    let start = page
        .find(&format!("{heading}\n"))
        .ok_or_else(|| format!("the page has no {heading}"))?;
    let section = &page[start + heading.len()..];
    let end = section.find("\n.S").unwrap_or(section.len());
    let paragraphs = section[..end].split("\n.TP\n").skip(1);
    let key = |paragraph: &'t str| {
        let (head, body) = paragraph.split_once('\n')?;
        Some((head.strip_prefix(".B ")?, body))
    };
    let found: Option<Vec<_>> = paragraphs.map(key).collect();
    found.ok_or_else(|| format!("{heading}: a paragraph has no key").into())
}

/// Returns the values in a paragraph: `\fB"word"\fR`.
fn values(body: &str) -> BTreeSet<String> {
    let quoted = body.split("\\fB\"").skip(1);
    quoted
        .filter_map(|rest| rest.split_once("\"\\fR"))
        .map(|(word, _)| word.to_owned())
        .collect()
}

#[track_caller]
fn same(what: &str, page: &BTreeSet<String>, program: &BTreeSet<String>) -> Result<(), Failed> {
    match page == program {
        true => Ok(()),
        false => {
            Err(format!("{what}: the page has {page:?}, the program takes {program:?}").into())
        }
    }
}

fn names(keys: &[(&str, &str)]) -> BTreeSet<String> {
    keys.iter().map(|(key, _)| (*key).to_owned()).collect()
}

/// Returns the examples of a page, between `.EX` and `.EE`, as a reader sees them.
fn examples(page: &str) -> Vec<String> {
    let blocks = page.split("\n.EX\n").skip(1);
    blocks
        .filter_map(|block| block.split_once("\n.EE"))
        .map(|(text, _)| text.replace("\\-", "-").replace("\\e", "\\"))
        .collect()
}

/// Checks that gfxplane.toml(5) has each setting with its words and its default, and no other.
fn settings() -> Result<(), Failed> {
    let page = read("gfxplane.toml.5")?;
    let read = |text: &str| Config::default().with_file(text);
    let refused = |text: &str| match read(text) {
        Ok(_) => Err(Failed::from(format!("{text} is taken"))),
        Err(error) => Ok(error.to_string()),
    };
    let keys = keys(&page, ".SH SETTINGS")?;
    let packaged = fs::read_to_string(path("../../packaging/gfxplane.toml"))?;
    same(
        "SETTINGS",
        &names(&keys),
        &expected(&refused("no-setting = 1")?)?,
    )?;
    for (key, body) in keys {
        let error = match refused(&format!("{key} = \"no-word\""))? {
            // The value is a list or a number.
            error if error.contains("`no-word`: expected ") => error,
            _ => match refused(&format!("{key} = [\"no-word\"]"))? {
                error if error.contains("`no-word`: expected ") => error,
                _ => String::new(),
            },
        };
        let list = error.is_empty() || refused(&format!("{key} = \"no-word\""))? != error;
        if !error.is_empty() {
            same(key, &values(body), &expected(&error)?)?;
        }
        let default = body
            .split_once("Default: \\fB")
            .and_then(|(_, rest)| rest.split_once("\\fR"))
            .map(|(default, _)| default);
        if let Some(default) = default
            && read(&format!("{key} = {default}"))? != Config::default()
        {
            return Err(format!("{key}: {default} is not the default").into());
        }
        for word in values(body) {
            let text = match list {
                true => format!("{key} = [\"{word}\"]"),
                false => format!("{key} = \"{word}\""),
            };
            let is_default = default == Some(&format!("\"{word}\""));
            if (read(&text)? == Config::default()) != is_default {
                return Err(format!("{text} is the default, and the page says otherwise").into());
            }
        }
        if default.is_none() && !body.contains("Default: unset") {
            return Err(format!("{key}: the page does not say the default").into());
        }
        let line = format!("\n#{key} = {}", default.unwrap_or_default());
        if !packaged.contains(&line) {
            return Err(format!("packaging/gfxplane.toml has no line {line:?}").into());
        }
    }
    let packaged = packaged.replace("\n#", "\n").replace("\n ", "\n# ");
    for example in examples(&page).into_iter().chain([packaged]) {
        read(&example).map_err(|error| format!("{error}, in:\n{example}"))?;
    }
    Ok(())
}

/// Checks that gfxplane-rules(5) has each key of each table of a rule, and no other.
fn rules() -> Result<(), Failed> {
    let page = read("gfxplane-rules.5")?;
    let refused = |rest: &str| {
        let text = format!("[[rule]]\nname = \"a\"\nsource = \"b\"\n{rest}");
        match Rules::default().add_file("page", &text) {
            Ok(()) => Err(Failed::from(format!("{text} is taken"))),
            Err(error) => Ok(error.to_string()),
        }
    };
    for (heading, unknown) in [
        (".SS Rules", "no-key = 1"),
        (".SS Conditions", "match = { no-key = 1 }"),
        (
            ".SS Conditions on attributes",
            "match = { attribute = [{ no-key = 1 }] }",
        ),
    ] {
        same(
            heading,
            &names(&keys(&page, heading)?),
            &expected(&refused(unknown)?)?,
        )?;
    }
    let (of_rules, conditions) = (keys(&page, ".SS Rules")?, keys(&page, ".SS Conditions")?);
    for (keys, key, unknown) in [
        (&of_rules, "open", "match = {}\nopen = \"no-word\""),
        (&conditions, "bus", "match = { bus = \"no-word\" }"),
    ] {
        let body = keys
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, body)| *body);
        same(
            key,
            &values(body.unwrap_or_default()),
            &expected(&refused(unknown)?)?,
        )?;
    }
    for key in ["edid", "opregion"] {
        let (_, body) = of_rules.iter().find(|(name, _)| *name == key).ok_or(key)?;
        let mut fields = String::new();
        // The error names each missing key in turn, until none is missing.
        while let Err(error) = Rules::default().add_file(
            "page",
            &format!(
                "[[rule]]\nname = \"a\"\nsource = \"b\"\nmatch = {{ bus = \"pci\" }}\n\
                 display = [\"none\"]\n{key} = {{ {fields} }}"
            ),
        ) {
            let error = error.to_string();
            let (_, rest) = error.split_once("the key `").ok_or(error.clone())?;
            let field = rest.split('`').next().unwrap_or_default();
            if !body.contains(&format!("\\fB{field}\\fR")) {
                return Err(format!("{key}: the page does not say {field}").into());
            }
            fields += &format!("{field} = 1, ");
        }
    }
    let examples = examples(&page);
    for example in &examples {
        Rules::default()
            .add_file("page", example)
            .map_err(|error| format!("{error}, in:\n{example}"))?;
    }
    match examples.is_empty() {
        true => Err("the page has no example".into()),
        false => Ok(()),
    }
}
