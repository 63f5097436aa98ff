use super::*;
use crate::device::facts::Reason;
use crate::device::version::Version;
use crate::domain::GraphicsSettings;
use crate::plan::trial::name;
use crate::predict::predict;
use crate::predict::screens::{Known, Screens};

const ID: Uuid = Uuid::from_u128(0x1234);

pub(in crate::plan::trial) fn small(text: &str) -> Reduced {
    reduce(text, &name(ID), ID, &Abilities::default()).unwrap()
}

pub(in crate::plan::trial) fn domain(devices: &str, rest: &str) -> String {
    format!(
        "<domain type='kvm' xmlns:qemu='{QEMU_NAMESPACE}'>\n<name>guest</name>\n\
             <memory unit='GiB'>8</memory>\n<os><type arch='x86_64' machine='pc'>hvm</type></os>\n\
             <devices>\n{devices}\n</devices>\n{rest}\n</domain>\n"
    )
}

pub(in crate::plan::trial) fn hostdev(number: u8, more: &str) -> String {
    format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'>\
             <source><address uuid='0000000{number}-2222-4333-8444-555555555555'/></source>{more}</hostdev>"
    )
}

#[test]
fn a_domain_of_libvirts() {
    let text = "<domain type='kvm' id='3'>
  <name>guest</name>
  <uuid>0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01</uuid>
  <metadata><app:secret xmlns:app='urn:app'>geheim</app:secret></metadata>
  <memory unit='KiB'>8388608</memory>
  <memoryBacking><hugepages/><locked/></memoryBacking>
  <vcpu placement='static' cpuset='0-3'>4</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='1'/></cputune>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-9.0'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram>/var/lib/libvirt/qemu/nvram/guest_VARS.fd</nvram>
  </os>
  <features><acpi/><apic/><hyperv><relaxed state='on'/></hyperv></features>
  <cpu mode='host-passthrough' check='none' migratable='on'/>
  <on_crash>restart</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='network'><source protocol='http' name='x'><cookies><cookie name='a'>geheim</cookie></cookies></source></disk>
    <controller type='pci' index='1' model='pcie-root-port'/>
    <interface type='network'><mac address='52:54:00:00:00:01'/></interface>
    <graphics type='vnc' port='5901' websocket='5701' passwd='geheim' keymap='de'>
      <listen type='address' address='0.0.0.0'/>
    </graphics>
    <graphics type='spice' port='5902' autoport='no' passwd='geheim' defaultMode='secure'>
      <listen type='socket' socket='/run/mine.sock'/>
      <gl enable='yes' rendernode='/dev/dri/renderD128'/>
      <audio id='1'/>
    </graphics>
    <audio id='1' type='spice'/>
    <audio id='2' type='alsa'><input dev='hw:0'/></audio>
    <video>
      <model type='qxl' ram='65536' primary='yes'/>
      <address type='pci' slot='0x01'/>
    </video>
    <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci' display='on' ramfb='on'>
      <source><address uuid='C1A20000-0000-4000-8000-000000000002'/></source>
      <alias name='ua-vgpu'/>
      <rom file='/x.rom'/>
      <address type='pci' bus='0x06'/>
    </hostdev>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <driver name='vfio'/>
      <source><address domain='0x0000' bus='0x06' slot='0x02' function='0x5'/></source>
    </hostdev>
    <hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/></source></hostdev>
    <memballoon model='virtio'/>
  </devices>
</domain>
";
    let reduced = small(text);
    assert_eq!(
        reduced.xml,
        "<domain type='kvm'>
  <name>gfxplane-verify-00000000000000000000000000001234</name>
  <uuid>00000000-0000-0000-0000-000000001234</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-9.0'>hvm</type>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='host-passthrough'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <graphics type='vnc' autoport='yes'>
      <listen type='address' address='127.0.0.1'/>
    </graphics>
    <graphics type='spice'>
      <listen type='socket'/>
      <gl enable='yes' rendernode='/dev/dri/renderD128'/>
      <audio id='1'/>
    </graphics>
    <audio id='1' type='spice'/>
    <video>
      <model type='qxl' ram='65536' primary='yes'/>
    </video>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on' ramfb='on'>
      <source>
        <address uuid='c1a20000-0000-4000-8000-000000000002'/>
      </source>
      <alias name='ua-vgpu'/>
      <rom file='/x.rom'/>
    </hostdev>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <driver name='vfio'/>
      <source>
        <address domain='0x0000' bus='0x06' slot='0x02' function='0x5'/>
      </source>
    </hostdev>
    <memballoon model='none'/>
  </devices>
</domain>
"
    );
    assert_eq!(reduced.left_out.len(), 1);
    assert!(reduced.left_out[0].what.starts_with("the firmware"));
}

#[test]
fn ids_follow_the_devices() {
    let devices = "<interface type='hostdev'/><hostdev mode='subsystem' type='usb'/>".to_owned()
        + &hostdev(1, "")
        + &hostdev(2, "<alias name='ua-b'/>")
        + &hostdev(3, "");
    let device = |alias: &str| {
        format!(
            "<qemu:device alias='{alias}'><qemu:frontend><qemu:property name='{alias}' type='bool' value='true'/>\
                 <qemu:property name='gone' type='remove'/></qemu:frontend></qemu:device>"
        )
    };
    let rest = format!(
        "<qemu:override>{}{}{}{}</qemu:override><qemu:commandline>\
             <qemu:arg value='-set'/><qemu:arg value='device.hostdev2.x=y.z'/></qemu:commandline>",
        device("hostdev2"),
        device("ua-b"),
        device("hostdev3"),
        device("net0")
    );
    let reduced = small(&domain(&devices, &rest));
    let document = Document::parse(&reduced.xml).unwrap();
    let view = Domain::new(&document).unwrap();
    let aliases: Vec<&str> = view.hostdevs.iter().map(|h| h.alias.as_str()).collect();
    assert_eq!(aliases, ["hostdev0", "ua-b", "hostdev1"]);
    let of = |alias: &str| {
        let own = view.properties.iter().filter(|p| p.alias == alias);
        own.map(|p| (p.name.as_str(), p.kind.as_str()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("hostdev0"), [("hostdev2", "bool"), ("gone", "remove")]);
    assert_eq!(of("hostdev1"), [("hostdev3", "bool"), ("gone", "remove")]);
    assert_eq!(of("ua-b").len(), 2);
    assert_eq!(view.properties.len(), 6);
    assert_eq!(view.arguments[1].value, "device.hostdev0.x=y.z");
}

#[test]
fn sockets_by_qemu_conf() {
    let text = domain(
        "<graphics type='spice' autoport='yes'><listen type='address'/></graphics>\
             <graphics type='vnc' port='-1'><listen type='address' address='::'/></graphics>",
        "",
    );
    let abilities = Abilities {
        spice_auto_unix_socket: Some(true),
        vnc_auto_unix_socket: Some(true),
        ..Abilities::default()
    };
    let xml = reduce(&text, "n", ID, &abilities).unwrap().xml;
    assert!(xml.contains("<graphics type='spice'>\n      <listen type='socket'/>"));
    assert!(xml.contains("<listen type='address' address='127.0.0.1'/>"));
}

#[test]
fn what_is_no_domain_of_qemus() {
    let error = |text: &str| {
        let refused = reduce(text, "n", ID, &Abilities::default());
        refused.unwrap_err().to_string()
    };
    assert!(error("<domain type='lxc'/>").contains("\"lxc\" is not run by QEMU"));
    assert!(error("<network/>").contains("line 1, column 1: <network>"));
    assert!(error("<domain").contains("line 1"));
}

/// Returns what decides about a domain's start, without its places in the XML and its reach.
fn decides(text: &str) -> Screens {
    let document = Document::parse(text).unwrap();
    let view = Domain::new(&document).unwrap();
    let known = |_| Known::nothing(Reason::NotProbed);
    let mut screens = Screens::of(&view, &known, &Abilities::default());
    for frontend in &mut screens.frontends {
        frontend.p2p &= frontend.kind == GraphicsType::Dbus;
        if frontend.reach == crate::domain::Reach::Remote {
            frontend.reach = crate::domain::Reach::Loopback;
        }
        // Addresses, ports, passwords and protection are not copied, either.
        let listens = frontend.settings.listens.len();
        frontend.settings = GraphicsSettings::default();
        frontend.settings.listens = vec![(String::new(), false); listens.max(1)];
    }
    for vgpu in &mut screens.vgpus {
        vgpu.settings.managed = false;
        vgpu.settings.boot = false;
        vgpu.settings.address = None;
    }
    for card in &mut screens.cards {
        card.settings.has_address = false;
    }
    // A taken slot is that of an address.
    screens.slot_taken = None;
    screens.settings.spice_chardevs.clear();
    screens.arguments.on_pci.clear();
    screens.settings.audio.clear();
    screens.settings.sound = false;
    // The settings use the new numbers of the devices.
    for setting in &mut screens.arguments.settings {
        *setting = crate::predict::arguments::Setting {
            id: String::new(),
            property: setting.property.clone(),
            value: setting.value.clone(),
            text: String::new(),
        };
    }
    screens.live_settings.clear();
    screens.dead_settings = screens
        .dead_settings
        .iter()
        .map(|_| String::new())
        .collect();
    screens
}

fn holds(text: &str) {
    let reduced = small(text);
    let again = small(&reduced.xml);
    assert_eq!(again.xml, reduced.xml, "of {text}");
    let tree = roxmltree::Document::parse(&reduced.xml).unwrap();
    let mut all = tree
        .root_element()
        .descendants()
        .filter(roxmltree::Node::is_element);
    assert!(!reduced.xml.contains("geheim"), "{}", reduced.xml);
    assert!(
        all.all(|e| {
            !matches!(
                e.tag_name().name(),
                "disk" | "interface" | "metadata" | "loader" | "nvram" | "filesystem" | "channel"
            ) && [
                "passwd",
                "passwdValidTo",
                "port",
                "tlsPort",
                "websocket",
                "socket",
            ]
            .iter()
            .all(|name| e.attribute(*name).is_none())
        }),
        "{}",
        reduced.xml
    );
    if reduced.left_out.iter().any(|left| left.matters) {
        return;
    }
    let (whole, small) = (decides(text), decides(&reduced.xml));
    // libvirt defines no such domain.
    let repeats = whole.settings.alias_twice.is_some() || whole.settings.address_twice.is_some();
    let is_unfit = !whole.settings.misread.is_empty() || !whole.settings.unfit.is_empty();
    if is_unfit || whole.settings.has_a_device_twice || repeats {
        return;
    }
    assert_eq!(small, whole, "{text}\n{}", reduced.xml);
    let abilities = Abilities {
        qemu: Some(Version::of(&[10, 0, 13])),
        libvirt: Some(Version::of(&[11, 3])),
        ..Abilities::default()
    };
    let outcome = |screens: &Screens| predict(screens, &abilities).outcome;
    assert_eq!(outcome(&small), outcome(&whole));
}

#[test]
fn the_domains_of_the_cases() {
    let cases = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixup");
    let mut seen = 0;
    for case in std::fs::read_dir(cases).unwrap().flatten() {
        let Ok(text) = std::fs::read_to_string(case.path().join("domain.xml")) else {
            continue;
        };
        if let Ok(document) = Document::parse(&text)
            && Domain::new(&document).is_ok_and(|domain| domain.is_qemu())
        {
            holds(&text);
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

fn some_graphics() -> impl proptest::strategy::Strategy<Value = String> {
    "<graphics type='(vnc|spice|dbus|sdl|egl-headless|rdp|desktop)'( port='(-1|5900|)')?( autoport='(yes|no)')?\
         ( passwd='geheim')?( tlsPort='5901')?( websocket='1')?( listen='(0.0.0.0|::1)')?( p2p='yes')?( socket='/geheim')?>\
         (<listen type='(none|socket|network|address)'( address='(127.0.0.1|192.0.2.1|)')?( socket='/geheim')?/>)?\
         (<gl( enable='(yes|no)')?( rendernode='/dev/dri/[a-z&&[^x]]{0,3}')?/>)?(<audio id='[12]'/>)?</graphics>"
}

fn some_devices() -> impl proptest::strategy::Strategy<Value = String> {
    "(<disk type='file'><auth username='geheim'/></disk>|<interface type='(hostdev|user)'/>|\
         <hostdev mode='subsystem' type='(mdev|pci|usb)'( managed='(yes|no)')?( model='vfio-(pci|ap)')?( display='(on|off|x)')?( ramfb='on')?>\
         <source><address (uuid='0000000[1-4]-2222-4333-8444-555555555555'|bus='(0x6|7)' slot='0x1')/></source>\
         (<alias name='(ua-[ab]|hostdev1)'/>)?(<rom( bar='off')?( file='/x')?/>)?(<boot order='1'/>)?</hostdev>|\
         <video><model( type='(none|vga|virtio|qxl|ramfb)')?( primary='yes')?>(<acceleration accel3d='yes'/>)?</model>(<driver name='(qemu|vhostuser)'/>)?</video>|\
         <audio id='[12]' type='(alsa|spice|dbus)'/>|<channel type='unix'/>|<!--geheim-->|<tpm/>|\n ){0,6}"
}

fn some_rest() -> impl proptest::strategy::Strategy<Value = String> {
    "(<metadata><x>geheim</x></metadata>)?(<cpu mode='(custom|host-model)'/>)?\
         (<memoryBacking>(<hugepages/>)?(<source type='memfd'/>)?(<access mode='shared'/>)?</memoryBacking>)?(<iommu model='intel'/>)?\
         (<seclabel type='(none|static)'( model='dac')?>(<label>[a+:]{1,3}</label>)?</seclabel>)?\
         (<qemu:commandline>(<qemu:arg value='(-nographic|-set'/><qemu:arg value='device[.](hostdev0|net0|video0|v)[.]x=y|-display'/><qemu:arg value='(none|egl-headless|gtk|vnc=:0)|--vnc'/><qemu:arg value='(none|:0,geheim)|-vga'/><qemu:arg value='std|-global'/><qemu:arg value='(vfio-pci|e1000)[.]x=y|-device'/><qemu:arg value='(VGA|e1000|vfio-pci),id=v|-object'/><qemu:arg value='secret,data=geheim|-no-hpet)'/>){0,4}\
         (<qemu:env name='(MESA_X|KEY)' value='[a-z]'/>)?</qemu:commandline>)?\
         (<qemu:override>(<qemu:device alias='(hostdev[01]|ua-a|net0)'><qemu:frontend><qemu:property name='(display|xres)' type='(string|unsigned|remove)'( value='(on|1)')?/></qemu:frontend></qemu:device>){0,2}</qemu:override>)?"
}

proptest::proptest! {
    #[test]
    fn whatever_libvirt_has(
        graphics in proptest::collection::vec(some_graphics(), 0..3),
        devices in some_devices(),
        rest in some_rest(),
    ) {
        let devices = graphics.concat() + &devices;
        let text = domain(&devices, &rest);
        // Some of these differ from libvirt's form, but what holds for the small ones still
        // does.
        if Document::parse(&text).is_ok() {
            holds(&text);
        }
    }
}
