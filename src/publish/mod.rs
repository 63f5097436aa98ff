//! Writes the knowledge about a device in the forms that other programs read.
//!
//! * [`words`]: names and values, for mdevctl attributes and udev properties.
//! * [`capability`]: the `vfio_display` capability, beside libvirt's own in node-device XML.
//! * [`node_device`]: libvirt's node-device XML, rebuilt from sysfs for hosts without libvirt.
//! * [`gpus`]: the reasons why a graphics card offers no vGPU.
//! * [`overview`]: the host as a tree, from its graphics cards to its guests.
//! * [`unknown`]: the fixes if the display of a device is not known.
//! * [`offline`]: the node devices of a host, with the XML and capability of each.
//! * [`inventory`]: all knowledge about a host's devices and types, as JSON for `gfxplane list`.
//! * [`export`]: files for other programs, and measurements as rules for other hosts.
//! * [`mdevctl_call`]: the arguments that mdevctl passes to its callouts and notifiers.
//! * [`ovirt`]: the displays in the list of devices that vdsm sends to oVirt's engine.

pub mod capability;
pub mod export;
pub(crate) mod gpus;
pub mod inventory;
pub mod mdevctl_call;
pub mod node_device;
pub mod offline;
pub mod overview;
pub mod ovirt;
pub(crate) mod unknown;
pub mod words;

use crate::device::facts::PREFIX;
use crate::xml::{Document, Edit, Element, XmlError};

/// Returns libvirt's XML of a device with `capability` as its last element. Removes any earlier
/// capability of ours. With `None`, adds nothing.
///
/// # Errors
/// [`XmlError`] if libvirt's XML can't be read.
pub fn with_capability(xml: &str, capability: Option<&str>) -> Result<String, XmlError> {
    let document = Document::parse(xml)?;
    let mut edits: Vec<Edit> = ours(&document, false);
    if let Some(capability) = capability {
        edits.push(document.root().append(capability));
    }
    Ok(document.apply(&edits))
}

/// Returns libvirt's XML of a device without our capability and attributes, so that
/// `nodedev-define` and `nodedev-create` accept it.
///
/// # Errors
/// [`XmlError`] if libvirt's XML can't be read.
pub fn plain(xml: &str) -> Result<String, XmlError> {
    let document = Document::parse(xml)?;
    Ok(document.apply(&ours(&document, true)))
}

fn ours(document: &Document<'_>, attributes: bool) -> Vec<Edit> {
    let capabilities = document.root().children();
    let capabilities = capabilities.filter(|child| child.name() == "capability");
    let is_ours = |c: &Element<'_, '_>| c.attribute("type").as_deref() == Some(capability::TYPE);
    let (ours, libvirts): (Vec<_>, Vec<_>) = capabilities.partition(is_ours);
    let mut edits: Vec<Edit> = ours.iter().map(Element::remove).collect();
    if attributes {
        let attrs = libvirts.into_iter().flat_map(Element::children);
        let attrs = attrs.filter(|child| {
            let name = child.attribute("name").unwrap_or_default();
            child.name() == "attr" && name.starts_with(PREFIX)
        });
        edits.extend(attrs.map(|attr| attr.remove()));
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn plain_leaves_what_is_libvirts() {
        let ours = "<attr name='gfxplane.display' value='dmabuf'/>";
        let capability = format!("<capability type='vfio_display'>{ours}</capability>");
        let of = |ours: &str, capability: &str| {
            format!(
                "<device><capability type='mdev'>{ours}<attr name='assign_adapter' value='5'/></capability>{capability}</device>"
            )
        };
        assert_eq!(plain(&of(ours, &capability)).unwrap(), of("", ""));
    }
}
