//! Tests the measurements of one host, read as rules by another.

use std::fs;
use std::path::Path;

use gfxplane::device::evidence::Method;
use gfxplane::device::record::Record;
use gfxplane::host::Root;
use gfxplane::publish::export::export;
use gfxplane::publish::inventory::{Sources, inventory};
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::support::hostile::copy;

/// Returns all tests.
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("export::a-host-without-records", without_records),
        Trial::test("export::devices-that-disagree", disagreeing),
        Trial::test("export::of-the-boot-before", boot_before),
    ]
}

fn lab() -> TempDir {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/lab/root");
    let made = tempfile::tempdir().expect("a temporary directory can be made");
    copy(&host, made.path());
    made
}

fn read(host: &TempDir) -> Sources {
    Sources::read(&Root::recorded(host.path()))
}

/// Checks that the same host without its records, but with the rules, finds the same displays by
/// rule.
fn without_records() -> Result<(), Failed> {
    let host = lab();
    let sources = read(&host);
    let (before, rules) = (inventory(&sources), export(&sources));
    if !rules.left_out.is_empty() {
        return Err(format!("left out: {:?}", rules.left_out).into());
    }
    fs::remove_dir_all(host.path().join("run"))?;
    let file = host.path().join("etc/gfxplane/rules.d/00-measured.toml");
    fs::write(file, rules.to_toml())?;
    let after = inventory(&read(&host));
    let mut seen = 0;
    for old in &before.devices {
        let measured = old.finding.evidence.as_ref();
        let is_answer = old.finding.facts.display.is_answer();
        if !is_answer || measured.is_none_or(|evidence| evidence.method > Method::Sibling) {
            continue;
        }
        let new = after.devices.iter().find(|new| new.id == old.id);
        let new = new.ok_or_else(|| format!("{} is gone", old.id))?;
        let (facts, known) = (&new.finding.facts, &old.finding.facts);
        let same = (&facts.display, facts.edid, facts.opregion, facts.kvm)
            == (&known.display, known.edid, known.opregion, known.kvm);
        let by = new.finding.evidence.as_ref();
        let is_ours = by.is_some_and(|evidence| {
            let name = evidence.rule.as_deref().unwrap_or_default();
            evidence.method == Method::Rule && name.starts_with("measured-")
        });
        if !same || !is_ours || new.open != old.open {
            return Err(format!("{}: {old:#?}, and by rule {new:#?}", old.id).into());
        }
        seen += 1;
    }
    if seen < 7 {
        return Err(format!("only {seen} devices were compared").into());
    }
    if !after.warnings.is_empty() {
        return Err(format!("{:?}", after.warnings).into());
    }
    Ok(())
}

/// Checks that there is no rule, but a line that names both, if two devices of a type differ.
fn disagreeing() -> Result<(), Failed> {
    let host = lab();
    let records = host.path().join("run/gfxplane/records");
    let of = |number: u32| {
        records.join(format!(
            "c1a20000-0000-4000-8000-0000000000{number:02}.json"
        ))
    };
    let mut record = Record::parse(&fs::read_to_string(of(4))?)?;
    record.device = "c1a20000-0000-4000-8000-000000000009".parse()?;
    record.facts.display = gfxplane::device::facts::Display::NONE;
    fs::write(of(9), record.to_text())?;
    let found = export(&read(&host));
    let [problem] = &found.left_out[..] else {
        return Err(format!("left out: {:?}", found.left_out).into());
    };
    let expected = "virtio-pci-region: c1a20000-0000-4000-8000-000000000004 says region, c1a20000-0000-4000-8000-000000000009 says none";
    if problem != expected {
        return Err(format!("it says {problem:?}").into());
    }
    let text = found.to_toml();
    if text.contains("virtio-pci-region") || !text.contains("virtio-pci-both") {
        return Err(text.into());
    }
    Ok(())
}

/// Checks that findings from before the last boot no longer count.
fn boot_before() -> Result<(), Failed> {
    let host = lab();
    let boot = host.path().join("proc/sys/kernel/random/boot_id");
    fs::write(boot, "00000000-0000-4000-8000-000000000000\n")?;
    let found = export(&read(&host));
    if found.rules.is_empty() && found.left_out.is_empty() {
        Ok(())
    } else {
        Err(found.to_toml().into())
    }
}
