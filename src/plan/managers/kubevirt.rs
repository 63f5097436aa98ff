//! KubeVirt: reads what a VirtualMachineInstance says about the displays of its GPUs.
//!
//! virt-launcher makes a `<hostdev>` for each of `spec.domain.devices.gpus` and names it in the
//! alias (KubeVirt pkg/virt-launcher/virtwrap/device/hostdevice/gpu/hostdev.go and
//! …/dra/gpu_hostdev.go: `ua-gpu-NAME`, `ua-dra-gpu-NAME`). It applies `virtualGPUOptions` to
//! mediated devices itself: without this option, each gets `display='on' ramfb='on'` up to KubeVirt
//! 1.2, and only the first from 1.3 on. A PCI device, which may be a whole GPU, gets a display only
//! for an explicit `display.enabled: true`, from KubeVirt 1.9 on (…/hostdevice/hostdev.go).
//! `spec.domain.devices.hostDevices` have no displays.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::device::id::DeviceId;
use crate::domain::Hostdev;

/// The prefixes that KubeVirt gives a GPU's alias, after libvirt's `ua-`.
const ALIASES: [&str; 2] = ["gpu-", "dra-gpu-"];

/// The part of a VirtualMachineInstance that matters here: the names of the GPUs that have
/// `display.enabled: true`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vmi {
    shown: BTreeSet<String>,
}

/// The error for a text that is not a VirtualMachineInstance.
#[derive(Debug, thiserror::Error)]
pub enum NotAVmi {
    /// The text is not JSON.
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The text is JSON, but has no object `spec`.
    #[error(
        "it has no spec: expected a VirtualMachineInstance, as kubectl get vmi -o json prints it"
    )]
    NoSpec,
}

impl Vmi {
    /// Reads the JSON. Parts that are not needed may have any form, as versions of KubeVirt differ.
    ///
    /// # Errors
    /// [`NotAVmi`] if the text is not JSON or has no `spec`.
    pub fn parse(text: &str) -> Result<Self, NotAVmi> {
        let value: Value = serde_json::from_str(text)?;
        let spec = value.get("spec").filter(|spec| spec.is_object());
        let spec = spec.ok_or(NotAVmi::NoSpec)?;
        let gpus = spec.pointer("/domain/devices/gpus");
        let gpus = gpus.and_then(Value::as_array).into_iter().flatten();
        let shown = gpus.filter_map(|gpu| {
            let enabled = gpu.pointer("/virtualGPUOptions/display/enabled")?;
            let name = gpu.get("name")?.as_str()?;
            enabled.as_bool()?.then(|| name.to_owned())
        });
        Ok(Vmi {
            shown: shown.collect(),
        })
    }

    /// Returns whether the instance asks for the display of this device, and the device is a PCI
    /// GPU. KubeVirt before 1.9 does not switch on the displays of PCI GPUs.
    pub fn wants(&self, hostdev: &Hostdev<'_, '_>) -> bool {
        let alias = hostdev.element.child("alias");
        let alias = alias.and_then(|alias| alias.attribute("name"));
        let alias = alias.unwrap_or_default();
        let alias = alias.strip_prefix("ua-").unwrap_or(&alias);
        let name = ALIASES.iter().find_map(|start| alias.strip_prefix(start));
        let is_shown = name.is_some_and(|name| self.shown.contains(name));
        is_shown && matches!(hostdev.id, DeviceId::Pci(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Domain;
    use crate::xml::Document;

    fn wishes(gpus: &str, hostdevs: &[(&str, &str)]) -> Vec<bool> {
        let vmi = format!("{{\"spec\":{{\"domain\":{{\"devices\":{{\"gpus\":{gpus}}}}}}}}}");
        let vmi = Vmi::parse(&vmi).unwrap();
        let hostdevs: String = hostdevs
            .iter()
            .map(|(alias, source)| format!("<hostdev type='{}' model='vfio-pci'><source><address {source}/></source>{alias}</hostdev>",
                if source.contains("uuid") { "mdev" } else { "pci" }))
            .collect();
        let text = format!("<domain type='kvm'><devices>{hostdevs}</devices></domain>");
        let document = Document::parse(&text).unwrap();
        let domain = Domain::new(&document).unwrap();
        let hostdevs = domain.hostdevs.iter();
        hostdevs.map(|hostdev| vmi.wants(hostdev)).collect()
    }

    #[test]
    fn what_a_vmi_wants() {
        const MDEV: &str = "uuid='c1a20000-0000-4000-8000-000000000001'";
        const PCI: &str = "bus='0x65' slot='0x00' function='0x4'";
        const NAMED: &str = "<alias name='ua-gpu-a'/>";
        const ON: &str = r#"[{"name":"a","virtualGPUOptions":{"display":{"enabled":true}}}]"#;
        for (gpus, alias, pci) in [
            (ON, NAMED, true),
            (ON, "<alias name='ua-dra-gpu-a'/>", true),
            (ON, "<alias name='gpu-a'/>", true),
            (ON, "<alias name='ua-gpu-b'/>", false),
            (ON, "<alias name='ua-hostdevice-a'/>", false),
            (ON, "", false),
            (&ON.replace("true", "false"), NAMED, false),
            (&ON.replace("\"enabled\":true", ""), NAMED, false),
            (r#"[{"name":"a"}]"#, NAMED, false),
            // KubeVirt never writes these, but they are not errors.
            (r#"{"name":"a"}"#, NAMED, false),
            (r#"[{"name":"a","virtualGPUOptions":[]}]"#, NAMED, false),
            (r#"[7,{"name":1}]"#, NAMED, false),
        ] {
            let seen = wishes(gpus, &[(alias, MDEV), (alias, PCI)]);
            assert_eq!(seen, [false, pci], "{gpus} {alias}");
        }
    }
}
