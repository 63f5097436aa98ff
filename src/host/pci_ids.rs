//! Reads the names of PCI devices from the data file of libpci (pci.ids).

use std::collections::BTreeMap;

use crate::host::{Root, read_whole};

/// The paths of the data file: Debian's, Fedora's, that of Arch and Alpine, and SUSE's.
const PLACES: [&str; 4] = [
    "usr/share/misc/pci.ids",
    "usr/share/hwdata/pci.ids",
    "usr/share/pci.ids",
    "var/lib/pciutils/pci.ids",
];

/// The largest file that is read, in bytes. The file of 2026 has 1.5 MB.
const LARGEST: usize = 16 << 20;

/// Returns the names of these devices (vendor id, device id) as `lspci` prints them: vendor and
/// device. A device that the data file does not list is left out. Empty without a data file.
pub(crate) fn names(root: &Root, devices: &[(u16, u16)]) -> BTreeMap<(u16, u16), String> {
    let mut places = PLACES.iter();
    let text = places.find_map(|place| read_whole(&root.join(place), LARGEST).ok());
    text.map(|text| names_in(&text, devices))
        .unwrap_or_default()
}

/// Finds the names in the file's text. The text has a line for each vendor and below it, indented
/// by a tab, a line for each of the vendor's devices. The list of vendors ends at the table of
/// classes (`C `).
fn names_in(text: &str, devices: &[(u16, u16)]) -> BTreeMap<(u16, u16), String> {
    let mut found = BTreeMap::new();
    let mut vendor = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with("C ") {
            break;
        }
        let (indented, rest) = match line.strip_prefix('\t') {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let Some((number, name)) = rest.split_once("  ") else {
            continue;
        };
        // The line of a subsystem begins with a second tab instead of a number.
        let Ok(number) = u16::from_str_radix(number, 16) else {
            continue;
        };
        if !indented {
            vendor = Some((number, name.trim()));
        } else if let Some((id, of)) = vendor
            && devices.contains(&(id, number))
        {
            found.insert((id, number), format!("{of} {}", name.trim()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_vendor_and_device() {
        let text = "# comment\n10de  NVIDIA Corporation\n\t2235  GA102GL [A40]\n\t\t10de 145a  A40\n\
                    8086  Intel Corporation\n\t5917  UHD Graphics 620\nC 03  Display controller\n\
                    \t00  VGA compatible controller\n";
        let found = names_in(
            text,
            &[(0x8086, 0x5917), (0x10de, 0x2235), (0x10de, 0x145a)],
        );
        let names: Vec<&str> = found.values().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "NVIDIA Corporation GA102GL [A40]",
                "Intel Corporation UHD Graphics 620"
            ]
        );
    }
}
