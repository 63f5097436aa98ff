//! Reads the administrator's settings: `/etc/gfxplane`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::device::rules::{BUILT_IN, Rules};
use crate::host::config::Config;
use crate::host::{Root, Warning, read_names_that, read_text};

/// Reads `gfxplane.toml`, and then `conf.d/*.toml` in order of their names, which override it. A
/// file that can't be used is ignored as a whole, with a warning.
pub fn config(root: &Root, warnings: &mut Vec<Warning>) -> Config {
    let mut config = Config::default();
    let mut files = vec![root.join("etc/gfxplane/gfxplane.toml")];
    files.extend(toml_files(&root.join("etc/gfxplane/conf.d"), warnings).into_values());
    for path in files {
        let Some(text) = read_text(&path, warnings) else {
            continue;
        };
        match config.clone().with_file(&text) {
            Ok(with) => config = with,
            Err(error) => warnings.push(Warning::new(path, format!("ignored: {error}"))),
        }
    }
    config
}

/// Reads the rules of `/etc/gfxplane/rules.d`, and then those of `/usr/share/gfxplane/rules.d`. If
/// the latter directory does not exist, the rules in this program take its place. A file in /etc
/// hides the file of the same name in /usr. A file that can't be used is ignored as a whole, with a
/// warning, and hides nothing.
pub fn rules(root: &Root, warnings: &mut Vec<Warning>) -> Rules {
    let mut rules = Rules::default();
    let mut hidden = Vec::new();
    for (name, path) in toml_files(&root.join("etc/gfxplane/rules.d"), warnings) {
        if add(&mut rules, &path, warnings) {
            hidden.push(name);
        }
    }
    let directory = root.join("usr/share/gfxplane/rules.d");
    if directory.is_dir() {
        for (name, path) in toml_files(&directory, warnings) {
            if !hidden.contains(&name) {
                add(&mut rules, &path, warnings);
            }
        }
    } else {
        let is_seen = |name: &str| !hidden.iter().any(|hidden| hidden == name);
        for (name, text) in BUILT_IN.iter().filter(|(name, _)| is_seen(name)) {
            let added = rules.add_file(&format!("built in: {name}"), text);
            added.expect("the built-in rules are tested");
        }
    }
    rules
}

/// Adds the rules of a file. Returns `false` if the file can't be used; warns unless it is missing.
fn add(rules: &mut Rules, path: &Path, warnings: &mut Vec<Warning>) -> bool {
    let Some(text) = read_text(path, warnings) else {
        return false;
    };
    let added = rules.add_file(&path.display().to_string(), &text);
    if let Err(error) = &added {
        warnings.push(Warning::new(path, format!("ignored: {error}")));
    }
    added.is_ok()
}

fn toml_files(directory: &Path, warnings: &mut Vec<Warning>) -> BTreeMap<String, PathBuf> {
    let names = read_names_that(|name| name.ends_with(".toml"), directory, warnings);
    let path = |name: String| (name.clone(), directory.join(name));
    names.into_iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let (directory, root) = crate::host::empty();
        for (path, text) in files {
            root.put(path, text);
        }
        (directory, root)
    }

    #[test]
    fn drop_ins_go_over_the_main_file_and_a_broken_one_is_left_out() {
        let (_keep, root) = host(&[
            (
                "etc/gfxplane/gfxplane.toml",
                "deadline = 7\nattributes = 'off'",
            ),
            ("etc/gfxplane/conf.d/10-a.toml", "deadline = 8"),
            (
                "etc/gfxplane/conf.d/20-b.toml",
                "deadline = 9\nnonsense = 1",
            ),
            ("etc/gfxplane/conf.d/README", "not a setting"),
        ]);
        let mut warnings = Vec::new();
        let config = config(&root, &mut warnings);
        assert_eq!((config.deadline.as_secs(), config.attributes), (8, false));
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].to_string().contains("20-b.toml") && warnings[0].problem.contains("line 2")
        );
    }

    #[test]
    fn rules_of_the_administrator_come_first() {
        const RULE: &str =
            "[[rule]]\nname='mdpy'\nsource='me'\nmatch.type=['mdpy-vga']\ndisplay=['none']";
        let (_keep, root) = host(&[("etc/gfxplane/rules.d/00-mine.toml", RULE)]);
        let mut warnings = Vec::new();
        let rules = rules(&root, &mut warnings);
        let mdpy: Vec<&str> = rules
            .iter()
            .filter(|(_, r)| r.name == "mdpy")
            .map(|(_, r)| r.source.as_str())
            .collect();
        assert_eq!(mdpy, ["me"]);
        assert!(warnings.is_empty() && rules.iter().count() > 10);
    }

    #[test]
    fn a_broken_file_hides_nothing() {
        let (_keep, root) = host(&[("etc/gfxplane/rules.d/50-kernel.toml", "[[rule]")]);
        let mut warnings = Vec::new();
        let found = rules(&root, &mut warnings);
        assert!(found.iter().any(|(_, rule)| rule.name == "vfio-pci") && warnings.len() == 1);
    }

    #[test]
    fn a_file_in_etc_hides_its_namesake() {
        let (_keep, root) = host(&[
            ("etc/gfxplane/rules.d/50-kernel.toml", ""),
            ("usr/share/gfxplane/rules.d/50-kernel.toml", BUILT_IN[0].1),
            ("usr/share/gfxplane/rules.d/60-nvidia.toml", BUILT_IN[1].1),
        ]);
        let rules = rules(&root, &mut Vec::new());
        assert!(
            rules.iter().count() > 0
                && rules
                    .iter()
                    .all(|(file, _)| file.ends_with("60-nvidia.toml"))
        );
    }
}
