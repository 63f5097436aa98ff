//! Writes metrics for node_exporter's textfile collector, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::device::evidence::Method;
use crate::device::facts::{Display, Reason};
use crate::device::id::DeviceId;
use crate::publish::inventory::Inventory;
use crate::publish::overview::Summary;

/// The facts for the metrics that are not in the inventory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// The numbers of guests and screens; `None` if this host's guests are not known.
    pub guests: Option<Summary>,
    /// The number of log entries by event and gfxplane's part; `None` if the log can't be read.
    pub acts: Option<BTreeMap<(String, String), usize>>,
    /// The time at which each device was asked, in seconds since 1970.
    pub records: BTreeMap<DeviceId, u64>,
}

/// Returns the metrics of a host. All metrics are gauges, because each number may decrease.
pub(crate) fn prometheus(inventory: &Inventory, told: &Told) -> String {
    let (devices, failures) = counted(inventory);
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
        let _ = writeln!(
            text,
            "# HELP gfxplane_{name} {help}\n# TYPE gfxplane_{name} gauge"
        );
        for (labels, value) in samples {
            let _ = writeln!(text, "gfxplane_{name}{labels} {value}");
        }
    };
    let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    family(
        "devices",
        "vfio devices by display, evidence and state.",
        &mut devices.iter().map(|(key, count)| {
            let names = ["display", "evidence", "state"];
            (labels(&names, key), number(*count))
        }),
    );
    family(
        "probe_failures",
        "Devices that gave no answer when they were asked, by reason.",
        &mut failures
            .iter()
            .map(|(key, count)| (labels(&["reason"], key), number(*count))),
    );
    if let Some(Summary {
        guests,
        refused,
        unknown,
        dark,
        ..
    }) = told.guests
    {
        let start = guests.saturating_sub(refused + unknown);
        family(
            "guests",
            "Guests with a vfio device, by whether they would start.",
            &mut [("yes", start), ("no", refused), ("doubt", unknown)]
                .into_iter()
                .map(|(word, count)| (labels(&["starts"], &[word.to_owned()]), number(count))),
        );
        family(
            "dark_screens",
            "Displays of guests that are on and that nothing shows.",
            &mut std::iter::once((String::new(), number(dark))),
        );
    }
    if let Some(acts) = &told.acts {
        family(
            "log_entries",
            "Entries of gfxplane log, by what was done and by which part.",
            &mut acts.iter().map(|((what, by), count)| {
                let key = [by.clone(), what.clone()];
                (labels(&["by", "what"], &key), number(*count))
            }),
        );
    }
    family(
        "record_timestamp_seconds",
        "When each device was asked, in seconds since 1970.",
        &mut told.records.iter().map(|(id, time)| {
            let key = [id.to_string()];
            (labels(&["device"], &key), *time)
        }),
    );
    text
}

/// Counts devices by display, evidence and state, and devices without an answer by reason.
fn counted(inventory: &Inventory) -> (BTreeMap<[String; 3], usize>, BTreeMap<[String; 1], usize>) {
    let mut devices: BTreeMap<[String; 3], usize> = BTreeMap::new();
    let mut failures: BTreeMap<[String; 1], usize> = BTreeMap::new();
    for entry in &inventory.devices {
        let (facts, evidence) = (&entry.finding.facts, &entry.finding.evidence);
        let method = evidence.as_ref().map(|evidence| evidence.method);
        let method_word = method.map_or_else(|| "none".into(), |method| method.to_string());
        let key = [
            facts.display.words().join("-"),
            method_word,
            entry.state.to_string(),
        ];
        *devices.entry(key).or_default() += 1;
        let probed = match &entry.finding.attempt {
            Some(attempt) => Some(&attempt.display),
            None => (method == Some(Method::Probe)).then_some(&facts.display),
        };
        let reason = probed.filter(|display| !display.is_answer());
        match reason.and_then(Display::reason) {
            // A device that is in use was not asked.
            None | Some(Reason::InUse) => {}
            Some(reason) => *failures.entry([reason.to_string()]).or_default() += 1,
        }
    }
    (devices, failures)
}

fn labels(names: &[&str], values: &[String]) -> String {
    let pairs: Vec<String> = names
        .iter()
        .zip(values)
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    format!("{{{}}}", pairs.join(","))
}
