//! Compares the predictions with what QEMU and libvirt really did with the domains of
//! `tests/vm/matrix.py`. That program wrote the outcomes to `tests/vm/matrix-measured`, so no
//! virtual machine is needed here.
//!
//! The program itself has the outcomes by shape, in `src/predict/measured.jsonl`, which is made of them:
//! `UPDATE_GOLDEN=1` writes it anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gfxplane::device::evidence::{Evidence, Method, resolve};
use gfxplane::device::facts::{Display, Facts, Reason};
use gfxplane::device::id::DeviceId;
use gfxplane::device::version::Version;
use gfxplane::domain::Domain;
use gfxplane::domain::policy::{self, Displays, Policy, Wishes};
use gfxplane::plan::fixup::{Surroundings, fix};
use gfxplane::predict::abilities::Abilities;
use gfxplane::predict::screens::{Known, Screens};
use gfxplane::predict::shape::{self, Shape};
use gfxplane::predict::{Outcome, Program};
use gfxplane::xml::Document;
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;

use crate::support::hosts::{golden, updating};

#[derive(Deserialize)]
struct Measured {
    name: String,
    starts: bool,
    #[serde(default)]
    by: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Versions {
    qemu: Version,
    libvirt: Version,
}

struct Rig {
    abilities: Abilities,
}

impl Surroundings for Rig {
    /// The first digits of the UUIDs tell the devices apart; see matrix.py.
    fn known(&self, device: DeviceId) -> Known {
        let display = match &device.to_string()[..8] {
            "00000001" => Display::from_answers(false, true),
            "00000002" | "00000003" => Display::from_answers(true, false),
            "00000004" => Display::NONE,
            other => panic!("matrix.py has a device {other} that this test does not know"),
        };
        let facts = Facts::of(display);
        Known {
            finding: resolve(
                vec![(facts, Evidence::by(Method::Probe))],
                Reason::NotProbed,
            ),
            render_node: None,
            here: None,
        }
    }

    fn abilities(&self, _domain: &Domain<'_, '_>) -> Abilities {
        self.abilities.clone()
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm")
}

/// Returns a test for each file of measurements.
pub(crate) fn trials() -> Vec<Trial> {
    let measured = directory().join("matrix-measured");
    let files = crate::support::hosts::entries(&measured);
    assert!(!files.is_empty(), "{} is empty", measured.display());
    let paths: Vec<PathBuf> = files.iter().map(|name| measured.join(name)).collect();
    let of_files = files.into_iter().map(|name| {
        let path = measured.join(&name);
        Trial::test(format!("matrix::{name}"), move || of_file(&path))
    });
    let shapes = Trial::test("matrix::shapes", move || shapes(&paths));
    of_files.chain([shapes]).collect()
}

/// The contents of a file.
struct File {
    measured: Vec<Measured>,
    domains: BTreeMap<String, String>,
    versions: Versions,
    rig: Rig,
}

impl File {
    fn read(path: &Path) -> Result<Self, Failed> {
        let text = fs::read_to_string(path)?;
        let mut lines = text.lines();
        let versions: Versions = serde_json::from_str(lines.next().ok_or("it is empty")?)?;
        let measured: Vec<Measured> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        let domains = domains(&measured)?;
        let rig = Rig {
            abilities: Abilities {
                // Debian builds each of them with a spice-server that is new enough for it.
                spice_gl_over_tcp: Some(true),
                qemu: Some(versions.qemu.clone()),
                libvirt: Some(versions.libvirt.clone()),
                ..Abilities::default()
            },
        };
        Ok(File {
            measured,
            domains,
            versions,
            rig,
        })
    }

    fn shape(&self, name: &str) -> Result<Shape, Failed> {
        let document = Document::parse(&self.domains[name])?;
        let domain = Domain::new(&document)?;
        let screens = Screens::of(&domain, &|id| self.rig.known(id), &self.rig.abilities);
        Ok(Shape::of(&domain, &screens).ok_or_else(|| format!("{name} has no shape"))?)
    }
}

/// Checks that a shape decides: all domains of one shape start, or are refused with the same words.
/// Also checks that the program has what was measured.
fn shapes(paths: &[PathBuf]) -> Result<(), Failed> {
    let mut text = String::new();
    for path in paths {
        let file = File::read(path)?;
        let mut outcomes: BTreeMap<String, (Option<&str>, &str)> = BTreeMap::new();
        for one in &file.measured {
            let shape = file.shape(&one.name)?;
            let message = (!one.starts).then_some(one.message.as_str());
            let first = outcomes
                .entry(shape.to_string())
                .or_insert((message, &one.name));
            if first.0 != message {
                let (outcome, other) = first;
                return Err(format!(
                    "{other} and {} have one shape, {shape}: {outcome:?}, {message:?}",
                    one.name
                )
                .into());
            }
        }
        for (shape, (message, _)) in outcomes {
            let line = shape::Measured {
                qemu: file.versions.qemu.clone(),
                libvirt: file.versions.libvirt.clone(),
                shape,
                message: message.map(Into::into),
            };
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
    }
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/predict/measured.jsonl");
    golden(&kept, &text)?;
    if updating() {
        return Ok(());
    }
    for path in paths {
        let file = File::read(path)?;
        for one in &file.measured {
            let found = shape::measured(&file.shape(&one.name)?, &file.rig.abilities);
            let starts = found.map(|found| found.message.is_none());
            if starts != Some(one.starts) {
                return Err(format!("{}: {found:?}", one.name).into());
            }
        }
    }
    Ok(())
}

fn of_file(path: &Path) -> Result<(), Failed> {
    let File {
        measured,
        domains,
        rig,
        ..
    } = File::read(path)?;
    let agreed = Wishes {
        display: Some(Displays::Auto),
        consent: Some(policy::consent("all")?),
        ..Wishes::default()
    };
    let mut wrong = Vec::new();
    for one in &measured {
        let domain = &domains[&one.name];
        let fixed = fix(domain, &rig, &Policy::default(), &agreed)?;
        let plan = fixed.plan.as_ref().ok_or("a domain without vfio devices")?;
        let name = &one.name;
        match &plan.before.outcome {
            Outcome::Yes if one.starts => {}
            Outcome::No(refusal) if !one.starts => {
                let by = match refusal.by() {
                    Program::Qemu => "qemu",
                    Program::Libvirt => "libvirt",
                };
                if by != one.by || !one.message.contains(&refusal.message) {
                    wrong.push(format!(
                        "{name}: {by} would say {:?}, and {} said {:?}",
                        refusal.message, one.by, one.message
                    ));
                }
            }
            other => wrong.push(format!(
                "{name}: predicted {other:?}, and it {}",
                if one.starts {
                    "starts".into()
                } else {
                    format!("does not: {}", one.message)
                }
            )),
        }
        if !plan.after.starts() {
            wrong.push(format!("{name}: not repaired: {:?}", plan.notes));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("of {}:\n{}", measured.len(), wrong.join("\n")).into())
    }
}

/// Returns the XML of the domains by name, as matrix.py makes it.
fn domains(measured: &[Measured]) -> Result<BTreeMap<String, String>, Failed> {
    const PRINT: &str = "import json, sys, matrix
print(json.dumps({name: matrix.domain(name, 'm', '/dev/dri/renderD128') for name in sys.argv[1:]}))";
    let output = Command::new("python3")
        .args(["-B", "-c", PRINT])
        .args(measured.iter().map(|one| &one.name))
        .current_dir(directory())
        .output()
        .map_err(|error| format!("python3: {error}; package python3 is missing"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
