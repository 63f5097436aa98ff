//! Holds the predictions against what QEMU and libvirt really did with the domains of `tests/vm/matrix.py`.
//! That program wrote the outcomes down in `tests/vm/matrix-measured`, so no virtual machine is needed here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gfxplane::abilities::Abilities;
use gfxplane::domain::Domain;
use gfxplane::evidence::{Evidence, Method, resolve};
use gfxplane::facts::{Display, Facts, Reason};
use gfxplane::fixup::{Surroundings, fix};
use gfxplane::names::DeviceId;
use gfxplane::policy::{self, Displays, Policy, Wishes};
use gfxplane::predict::{Outcome, Program};
use gfxplane::screens::Known;
use gfxplane::version::Version;
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;

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
    /// The devices are told apart by the first digits of their UUIDs; see matrix.py.
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

/// One test for each file of measurements.
pub(crate) fn trials() -> Vec<Trial> {
    let measured = directory().join("matrix-measured");
    let files = crate::support::hosts::entries(&measured);
    assert!(!files.is_empty(), "{} is empty", measured.display());
    files
        .into_iter()
        .map(|name| {
            let path = measured.join(&name);
            Trial::test(format!("matrix::{name}"), move || of_file(&path))
        })
        .collect()
}

fn of_file(path: &Path) -> Result<(), Failed> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    let versions: Versions = serde_json::from_str(lines.next().ok_or("it is empty")?)?;
    let measured: Vec<Measured> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let domains = domains(&measured)?;
    let rig = Rig {
        abilities: Abilities {
            // Debian builds each of them with a spice-server that is new enough for it.
            spice_gl_over_tcp: Some(true),
            qemu: Some(versions.qemu),
            libvirt: Some(versions.libvirt),
            ..Abilities::default()
        },
    };
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

/// The XML of the domains, by name, as matrix.py makes it.
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
