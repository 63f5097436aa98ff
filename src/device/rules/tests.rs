use super::*;

fn subject<'a>(bus: Bus, type_id: &'a str, kernel: &'a str) -> Subject<'a> {
    Subject {
        bus: Some(bus),
        type_id: Some(type_id).filter(|t| !t.is_empty()),
        kernel,
        ..Subject::default()
    }
}

#[test]
fn every_file_of_rules_is_built_in() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/device/rules.d");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    files.sort_unstable();
    let built_in: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    assert_eq!(files, built_in);
}

/// Patterns with a wildcard at their end alone are compared without globset.
#[test]
fn patterns_match_as_globs_do() {
    for (pattern, value, matches) in [
        ("a*", "a", true),
        ("a*", "ab", true),
        ("a*", "b", false),
        ("*", "", true),
        ("a", "a", true),
        ("a", "ab", false),
        ("", "", true),
        ("a*b", "ab", true),
        ("a*b", "a", false),
        ("a?", "a", false),
        ("a[bc]", "ac", true),
        ("a{b,c}*", "acd", true),
        (r"a\*", "a*", true),
        (r"a\*", "ab", false),
    ] {
        let pattern: Pattern = pattern.parse().unwrap();
        assert_eq!(pattern.is_match(value), matches, "{pattern:?} {value}");
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
    let pci = |driver: &'static str| Subject {
        driver: Some(driver),
        ..subject(Bus::Pci, "", "6.12.107+deb13-amd64")
    };
    let mdev = |type_id| Subject {
        device_api: Some("vfio-pci"),
        ..subject(Bus::Mdev, type_id, "6.12.1")
    };
    let vf = |type_id, attributes| Subject {
        driver: Some("nvidia"),
        type_id,
        vendor: Some(0x10de),
        attributes: Some(attributes),
        ..subject(Bus::Pci, "", "6.8.0-generic")
    };
    let never_had_one = Subject {
        attributes: None,
        ..vf(None, &zero)
    };
    let ccw = Subject {
        device_api: Some("vfio-ccw"),
        ..subject(Bus::Mdev, "vfio_ccw-io", "6.1")
    };
    let old_nvidia = subject(Bus::Mdev, "nvidia-11", "4.14");
    for (subject, expected) in [
        (i915("i915-GVTg_V5_4", "6.1.0"), "dmabuf 1920x1200 Safe"),
        (i915("i915-GVTg_V5_8", "5.0"), "dmabuf 1024x768 Safe"),
        // Before 5.0 GVT-g has no EDID region; before 4.16 it says yes to every query.
        (i915("i915-GVTg_V4_1", "4.19.0-27"), "dmabuf Safe"),
        (i915("i915-GVTg_V4_1", "4.15.18"), "none Safe"),
        (mdev("mdpy-hd"), "region Safe"),
        (mdev("mbochs-small"), "dmabuf 800x600 Safe"),
        (mdev("mbochs-large"), "dmabuf 0x0 Safe"),
        (mdev("mtty-2"), "none Safe"),
        (mdev("nvidia-222"), "region Named"),
        (old_nvidia, "none Named"),
        (vf(Some("nvidia-556"), &some), "region Named"),
        (vf(None, &zero), "none Named"),
        (never_had_one, "none Named"),
        (pci("vfio-pci"), "none Never"),
        (ccw, "none Never"),
    ] {
        let rule = rules.find(&subject);
        let rule = rule.unwrap_or_else(|| panic!("{subject:?}: no rule"));
        let facts = rule.facts.clone().unwrap();
        let edid = facts
            .edid
            .map(|e| format!("{}x{} ", e.max_xres, e.max_yres));
        let (display, edid) = (facts.display.words().join(" "), edid.unwrap_or_default());
        let found = format!("{display} {edid}{:?}", rule.open);
        assert_eq!(found, expected, "{subject:?}: {}", rule.name);
    }
    assert!(rules.find(&mdev("acme-1")).is_none());
    assert!(rules.iter().all(|(_, rule)| !rule.source.is_empty()));
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
    let opregion = |subject: &Subject<'_>| {
        let rule = rules.find(subject).unwrap();
        assert_eq!(rule.open, Open::Never);
        rule.facts.as_ref().unwrap().opregion.is_some()
    };
    assert!(opregion(&igd) && !opregion(&arc));
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
    for row in [
        " | line 1, column 1: the key `match` is missing",
        "match = {} | line 4, column 9: rule \"r\": it has no condition and would match every device",
        "match.type = ['a', '['] | line 4, column 14: \"[\" is no pattern (unclosed character class; missing ']')",
        "match.kernel_from = 'new' | line 4, column 21: \"new\" is no version: expected numbers and dots",
        "match.vendor = '8086' | line 4, column 16: \"8086\" is no PCI vendor",
        "match.attribute = [{ path = '../x', is = '1' }] | line 4, column 29: rule \"r\": attribute path \"../x\" leads out",
        "match.attribute = [{ path = 'x' }] | line 4, column 20: rule \"r\": attribute \"x\": expected one of is and is_not",
        "match.typ = ['a'] | line 4, column 7: there is no key `typ`: expected one of `bus`, ",
        "match.bus = 'usb' | line 4, column 13: `usb`: expected `mdev` or `pci`",
        "match.type = ['a']\ndisplay = ['none', 'region'] | line 5, column 11: rule \"r\": `display` has \"none\": expected dmabuf, region or both",
        "match.type = ['a']\nkvm = true | line 5, column 7: rule \"r\": it states `kvm` without a display",
        "match.type = ['a']\nreason = 'In Use' | line 5, column 10: \"In Use\" is no reason: expected a word like in-use",
        "= [rules] | line 1, column 2: there is no key `rules`: expected `rule`",
        "match.type = ['a']\ndisplay = ['region']\nedid = { max_xres = 1, max_yres = 1, min_xres = 1 } | line 6, column 38: there is no key `min_xres`",
        "match.type = ['a']\ndisplay = ['region']\nopregion = { size = 8192, at = 0 } | line 6, column 27: there is no key `at`: expected `size`",
    ] {
        let (body, part) = row.split_once(" | ").unwrap();
        let text = body
            .strip_prefix("= ")
            .map_or_else(|| rule(body), str::to_owned);
        let error = Rules::default().add_file("x", &text);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}
