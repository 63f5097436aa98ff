//! Holds the JSON that the program prints of the cases against json-schemas, by Python's
//! `jsonschema`. A field that a schema does not have is a failure here, though readers have to ignore
//! it.

use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::support::hosts::entries;

/// Documents about what libvirt has, which nothing here prints: only their schemas are looked at.
/// tests/remembered.rs has a policy, the machine tests have the others (tests/vm/schema.py).
const OF_LIBVIRT: [&str; 3] = ["learn", "policy", "verify"];

/// The arguments of a call, in words.
type Call = Vec<String>;

/// A document with the calls that print it.
type Document = (&'static str, fn() -> Vec<Call>);

/// The documents.
const DOCUMENTS: [Document; 11] = [
    ("list", || of_hosts(&["list"])),
    ("overview", || of_hosts(&["--all"])),
    ("doctor", || of_hosts(&["doctor"])),
    ("rules", || of_hosts(&["rules", "--all"])),
    ("qemu", || of_hosts(&["qemu"])),
    ("check-several", check_several),
    ("check", || of_domains("check")),
    ("fixup", || of_domains("fixup")),
    ("explain", explain),
    ("probe", probe),
    ("log", || vec![call(&["log"])]),
];

/// Returns a test for each document.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test("json::folder", folder_is_tidy)];
    for (name, calls) in DOCUMENTS {
        trials.push(Trial::test(format!("json::{name}"), move || {
            all_valid(name, calls())
        }));
    }
    trials
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder_is_tidy() -> Result<(), Failed> {
    let tested = DOCUMENTS.iter().map(|(name, _)| *name);
    let mut wanted: Vec<String> = tested
        .chain(OF_LIBVIRT)
        .chain(["common"])
        .map(|name| format!("{name}.json"))
        .collect();
    wanted.sort_unstable();
    let found: Vec<String> = entries(&top().join("json-schemas")).into_iter().collect();
    for name in OF_LIBVIRT {
        validate(name, &[])?;
    }
    match found == wanted {
        true => Ok(()),
        false => Err(format!("json-schemas has {found:?}: expected {wanted:?}").into()),
    }
}

/// Returns a schema that takes no fields but its own.
fn schema(name: &str) -> Result<Value, Failed> {
    let read = |name: &str| -> Result<Value, Failed> {
        let path = top().join("json-schemas").join(format!("{name}.json"));
        let text = fs::read_to_string(&path)?;
        // Both are one document here.
        Ok(serde_json::from_str(&text.replace("common.json#", "#"))?)
    };
    let mut schema = read(name)?;
    schema["$defs"] = read("common")?["$defs"].take();
    close(&mut schema);
    Ok(schema)
}

/// Checks the schema, and that the documents are valid by it.
fn validate(name: &str, documents: &[Value]) -> Result<(), Failed> {
    const SCRIPT: &str = "\
import json, jsonschema, sys
given = json.load(sys.stdin)
kind = jsonschema.Draft202012Validator
kind.check_schema(given['schema'])
for number, document in enumerate(given['documents']):
    for error in kind(given['schema']).iter_errors(document):
        sys.exit(f'{number}: {list(error.absolute_path)}: {error.message}')
";
    let given = serde_json::json!({ "schema": schema(name)?, "documents": documents });
    let mut input = tempfile::tempfile()?;
    input.write_all(&serde_json::to_vec(&given)?)?;
    input.rewind()?;
    // Debian's: another python3 may come first in PATH, without Debian's packages.
    let output = Command::new("/usr/bin/python3")
        .args(["-c", SCRIPT])
        .stdin(input)
        .output()
        .map_err(|error| format!("python3 can't be run ({error}): packaging/setup installs it"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Forbids all other fields.
fn close(schema: &mut Value) {
    match schema {
        Value::Array(all) => all.iter_mut().for_each(close),
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.get("type").is_some_and(|kind| kind == "object") {
                members.insert("additionalProperties".into(), false.into());
            }
        }
        _ => {}
    }
}

fn all_valid(name: &str, calls: Vec<Call>) -> Result<(), Failed> {
    let state = tempfile::tempdir()?;
    if name == "log" {
        let directory = state.path().join("var/lib/gfxplane");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("log.jsonl"), LOG)?;
    }
    let mut documents = Vec::new();
    for call in calls {
        let output = Command::new(env!("CARGO_BIN_EXE_gfxplane"))
            .args(&call)
            .arg("--json")
            .current_dir(top())
            .env("GFXPLANE_ROOT", state.path())
            .stdin(Stdio::null())
            .output()?;
        // An input that can't be read has no document.
        if !output.stdout.is_empty() {
            documents.push(serde_json::from_slice(&output.stdout)?);
        }
    }
    match documents[..] {
        [] => Err("nothing was printed".into()),
        _ => validate(name, &documents),
    }
}

/// A log with all fields.
const LOG: &str = r#"{"format":1,"time":1795350400,"domain":"a","uuid":"4dea22b3-1d52-d8f3-2516-782e98ab3fa0","what":"fixed","by":"daemon","changes":[{"change":"b","reason":"c","device":"0000:00:02.0"}]}
{"format":1,"time":1795350401,"domain":"a","what":"left-alone","by":"fixup","reason":"d"}
"#;

fn call(words: &[&str]) -> Call {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Returns the folders of a kind of cases.
fn folders(kind: &str) -> Vec<PathBuf> {
    let kind = Path::new("tests").join(kind);
    let names = entries(&top().join(&kind)).into_iter();
    names.map(|name| kind.join(name)).collect()
}

/// Returns the roots of the recorded hosts.
fn roots() -> Vec<String> {
    let folders = ["hosts", "overview", "doctor"]
        .into_iter()
        .flat_map(folders);
    let roots = folders.map(|folder| folder.join("root"));
    roots
        .filter(|root| top().join(root).is_dir())
        .map(|root| root.display().to_string())
        .collect()
}

/// Returns a call for each host.
fn of_hosts(words: &[&str]) -> Vec<Call> {
    let on = |root: String| [call(&["--host", &root]), call(words)].concat();
    roots().into_iter().map(on).collect()
}

fn check_several() -> Vec<Call> {
    let mut calls = of_hosts(&["check", "--all"]);
    calls.retain(|call| top().join(&call[1]).join("etc/libvirt/qemu").is_dir());
    calls
}

fn on_host_of(folder: &Path) -> Result<(Call, toml::Table), Failed> {
    let case = fs::read_to_string(top().join(folder).join("case.toml"));
    let case: toml::Table = toml::from_str(&case.unwrap_or_default())?;
    let host = case.get("host").and_then(toml::Value::as_str);
    let root = format!("tests/hosts/{}/root", host.unwrap_or("lab"));
    Ok((call(&["--host", &root]), case))
}

fn of_domains(verb: &str) -> Vec<Call> {
    let on = |folder: PathBuf| {
        let (mut call, case) = on_host_of(&folder).ok()?;
        call.extend([verb.to_owned(), format!("{}/domain.xml", folder.display())]);
        for (key, option) in [("qemu", "--qemu"), ("libvirt", "--libvirt-version")] {
            if let Some(version) = case.get(key).and_then(toml::Value::as_str) {
                call.extend([option.to_owned(), version.to_owned()]);
            }
        }
        Some(call)
    };
    folders("fixup").into_iter().filter_map(on).collect()
}

fn explain() -> Vec<Call> {
    let on = |folder: PathBuf| {
        let message = fs::read_to_string(top().join(&folder).join("message")).ok()?;
        let (mut call, _) = on_host_of(&folder).ok()?;
        call.extend(["explain".to_owned(), message.trim().to_owned()]);
        let domain = folder.join("domain.xml");
        if top().join(&domain).exists() {
            call.extend(["--domain".to_owned(), domain.display().to_string()]);
        }
        Some(call)
    };
    folders("explain").into_iter().filter_map(on).collect()
}

fn probe() -> Vec<Call> {
    let id = |number| format!("c1a20000-0000-4000-8000-00000000000{number}");
    let ids: Call = (1..10).map(id).collect();
    vec![[call(&["--host", "tests/hosts/lab/root", "probe"]), ids].concat()]
}
