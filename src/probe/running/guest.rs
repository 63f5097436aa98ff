//! Which process is a domain's, and which of its descriptors a device's: what libvirt and the kernel
//! have written down in, the choice out. It touches nothing.
//!
//! A process is asked only if everything fits; whatever is missing, is said twice or contradicts
//! something else is a [`Refusal`].

use crate::domain::Domain;
use crate::evidence::Step;
use crate::names::DeviceId;
use crate::xml::{Document, Element};

/// What the kernel calls a device's descriptor that came from a group (Linux
/// drivers/vfio/group.c, `vfio_device_open_file`).
pub const ANONYMOUS: &str = "anon_inode:[vfio-device]";

/// In `/proc/PID/fdinfo/N`: the device of a vfio descriptor, since Linux 6.18
/// (drivers/vfio/vfio_main.c, `vfio_device_show_fdinfo`).
const SYSPATH: &str = "vfio-device-syspath:";

/// What one of libvirt's status files says (`/run/libvirt/qemu/NAME.xml`, libvirt
/// src/conf/domain_conf.c, `virDomainObjFormat`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The domain's name.
    pub name: String,
    /// The number that libvirt gave it at its start.
    pub id: u32,
    /// Its process.
    pub pid: i32,
    /// The vfio devices that it has by `<hostdev>`.
    pub devices: Vec<DeviceId>,
    /// How many things of it may be vfio devices to QEMU, these among them.
    pub vfio: usize,
}

impl Status {
    /// Reads a status file; `None` if it is none of a domain that runs.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let document = Document::parse(text).ok()?;
        let status = document.root();
        if !status.is(None, "domstatus") {
            return None;
        }
        let live = status.child("domain")?;
        let live = Document::parse(&text[live.span()]).ok()?;
        let domain = Domain::new(&live).ok()?;
        Some(Status {
            name: domain.name.clone()?,
            id: domain.element.attribute("id")?.parse().ok()?,
            pid: status
                .attribute("pid")?
                .parse()
                .ok()
                .filter(|pid| *pid > 1)?,
            devices: domain.hostdevs.iter().map(|hostdev| hostdev.id).collect(),
            vfio: live.elements().filter(may_be_vfio).count(),
        })
    }
}

/// Whether QEMU may open a vfio device for an element: host devices that are mediated or PCI, for
/// networks, too; NVMe disks, which QEMU drives itself; and what is handed to QEMU unseen.
fn may_be_vfio(element: &Element<'_, '_>) -> bool {
    let of_type = |wanted: &[&str]| {
        let kind = element.attribute("type");
        kind.is_some_and(|kind| wanted.contains(&kind.as_ref()))
    };
    match element.local_name() {
        "hostdev" => of_type(&["mdev", "pci"]),
        // The `<actual>` of an interface of type network; one of type hostdev has none.
        "interface" | "actual" => of_type(&["hostdev"]),
        "disk" | "source" => of_type(&["nvme"]),
        "arg" | "property" => element
            .attribute("value")
            .is_some_and(|value| value.contains("vfio")),
        _ => false,
    }
}

/// The device that is wanted, as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its directory: `/sys/devices/…`.
    pub syspath: String,
    /// The number of its own node, if the kernel has made one.
    pub node: Option<Node>,
    /// The number of its group's node. (Linux drivers/vfio/group.c makes one for each group.)
    pub group: Option<Node>,
}

/// Major and minor number of a device node.
pub type Node = (u64, u64);

/// What there is to see of the process that a status file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The number in the domain's pidfile.
    pub pidfile: Option<i32>,
    /// Who has that file locked: QEMU itself from before its exec until its end (libvirt
    /// src/util/vircommand.c, `virExec`).
    pub holder: Option<i32>,
    /// `/proc/PID/cgroup`.
    pub cgroup: String,
    /// Those of its descriptors that may be of vfio devices.
    pub descriptors: Vec<Descriptor>,
    /// The numbers of those that are of a group's node, as far as they can be seen.
    pub groups: Vec<Option<Node>>,
}

/// A descriptor of a vfio device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number in the process.
    pub number: i32,
    /// What is known of its device.
    pub of: Of,
}

/// What a descriptor tells of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// It came from a group; its directory in sysfs, where the kernel says that.
    Group(Option<String>),
    /// It is the device's own node.
    Node(Node),
}

/// Whom to ask through which descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The process.
    pub pid: i32,
    /// Its descriptor.
    pub descriptor: Descriptor,
}

impl Chosen {
    /// Whether the kernel says of which device the descriptor is. Else there is only one that it
    /// can be, in a group that is the device's.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.descriptor.of != Of::Group(None)
    }
}

/// Why nobody is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No status file has the device.
    #[error("none of libvirt's running domains has it")]
    NoDomain,
    /// Several have.
    #[error("several of libvirt's status files have it: {0}")]
    SeveralDomains(String),
    /// The process may be somebody else's by now.
    #[error("process {pid} is not certain to be the QEMU of domain {domain}: {problem}")]
    NotItsProcess {
        /// The domain.
        domain: String,
        /// The number in the status file.
        pid: i32,
        /// What does not fit.
        problem: String,
    },
    /// The process has no such descriptor (yet, or any more).
    #[error("the QEMU of domain {0} does not have it open")]
    NotOpen(String),
    /// There are several descriptors, or several devices.
    #[error(
        "domain {domain} has {devices} vfio devices and QEMU {descriptors} open: this kernel does not \
         say which is which (Linux 6.18 does)"
    )]
    Untold {
        /// The domain.
        domain: String,
        /// Its devices.
        devices: usize,
        /// The descriptors.
        descriptors: usize,
    },
    /// The one descriptor may be of another device.
    #[error(
        "the QEMU of domain {0} has another group open than the device's, or none: its devices are changing"
    )]
    NotItsGroup(String),
    /// The guest or its devices changed meanwhile.
    #[error("domain {0} changed while it was asked")]
    Changed(String),
}

impl Refusal {
    /// At which step it comes.
    #[must_use]
    pub fn step(&self) -> Step {
        match self {
            Refusal::NoDomain | Refusal::SeveralDomains(_) | Refusal::NotItsProcess { .. } => {
                Step::Guest
            }
            Refusal::NotOpen(_)
            | Refusal::Untold { .. }
            | Refusal::NotItsGroup(_)
            | Refusal::Changed(_) => Step::Descriptor,
        }
    }
}

/// The one domain that has the device.
///
/// # Errors
/// If none has it, or more than one.
pub fn domain_with(statuses: Vec<Status>, id: DeviceId) -> Result<Status, Refusal> {
    let mut having: Vec<Status> = statuses
        .into_iter()
        .filter(|status| status.devices.contains(&id))
        .collect();
    match having.len() {
        0 => Err(Refusal::NoDomain),
        1 => Ok(having.remove(0)),
        _ => {
            let names: Vec<_> = having.into_iter().map(|status| status.name).collect();
            Err(Refusal::SeveralDomains(names.join(", ")))
        }
    }
}

/// Whether the process is the domain's QEMU, and by which descriptor it has the device.
///
/// The pidfile's lock decides about the process: a later process with the number of one that has
/// ended does not have it. The cgroup must not say otherwise; a host may have none.
///
/// That there is one device and one descriptor is not enough: while libvirt attaches a device its
/// status file does not have it yet, and another one may go at that moment. But QEMU has a device's
/// group open for as long as the device (hw/vfio, `vfio_group_get`), and the group tells.
///
/// # Errors
/// What does not fit.
pub fn choose(status: &Status, process: &Process, wanted: &Wanted) -> Result<Chosen, Refusal> {
    let pid = status.pid;
    let not_its = |problem: &str| {
        Err(Refusal::NotItsProcess {
            domain: status.name.clone(),
            pid,
            problem: problem.into(),
        })
    };
    if process.pidfile != Some(pid) {
        return not_its("its pidfile does not say so");
    }
    if process.holder != Some(pid) {
        return not_its("it does not hold the lock of its pidfile");
    }
    if let Some(other) = other_machine(&process.cgroup, status.id) {
        return not_its(&format!("it is in the cgroup {other}"));
    }
    let chosen = |descriptor: &Descriptor| Chosen {
        pid,
        descriptor: descriptor.clone(),
    };
    let told = |descriptor: &&Descriptor| match &descriptor.of {
        Of::Group(Some(syspath)) => *syspath == wanted.syspath,
        Of::Group(None) => false,
        Of::Node(node) => Some(*node) == wanted.node,
    };
    let untold = |descriptor: &Descriptor| descriptor.of == Of::Group(None);
    match (
        process.descriptors.iter().find(told),
        &process.descriptors[..],
    ) {
        // A device is opened once; were it twice, either descriptor would do.
        (Some(descriptor), _) => Ok(chosen(descriptor)),
        (None, all) if !all.iter().any(untold) => Err(Refusal::NotOpen(status.name.clone())),
        (None, [descriptor]) if status.vfio == 1 => match process.groups[..] {
            [group] if group.is_some() && group == wanted.group => Ok(chosen(descriptor)),
            _ => Err(Refusal::NotItsGroup(status.name.clone())),
        },
        (None, all) => Err(Refusal::Untold {
            domain: status.name.clone(),
            devices: status.vfio,
            descriptors: all.len(),
        }),
    }
}

/// The cgroup of another machine of libvirt's, if the process is in one.
///
/// By systemd it is called `machine-qemu\x2dID\x2dNAME.scope`, without `qemu-ID-NAME.libvirt-qemu`
/// (libvirt src/util/virsystemd.c, `virSystemdMakeScopeName`; src/util/vircgroup.c,
/// `virCgroupNewMachineManual`); NAME may be cut short.
fn other_machine(cgroup: &str, id: u32) -> Option<&str> {
    let scope = format!(r"machine-qemu\x2d{id}\x2d");
    let directory = format!("qemu-{id}-");
    cgroup
        .lines()
        .flat_map(|line| line.split('/'))
        .find(|part| {
            (part.starts_with(r"machine-qemu\x2d") && !part.starts_with(&scope))
                || (part.ends_with(".libvirt-qemu") && !part.starts_with(&directory))
        })
}

/// The device that `/proc/PID/fdinfo/N` names, if it names one.
#[must_use]
pub fn syspath(fdinfo: &str) -> Option<String> {
    let path = fdinfo.lines().find_map(|line| line.strip_prefix(SYSPATH))?;
    Some(path.trim().to_owned())
}

/// A node's number as sysfs writes it: `511:0`.
#[must_use]
pub fn node(text: &str) -> Option<Node> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEVICE: &str = "c1a20000-0000-4000-8000-000000000002";
    const OURS: &str = "/sys/devices/virtual/mbochs/mbochs/c1a20000-0000-4000-8000-000000000002";
    const OTHER: &str = "/sys/devices/virtual/mbochs/mbochs/c1a20000-0000-4000-8000-000000000003";

    const GROUP: Node = (243, 0);

    fn id() -> DeviceId {
        DEVICE.parse().unwrap()
    }

    fn status_text(devices: &str) -> String {
        format!(
            "<domstatus state='running' reason='booted' pid='4711'>\n  <monitor path='/m' type='unix'/>\n  \
             <devices><device alias='hostdev0'/></devices>\n  \
             <domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n    \
             <name>g1</name>\n    <devices>\n{devices}\n    </devices>\n  </domain>\n</domstatus>\n"
        )
    }

    fn mdev(uuid: &str) -> String {
        format!(
            "<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci' display='on'>\
             <source><address uuid='{uuid}'/></source></hostdev>"
        )
    }

    fn wanted() -> Wanted {
        Wanted {
            syspath: OURS.into(),
            node: Some((511, 2)),
            group: Some(GROUP),
        }
    }

    fn group(number: i32, syspath: Option<&str>) -> Descriptor {
        Descriptor {
            number,
            of: Of::Group(syspath.map(Into::into)),
        }
    }

    fn process(descriptors: Vec<Descriptor>) -> Process {
        Process {
            pidfile: Some(4711),
            holder: Some(4711),
            cgroup: "0::/machine.slice/machine-qemu\\x2d3\\x2dg1.scope/libvirt/emulator\n".into(),
            descriptors,
            groups: vec![Some(GROUP)],
        }
    }

    fn status() -> Status {
        Status::parse(&status_text(&mdev(DEVICE))).unwrap()
    }

    #[test]
    fn what_a_status_file_says() {
        let status = status();
        assert_eq!(
            (&*status.name, status.id, status.pid, &status.devices[..]),
            ("g1", 3, 4711, &[id()][..])
        );
        let good = status_text("");
        for (from, to) in [
            ("pid='4711'", ""),
            ("pid='4711'", "pid='0'"),
            ("pid='4711'", "pid='-1'"),
            ("pid='4711'", "pid='x'"),
            (" id='3'", ""),
            ("<name>g1</name>", ""),
            ("domstatus", "status"),
            ("</domstatus>", ""),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            assert_eq!(Status::parse(&bad), None, "{bad}");
        }
        assert_eq!(Status::parse("<domain type='kvm' id='1'/>"), None);
    }

    #[test]
    fn what_may_be_a_vfio_device_to_qemu() {
        for (devices, expected) in [
            (String::new(), 0),
            (mdev(DEVICE), 1),
            (
                "<hostdev mode='subsystem' type='usb'><source/></hostdev>".into(),
                0,
            ),
            (
                "<hostdev mode='subsystem' type='pci'><source/></hostdev>".into(),
                1,
            ),
            ("<interface type='hostdev'/>".into(), 1),
            (
                "<interface type='network'><actual type='hostdev'/></interface>".into(),
                1,
            ),
            ("<interface type='network'/>".into(), 0),
            (
                "<disk type='nvme'><source type='pci' managed='yes'/></disk>".into(),
                1,
            ),
            (
                "</devices><qemu:commandline><qemu:arg value='vfio-pci,host=1'/></qemu:commandline><devices>"
                    .into(),
                1,
            ),
            (mdev(DEVICE) + "<hostdev type='mdev' model='vfio-ccw'/>", 2),
        ] {
            let status = Status::parse(&status_text(&devices)).unwrap();
            assert_eq!(status.vfio, expected, "{devices}");
        }
    }

    #[test]
    fn one_domain_has_it() {
        let other = Status {
            name: "g2".into(),
            devices: vec![],
            ..status()
        };
        let twin = Status {
            name: "g2".into(),
            ..status()
        };
        let with = |statuses: &[&Status]| {
            domain_with(statuses.iter().map(|s| (*s).clone()).collect(), id())
                .map(|status| status.name)
        };
        assert_eq!(with(&[&other, &status()]), Ok("g1".into()));
        assert_eq!(with(&[&other]), Err(Refusal::NoDomain));
        assert_eq!(
            with(&[&status(), &twin]),
            Err(Refusal::SeveralDomains("g1, g2".into()))
        );
    }

    #[test]
    fn which_descriptor() {
        let own = Descriptor {
            number: 9,
            of: Of::Node((511, 2)),
        };
        let others = Descriptor {
            number: 8,
            of: Of::Node((511, 1)),
        };
        let taken = |number, told| Ok((4711, number, told));
        let not_open = || Err(Refusal::NotOpen("g1".into()));
        let untold = |devices, descriptors| {
            Err(Refusal::Untold {
                domain: "g1".into(),
                devices,
                descriptors,
            })
        };
        for (name, vfio, descriptors, expected) in [
            ("none yet", 1, vec![], not_open()),
            ("told", 1, vec![group(7, Some(OURS))], taken(7, true)),
            (
                "told among several",
                2,
                vec![group(6, Some(OTHER)), group(7, Some(OURS))],
                taken(7, true),
            ),
            ("another's", 1, vec![group(7, Some(OTHER))], not_open()),
            ("the only one", 1, vec![group(7, None)], taken(7, false)),
            (
                "one of two devices is open",
                2,
                vec![group(7, None)],
                untold(2, 1),
            ),
            (
                "two are open",
                2,
                vec![group(6, None), group(7, None)],
                untold(2, 2),
            ),
            (
                "more than libvirt knows of",
                1,
                vec![group(6, None), group(7, None)],
                untold(1, 2),
            ),
            (
                "a node among groups",
                2,
                vec![group(7, None), own.clone()],
                taken(9, true),
            ),
            ("another's node", 1, vec![others.clone()], not_open()),
            (
                "another's node beside a group",
                1,
                vec![others, group(7, None)],
                untold(1, 2),
            ),
        ] {
            let status = Status { vfio, ..status() };
            let chosen = choose(&status, &process(descriptors), &wanted());
            let seen = chosen.map(|c| (c.pid, c.descriptor.number, c.is_told()));
            assert_eq!(seen, expected, "{name}");
        }
    }

    /// It matters only where the kernel says nothing of the descriptor.
    #[test]
    fn which_group() {
        let (own, other) = (Some(GROUP), Some((243, 1)));
        for (wanted_group, groups, is_it) in [
            (own, vec![own], true),
            (own, vec![], false),
            (own, vec![other], false),
            (own, vec![own, other], false),
            (own, vec![own, None], false),
            (own, vec![None], false),
            (None, vec![None], false),
            (None, vec![own], false),
            (None, vec![], false),
        ] {
            for told in [None, Some(OURS)] {
                let process = Process {
                    groups: groups.clone(),
                    ..process(vec![group(7, told)])
                };
                let wanted = Wanted {
                    group: wanted_group,
                    ..wanted()
                };
                match choose(&status(), &process, &wanted) {
                    Ok(chosen) => {
                        assert!(is_it || told.is_some(), "{groups:?}");
                        assert_eq!(chosen.descriptor.number, 7);
                    }
                    Err(refusal) => {
                        assert!(!is_it && told.is_none(), "{groups:?}");
                        assert_eq!(refusal, Refusal::NotItsGroup("g1".into()));
                        assert_eq!(refusal.step(), Step::Descriptor);
                    }
                }
            }
        }
    }

    #[test]
    fn whose_process() {
        let good = || process(vec![group(7, Some(OURS))]);
        let cgroup = |text: &str| Process {
            cgroup: text.into(),
            ..good()
        };
        for (process, problem) in [
            (good(), None),
            (cgroup(""), None),
            (cgroup("0::/system.slice/libvirtd.service\n"), None),
            (
                cgroup("5:cpu:/machine/qemu-3-g1.libvirt-qemu/emulator\n"),
                None,
            ),
            (
                cgroup("5:cpu:/machine/qemu-33-g1.libvirt-qemu/emulator\n"),
                Some("cgroup"),
            ),
            (
                cgroup("0::/machine.slice/machine-qemu\\x2d33\\x2dg1.scope\n"),
                Some("cgroup"),
            ),
            (
                Process {
                    pidfile: None,
                    ..good()
                },
                Some("pidfile does not say"),
            ),
            (
                Process {
                    pidfile: Some(4712),
                    ..good()
                },
                Some("pidfile does not say"),
            ),
            (
                Process {
                    holder: None,
                    ..good()
                },
                Some("lock"),
            ),
            (
                Process {
                    holder: Some(4712),
                    ..good()
                },
                Some("lock"),
            ),
        ] {
            let chosen = choose(&status(), &process, &wanted());
            match problem {
                None => assert_eq!(
                    chosen.map(|chosen| chosen.descriptor.number),
                    Ok(7),
                    "{process:?}"
                ),
                Some(problem) => {
                    let refusal = chosen.unwrap_err();
                    assert_eq!(refusal.step(), Step::Guest);
                    assert!(refusal.to_string().contains(problem), "{refusal}");
                }
            }
        }
    }

    #[test]
    fn what_the_kernel_writes() {
        let fdinfo = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1113\n";
        assert_eq!(syspath(fdinfo), None);
        let newer = format!("{fdinfo}vfio-device-syspath: {OURS}\n");
        assert_eq!(syspath(&newer).as_deref(), Some(OURS));
        for (text, expected) in [
            ("511:2\n", Some((511, 2))),
            ("", None),
            ("511", None),
            ("511:x", None),
            ("-1:2", None),
        ] {
            assert_eq!(node(text), expected, "{text:?}");
        }
    }

    fn any_descriptor() -> impl Strategy<Value = Descriptor> {
        let of = prop_oneof![
            Just(Of::Group(None)),
            Just(Of::Group(Some(OURS.into()))),
            Just(Of::Group(Some(OTHER.into()))),
            Just(Of::Node((511, 2))),
            Just(Of::Node((511, 1))),
        ];
        (3..20i32, of).prop_map(|(number, of)| Descriptor { number, of })
    }

    proptest! {
        /// Whoever is asked is the process of the status file, of the pidfile and of its lock, is in
        /// no other machine's cgroup, and the descriptor is the device's by the kernel's word, or
        /// the only one where the domain has no other device and QEMU no other group than its own.
        #[test]
        fn nobody_is_asked_unless_everything_fits(
            pidfile in prop_oneof![Just(None), Just(Some(4711)), Just(Some(4712))],
            holder in prop_oneof![Just(None), Just(Some(4711)), Just(Some(4712))],
            machine in prop_oneof![Just(None), Just(Some(3)), Just(Some(4)), Just(Some(33))],
            vfio in 1usize..4,
            descriptors in prop::collection::vec(any_descriptor(), 0..4),
            groups in prop::collection::vec(
                prop_oneof![4 => Just(Some(GROUP)), 1 => Just(Some((243, 1))), 1 => Just(None)], 0..3
            ),
        ) {
            let cgroup = machine.map_or_else(String::new, |id| {
                format!("0::/machine.slice/machine-qemu\\x2d{id}\\x2dg1.scope/libvirt\n")
            });
            let process = Process { pidfile, holder, cgroup, descriptors, groups };
            let status = Status { vfio, ..status() };
            if let Ok(chosen) = choose(&status, &process, &wanted()) {
                prop_assert_eq!((pidfile, holder, chosen.pid), (Some(4711), Some(4711), 4711));
                prop_assert!(machine.is_none_or(|id| id == 3));
                prop_assert!(process.descriptors.contains(&chosen.descriptor));
                match chosen.descriptor.of {
                    Of::Group(Some(syspath)) => prop_assert_eq!(syspath, OURS),
                    Of::Node(node) => prop_assert_eq!(node, (511, 2)),
                    Of::Group(None) => {
                        prop_assert_eq!((vfio, process.descriptors.len()), (1, 1));
                        prop_assert_eq!(process.groups, vec![Some(GROUP)]);
                    }
                }
            }
        }

        #[test]
        fn no_status_file_panics(text in ".{0,200}", devices in "[<>/a-z'= ]{0,40}") {
            let _ = Status::parse(&text);
            let _ = Status::parse(&status_text(&devices));
        }
    }
}
