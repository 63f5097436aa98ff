use super::*;
use crate::device::toml::tests::told;

fn subject<'a>(bus: Bus, type_id: &'a str, kernel: &'a str) -> Subject<'a> {
    Subject {
        bus: Some(bus),
        type_id: Some(type_id).filter(|t| !t.is_empty()),
        kernel,
        ..Subject::default()
    }
}

#[test]
fn the_built_in_rules() {
    let rules = Rules::built_in();
    let with =
        |value: &str| BTreeMap::from([("nvidia/current_vgpu_type".to_owned(), value.to_owned())]);
    let (some, zero) = (with("556"), with("0"));
    let i915 = |type_id, kernel| Subject {
        parent_driver: Some("i915"),
        device_api: Some("vfio-pci"),
        ..subject(Bus::Mdev, type_id, kernel)
    };
    let nvidia = |attributes, kernel| Subject {
        driver: Some("nvidia"),
        vendor: Some(0x10de),
        attributes: Some(attributes),
        ..subject(Bus::Pci, "", kernel)
    };
    let pci = |driver: &'static str| Subject {
        driver: Some(driver),
        ..subject(Bus::Pci, "", "6.12.107+deb13-amd64")
    };
    let mdev = |type_id| Subject {
        device_api: Some("vfio-pci"),
        ..subject(Bus::Mdev, type_id, "6.12.1")
    };
    for (name, subject, display, edid, open) in [
        (
            "gvt",
            i915("i915-GVTg_V5_4", "6.1.0"),
            "dmabuf",
            Some((1920, 1200)),
            Open::Safe,
        ),
        (
            "gvt, small",
            i915("i915-GVTg_V5_8", "5.0"),
            "dmabuf",
            Some((1024, 768)),
            Open::Safe,
        ),
        (
            "gvt before EDID",
            i915("i915-GVTg_V4_1", "4.19.0-27"),
            "dmabuf",
            None,
            Open::Safe,
        ),
        (
            "gvt that lies",
            i915("i915-GVTg_V4_1", "4.15.18"),
            "none",
            None,
            Open::Safe,
        ),
        ("mdpy", mdev("mdpy-hd"), "region", None, Open::Safe),
        (
            "mbochs",
            mdev("mbochs-small"),
            "dmabuf",
            Some((800, 600)),
            Open::Safe,
        ),
        (
            "mbochs, no limit",
            mdev("mbochs-large"),
            "dmabuf",
            Some((0, 0)),
            Open::Safe,
        ),
        ("mtty", mdev("mtty-2"), "none", None, Open::Safe),
        (
            "nvidia mdev",
            mdev("nvidia-222"),
            "region",
            None,
            Open::Named,
        ),
        (
            "nvidia mdev, old kernel",
            subject(Bus::Mdev, "nvidia-11", "4.14"),
            "none",
            None,
            Open::Named,
        ),
        (
            "nvidia VF",
            Subject {
                type_id: Some("nvidia-556"),
                ..nvidia(&some, "6.8.0-generic")
            },
            "region",
            None,
            Open::Named,
        ),
        (
            "nvidia VF, nothing set up",
            nvidia(&zero, "6.8.0-generic"),
            "none",
            None,
            Open::Named,
        ),
        ("plain vfio-pci", pci("vfio-pci"), "none", None, Open::Never),
        (
            "nvidia VF that never had a vGPU",
            Subject {
                driver: Some("nvidia"),
                vendor: Some(0x10de),
                ..subject(Bus::Pci, "", "6.8.0-generic")
            },
            "none",
            None,
            Open::Named,
        ),
        (
            "ccw",
            Subject {
                device_api: Some("vfio-ccw"),
                ..subject(Bus::Mdev, "vfio_ccw-io", "6.1")
            },
            "none",
            None,
            Open::Never,
        ),
    ] {
        let rule = rules
            .find(&subject)
            .unwrap_or_else(|| panic!("{name}: no rule"));
        let facts = rule.facts.clone().unwrap();
        assert_eq!(facts.display.words(), [display], "{name}: {}", rule.name);
        assert_eq!(
            facts.edid.map(|e| (e.max_xres, e.max_yres)),
            edid,
            "{name}: {}",
            rule.name
        );
        assert_eq!(rule.open, open, "{name}: {}", rule.name);
    }
    assert!(rules.find(&mdev("acme-1")).is_none());
    assert!(rules.iter().all(|(_, rule)| !rule.source.is_empty()));
}

/// The drivers of Linux 7.0's drivers/vfio/pci, as sysfs names them.
#[test]
fn variants_of_vfio_pci_have_no_display_and_are_never_opened() {
    let rules = Rules::built_in();
    for driver in [
        "hisi_acc_vfio_pci",
        "ism_vfio_pci",
        "mlx5_vfio_pci",
        "nvgrace_gpu_vfio_pci",
        "pds_vfio_pci",
        "qat_vfio_pci",
        "vfio-pci",
        "virtio_vfio_pci",
        "xe-vfio-pci",
    ] {
        // The vendor id of nvgrace_gpu_vfio_pci's devices is NVIDIA's, and it changes
        // nothing.
        let rule = rules.find(&Subject {
            driver: Some(driver),
            vendor: Some(0x10de),
            ..subject(Bus::Pci, "", "7.0")
        });
        let rule = rule.unwrap_or_else(|| panic!("{driver}: no rule"));
        assert_eq!(
            (rule.name.as_str(), rule.open),
            ("vfio-pci", Open::Never),
            "{driver}"
        );
    }
    let odd = BTreeMap::from([("nvidia/current_vgpu_type".to_owned(), "a lot".to_owned())]);
    let odd = rules.find(&Subject {
        driver: Some("nvidia"),
        vendor: Some(0x10de),
        attributes: Some(&odd),
        ..subject(Bus::Pci, "", "6.8")
    });
    assert!(odd.unwrap().facts.is_none(), "a type that is no number");
}

#[test]
fn igd_and_gvt_have_an_opregion() {
    let rules = Rules::built_in();
    let igd = Subject {
        driver: Some("vfio-pci"),
        vendor: Some(0x8086),
        class: Some(0x03_0000),
        address: "0000:00:02.0".parse().ok(),
        ..subject(Bus::Pci, "", "6.12")
    };
    let arc = Subject {
        address: "0000:03:00.0".parse().ok(),
        ..igd.clone()
    };
    assert!(
        rules
            .find(&arc)
            .unwrap()
            .facts
            .clone()
            .unwrap()
            .opregion
            .is_none()
    );
    assert!(
        rules
            .find(&igd)
            .unwrap()
            .facts
            .as_ref()
            .unwrap()
            .opregion
            .is_some()
    );
    let opregion = |subject: &Subject<'_>| {
        let rule = rules.find(subject).unwrap();
        assert_eq!(rule.open, Open::Never);
        rule.facts.as_ref().unwrap().opregion.is_some()
    };
    let no_vga = |kernel| Subject {
        class: Some(0x03_8000),
        kernel,
        ..igd.clone()
    };
    assert!(!opregion(&no_vga("6.12")) && opregion(&no_vga("6.15.0-rc1")));
    let function = Subject {
        address: "0000:00:02.1".parse().ok(),
        ..igd.clone()
    };
    assert!(!opregion(&function), "a virtual function has none");
    let gvt = Subject {
        parent_driver: Some("i915"),
        ..subject(Bus::Mdev, "i915-GVTg_V5_4", "6.1")
    };
    let facts = rules.find(&gvt).unwrap().facts.clone().unwrap();
    assert!(facts.opregion.is_some() && facts.kvm);
}

#[test]
fn first_rule_wins_and_names_are_unique() {
    let mut rules = Rules::default();
    let rule = |name: &str, word: &str| {
        format!(
            "[[rule]]\nname = '{name}'\nsource = 'x'\nmatch.type = ['acme-*']\ndisplay = ['{word}']\n"
        )
    };
    rules.add_file("a", &rule("one", "region")).unwrap();
    rules.add_file("b", &rule("one", "dmabuf")).unwrap();
    rules.add_file("c", &rule("two", "none")).unwrap();
    assert_eq!(rules.iter().count(), 2);
    let found = rules.find(&subject(Bus::Mdev, "acme-7", "6.1")).unwrap();
    assert_eq!(
        found.facts.clone().unwrap().display,
        Display::from_answers(false, true)
    );
}

#[test]
fn bad_rules_are_named() {
    let rule = |body: &str| format!("[[rule]]\nname = 'r'\nsource = 's'\n{body}\n");
    for (text, part) in [
        (
            rule(""),
            "line 1, column 1: `rule`: the key `match` is missing: expected match = …",
        ),
        (
            rule("match = {}"),
            "line 4, column 9: rule \"r\": it has no condition and would match every device",
        ),
        (
            rule("match.type = ['a', '[']"),
            "line 4, column 20: rule \"r\": \"[\" is no pattern (unclosed character class; missing ']')",
        ),
        (
            rule("match.kernel_from = 'new'"),
            "line 4, column 21: rule \"r\": \"new\" is no kernel version: expected one like 5.10",
        ),
        (
            rule("match.vendor = '8086'"),
            "line 4, column 16: rule \"r\": \"8086\" is no PCI vendor",
        ),
        (
            rule("match.attribute = [{ path = '../x', is = '1' }]"),
            "line 4, column 29: rule \"r\": attribute path \"../x\" leads out",
        ),
        (
            rule("match.attribute = [{ path = 'x' }]"),
            "line 4, column 20: rule \"r\": attribute \"x\": expected one of is and is_not",
        ),
        (
            rule("match.typ = ['a']"),
            "line 4, column 7: `match`: there is no key `typ` here: expected `bus`, ",
        ),
        (
            rule("match.bus = 'usb'"),
            "line 4, column 13: `bus` is \"usb\": expected \"mdev\" or \"pci\"",
        ),
        (
            rule("match.type = ['a']\ndisplay = ['none', 'region']"),
            "line 5, column 11: rule \"r\": `display` has \"none\": expected dmabuf, region or both",
        ),
        (
            rule("match.type = ['a']\nkvm = true"),
            "line 5, column 7: rule \"r\": it states `kvm` without a display",
        ),
        (
            rule("match.type = ['a']\nreason = 'In Use'"),
            "line 5, column 10: `reason`: \"In Use\" is no reason: expected a word like in-use",
        ),
        (
            "[rules]".into(),
            "line 1, column 2: there is no key `rules` here: expected `rule`",
        ),
        (
            rule(
                "match.type = ['a']\ndisplay = ['region']\nedid = { max_xres = 1, max_yres = 1, min_xres = 1 }",
            ),
            "line 6, column 38: `edid`: there is no key `min_xres` here",
        ),
        (
            rule("match.type = ['a']\ndisplay = ['region']\nopregion = { size = 8192, at = 0 }"),
            "line 6, column 27: `opregion`: there is no key `at` here: expected `size`",
        ),
    ] {
        let error = Rules::default()
            .add_file("x", &text)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn each_mistake_in_each_key_is_told() {
    let rule: &[&str] = &["rule", "[]"];
    let read = |text: &str| Rules::default().add_file("x", text);
    told::<RulesFile>(
        &[
            (rule, "name = \"a\""),
            (rule, "source = \"b\""),
            (rule, "match = { bus = \"pci\" }"),
            (rule, "display = [\"none\"]"),
            (&["rule", "[]", "match", "attribute", "[]"], "path = \"x\""),
            (&["rule", "[]", "match", "attribute", "[]"], "is = \"1\""),
            (&["rule", "[]", "edid"], "max_xres = 1"),
            (&["rule", "[]", "edid"], "max_yres = 1"),
        ],
        &read,
    );
}
