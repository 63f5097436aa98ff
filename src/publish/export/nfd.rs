//! Writes labels for Node Feature Discovery: a file for its directory features.d.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::host::log::rfc3339;
use crate::publish::export::displays_of_types;
use crate::publish::inventory::Inventory;

/// The namespace of the labels. Each label names it, because NFD may be configured to add no
/// namespace (its feature gate `DisableAutoPrefix`).
const NAMESPACE: &str = "feature.node.kubernetes.io";

/// The greatest size, in bytes, of a file that NFD reads (its source/local/local.go,
/// `MaxFeatureFileSize`).
const MOST: usize = 65536;

/// Returns the text of the file: a label `gfxplane.type.TYPE=region|dmabuf|dmabuf-region|none` for
/// each type of this host whose display is known. Also returns a reason for each known type without
/// a label. NFD drops the labels at `expiry`, in seconds since 1970.
pub(crate) fn nfd(inventory: &Inventory, expiry: u64) -> (String, Vec<String>) {
    let mut text = format!("# +expiry-time={}\n", rfc3339(expiry));
    let (types, mut left_out) = displays_of_types(inventory);
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for (type_id, display) in &types {
        let name = label_name(type_id);
        let line = format!("{NAMESPACE}/{name}={display}\n");
        if name.len() > 63 {
            left_out.push(format!("{type_id}: {name} is too long for a label"));
        } else if text.len() + line.len() > MOST {
            left_out.push(format!("{type_id}: NFD ignores files larger than 64 KiB"));
        } else if let Some(other) = taken.get(&name) {
            left_out.push(format!(
                "{type_id}: its label {name} is already used for {other}"
            ));
        } else {
            let _ = write!(text, "{line}");
            taken.insert(name, type_id);
        }
    }
    (text, left_out)
}

/// Returns the name of a type's label. Kubernetes allows letters, digits, `-`, `_` and `.`, with a
/// letter or digit at the end. So any other character becomes `-`, and `-`, `_` and `.` are removed
/// from the end.
fn label_name(type_id: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = format!("gfxplane.type.{}", type_id.replace(|c| !fits(c), "-"));
    name.trim_end_matches(['-', '_', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kubernetes_takes() {
        for (type_id, name) in [
            ("nvidia-222", "gfxplane.type.nvidia-222"),
            ("i915-GVTg_V5_4", "gfxplane.type.i915-GVTg_V5_4"),
            ("a b/c=d\n", "gfxplane.type.a-b-c-d"),
            ("ü", "gfxplane.type"),
        ] {
            assert_eq!(label_name(type_id), name);
        }
    }
}
