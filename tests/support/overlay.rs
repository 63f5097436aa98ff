//! Tests the schema itself: what it allows, and what it doesn't.

use libtest_mimic::Trial;

use crate::support::schema::{Against, problems, validate};

/// Returns one test for each row.
pub(crate) fn trials() -> Vec<Trial> {
    let allowed = ALLOWED.iter().map(|(name, capability)| {
        Trial::test(format!("schema::allowed::{name}"), move || {
            Ok(validate(Against::Overlay, &device(capability))?)
        })
    });
    let refused = REFUSED.iter().map(|(name, capability)| {
        Trial::test(format!("schema::refused::{name}"), move || {
            if problems(Against::Overlay, &device(capability))?.is_empty() {
                return Err(format!("passes as valid:\n{capability}").into());
            }
            Ok(())
        })
    });
    let libvirt = Trial::test("schema::libvirt-knows-nothing-of-it", || {
        if problems(Against::Libvirt, &device(ALLOWED[0].1))?.is_empty() {
            return Err("libvirt has the capability: the overlay can go".into());
        }
        Ok(())
    });
    allowed
        .chain(refused)
        .chain([libvirt])
        .chain(beside_a_libvirt_that_has_it())
        .collect()
}

/// Returns the tests of the overlay on a libvirt with the capability, whose own schema has it for
/// devices: both say the same as the overlay does on a libvirt without.
fn beside_a_libvirt_that_has_it() -> [Trial; 2] {
    let all = || {
        let allowed = ALLOWED.iter().map(|row| (row, true));
        allowed.chain(REFUSED.iter().map(|row| (row, false)))
    };
    let overlay = Trial::test("schema::the-overlay-on-a-libvirt-that-has-it", move || {
        for ((name, capability), valid) in all() {
            let found = problems(Against::OverlayOnKnowing, &device(capability))?;
            if found.is_empty() != valid {
                return Err(format!("{name}: {found:?}").into());
            }
        }
        Ok(())
    });
    let libvirts = Trial::test("schema::a-libvirt-that-has-it", move || {
        for ((name, capability), valid) in all() {
            let found = problems(Against::KnowingLibvirt, &device(capability))?;
            if found.is_empty() != (valid && *name != "a-parent-with-two-types") {
                return Err(format!("{name}: {found:?}").into());
            }
        }
        Ok(())
    });
    [overlay, libvirts]
}

fn device(capability: &str) -> String {
    format!("<device>\n  <name>x</name>\n  <parent>computer</parent>\n{capability}\n</device>\n")
}

const ALLOWED: &[(&str, &str)] = &[
    (
        "the-least",
        "<capability type='vfio_display'><display type='none'/></capability>",
    ),
    (
        "everything",
        "<capability type='vfio_display'>
           <display type='dmabuf'/>
           <display type='region'/>
           <edid max_xres='4294967295' max_yres='0'/>
           <opregion size='18446744073709551615'/>
           <require>
             <option scope='graphics' name='gl' value='yes'/>
             <option scope='hostdev' name='ramfb' value='on' for='boot-display'/>
             <option scope='qemu' name='x-igd-opregion' value='on' for='windows' qemu_below='10.1'/>
             <option scope='host' name='rendernode' value='/dev/dri/by-path/pci-0000:00:02.0-render'/>
           </require>
           <evidence method='probe' path='cdev' driver='d' version='1' kernel='6.12' step='open' errno='ESRCH'/>
         </capability>",
    ),
    (
        "unknown",
        "<capability type='vfio_display'><display type='unknown' reason='timed-out'/></capability>",
    ),
    (
        "a-reason-of-a-later-version",
        "<capability type='vfio_display'><display type='unknown' reason='not-yet-2'/></capability>",
    ),
    (
        "rule",
        "<capability type='vfio_display'><display type='none'/><evidence method='rule' rule='a rule'/></capability>",
    ),
    (
        "sibling-by-group",
        "<capability type='vfio_display'><display type='region'/><evidence method='sibling' path='group'/></capability>",
    ),
    (
        "said-by-qemu",
        "<capability type='vfio_display'><display type='dmabuf'/><evidence method='qemu' driver='d' kernel='6.12' qemu='10.0.13'/></capability>",
    ),
    (
        "a-parent-with-two-types",
        "<capability type='vfio_display'>
           <type id='a &lt;b>'><display type='region'/></type>
           <type id='c'><display type='unknown' reason='not-probed'/></type>
         </capability>",
    ),
    (
        "beside-libvirts-own",
        "<capability type='mdev'><type id='t'/><attr name='gfxplane.display' value='none'/></capability>
         <capability type='vfio_display'><display type='none'/></capability>",
    ),
    (
        "a-device-of-libvirts-alone",
        "<capability type='drm'><type>render</type></capability>",
    ),
];

const REFUSED: &[(&str, &str)] = &[
    ("empty", "<capability type='vfio_display'/>"),
    (
        "another-type",
        "<capability type='vfio_displays'><display type='none'/></capability>",
    ),
    (
        "unknown-without-reason",
        "<capability type='vfio_display'><display type='unknown'/></capability>",
    ),
    (
        "known-with-reason",
        "<capability type='vfio_display'><display type='none' reason='in-use'/></capability>",
    ),
    (
        "reason-that-is-no-word",
        "<capability type='vfio_display'><display type='unknown' reason='In use'/></capability>",
    ),
    (
        "reason-with-a-stray-hyphen",
        "<capability type='vfio_display'><display type='unknown' reason='in-use-'/></capability>",
    ),
    (
        "an-interface-that-is-none",
        "<capability type='vfio_display'><display type='gl'/></capability>",
    ),
    (
        "none-beside-another",
        "<capability type='vfio_display'><display type='dmabuf'/><display type='none'/></capability>",
    ),
    (
        "not-qemus-order",
        "<capability type='vfio_display'><display type='region'/><display type='dmabuf'/></capability>",
    ),
    (
        "edid-without-display",
        "<capability type='vfio_display'><edid max_xres='1' max_yres='1'/></capability>",
    ),
    (
        "half-an-edid",
        "<capability type='vfio_display'><display type='dmabuf'/><edid max_xres='1'/></capability>",
    ),
    (
        "edid-out-of-range",
        "<capability type='vfio_display'><display type='dmabuf'/><edid max_xres='4294967296' max_yres='1'/></capability>",
    ),
    (
        "edid-with-a-sign",
        "<capability type='vfio_display'><display type='dmabuf'/><edid max_xres='+1' max_yres='1'/></capability>",
    ),
    (
        "opregion-in-hexadecimal",
        "<capability type='vfio_display'><display type='dmabuf'/><opregion size='0x2000'/></capability>",
    ),
    (
        "opregion-below-zero",
        "<capability type='vfio_display'><display type='dmabuf'/><opregion size='-1'/></capability>",
    ),
    (
        "wrong-order",
        "<capability type='vfio_display'><display type='dmabuf'/><opregion size='1'/><edid max_xres='1' max_yres='1'/></capability>",
    ),
    (
        "nothing-required",
        "<capability type='vfio_display'><display type='dmabuf'/><require/></capability>",
    ),
    (
        "wrong-scope",
        "<capability type='vfio_display'><display type='dmabuf'/><require><option scope='domain' name='gl' value='yes'/></require></capability>",
    ),
    (
        "option-without-value",
        "<capability type='vfio_display'><display type='dmabuf'/><require><option scope='graphics' name='gl'/></require></capability>",
    ),
    (
        "option-with-more",
        "<capability type='vfio_display'><display type='dmabuf'/><require><option scope='graphics' name='gl' value='yes' if='x'/></require></capability>",
    ),
    (
        "no-version-of-qemu",
        "<capability type='vfio_display'><display type='dmabuf'/><require><option scope='qemu' name='x' value='on' qemu_below='new'/></require></capability>",
    ),
    (
        "no-such-method",
        "<capability type='vfio_display'><display type='none'/><evidence method='guess'/></capability>",
    ),
    (
        "evidence-without-method",
        "<capability type='vfio_display'><display type='none'/><evidence driver='d'/></capability>",
    ),
    (
        "no-such-path",
        "<capability type='vfio_display'><display type='none'/><evidence method='probe' path='container'/></capability>",
    ),
    (
        "a-rule-without-name",
        "<capability type='vfio_display'><display type='none'/><evidence method='rule'/></capability>",
    ),
    (
        "a-rule-that-opened",
        "<capability type='vfio_display'><display type='none'/><evidence method='rule' rule='r' path='group'/></capability>",
    ),
    (
        "a-probe-by-rule",
        "<capability type='vfio_display'><display type='none'/><evidence method='probe' rule='r'/></capability>",
    ),
    (
        "qemu-of-a-distribution",
        "<capability type='vfio_display'><display type='none'/><evidence method='qemu' qemu='10.0.13Debian'/></capability>",
    ),
    (
        "errno-by-number",
        "<capability type='vfio_display'><display type='none'/><evidence method='probe' errno='16'/></capability>",
    ),
    (
        "text",
        "<capability type='vfio_display'>text<display type='none'/></capability>",
    ),
    (
        "something-else",
        "<capability type='vfio_display'><display type='none'/><planes count='1'/></capability>",
    ),
    (
        "device-and-parent-at-once",
        "<capability type='vfio_display'><display type='none'/><type id='a'><display type='none'/></type></capability>",
    ),
    (
        "a-type-without-id",
        "<capability type='vfio_display'><type><display type='none'/></type></capability>",
    ),
    (
        "a-type-without-display",
        "<capability type='vfio_display'><type id='a'/></capability>",
    ),
    (
        "types-in-a-type",
        "<capability type='vfio_display'><type id='a'><type id='b'><display type='none'/></type></type></capability>",
    ),
    (
        "a-capability-in-ours",
        "<capability type='vfio_display'><capability type='vfio_display'><display type='none'/></capability></capability>",
    ),
    (
        "inside-libvirts-mdev",
        "<capability type='mdev'><type id='t'/><capability type='vfio_display'><display type='none'/></capability></capability>",
    ),
    (
        "inside-libvirts-pci",
        "<capability type='pci'><domain>0</domain><bus>0</bus><slot>2</slot><function>0</function>
           <product id='0x1'/><vendor id='0x1'/>
           <capability type='vfio_display'><display type='none'/></capability></capability>",
    ),
    (
        "in-a-namespace",
        "<capability xmlns='urn:x' type='vfio_display'><display type='none'/></capability>",
    ),
    (
        "what-libvirt-refuses",
        "<capability type='drm'><type>display</type></capability>
         <capability type='vfio_display'><display type='none'/></capability>",
    ),
];
