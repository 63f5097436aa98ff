//! Adds the displays of a host's devices to the list of devices that vdsm sends to oVirt's engine.

use serde_json::{Map, Value};

use crate::device::evidence::Finding;
use crate::device::facts::Display;
use crate::device::id::DeviceId;
use crate::publish::inventory::Inventory;

/// Adds the displays to vdsm's list of host devices: to the description of each mdev type, and to
/// the product of each device that has a display. The engine shows both texts
/// (ovirt-engine VdsBrokerObjectsBuilder, `buildMDevTypesList`; vdsm lib/vdsm/common/hostdev.py,
/// `list_by_caps`).
///
/// # Errors
/// An error if the text is not a JSON object.
pub fn host_devices(text: &str, inventory: &Inventory) -> serde_json::Result<String> {
    let mut devices: Map<String, Value> = serde_json::from_str(text)?;
    for (name, device) in &mut devices {
        let params = device.get_mut("params").and_then(Value::as_object_mut);
        let (Ok(id), Some(params)) = (DeviceId::from_user(name), params) else {
            continue;
        };
        let entry = inventory.devices.iter().find(|entry| entry.id == id);
        if let Some(entry) = entry.filter(|e| e.finding.facts.display.preferred().is_some()) {
            add(params, "product", &entry.finding);
        }
        let parent = id.to_string();
        let types = params.get_mut("mdev").and_then(Value::as_object_mut);
        for (type_id, params) in types.into_iter().flatten() {
            let mut types = inventory.types.iter();
            let entry = types.find(|entry| entry.parent == parent && entry.type_id == *type_id);
            if let (Some(entry), Some(params)) = (entry, params.as_object_mut()) {
                add(params, "description", &entry.finding);
            }
        }
    }
    serde_json::to_string(&devices)
}

/// Adds the display, such as `display=region`, to the text in the field `key`. Adds nothing if the
/// display is not known, or if the text already has a display.
fn add(params: &mut Map<String, Value>, key: &str, finding: &Finding) {
    let old = params.get(key).and_then(Value::as_str).unwrap_or_default();
    let display = &finding.facts.display;
    if matches!(display, Display::Unknown(_)) || old.contains("display=") {
        return;
    }
    let words = display.words().join("-");
    let how = finding.believed().map(|method| format!(" ({method})"));
    let how = how.unwrap_or_default();
    let comma = if old.is_empty() { "" } else { ", " };
    let new = format!("{old}{comma}display={words}{how}");
    params.insert(key.into(), new.into());
}
