use super::*;
use proptest::prelude::*;

const SPICE: &str = "<domain type='kvm'>
  <name>guest</name>
  <devices>
    <graphics type='spice' autoport='yes' passwd='geheim'>
      <listen type='address'/>
    </graphics>
    <audio id='1' type='none'/>
    <video>
      <model type='qxl' ram='65536'/>
    </video>
    <hostdev mode='subsystem' type='mdev' display='off'>
      <source>
        <address uuid='c1a20000-0000-4000-8000-000000000002'/>
      </source>
    </hostdev>
  </devices>
</domain>
";

const FIXED: &str = "<domain type='kvm'>
  <name>guest</name>
  <devices>
    <graphics type='spice' passwd='geheim'>
      <listen type='none'/>
      <gl enable='yes'/>
    </graphics>
    <audio id='1' type='spice'/>
    <video>
      <model type='none'/>
    </video>
    <hostdev mode='subsystem' type='mdev' display='on' ramfb='on'>
      <source>
        <address uuid='c1a20000-0000-4000-8000-000000000002'/>
      </source>
    </hostdev>
  </devices>
</domain>
";

fn back(before: &str, after: &str, current: &str) -> Undone {
    undo(current, &inverse(before, after).unwrap()).unwrap()
}

#[test]
fn all_of_it() {
    let undone = back(SPICE, FIXED, FIXED);
    let expected = SPICE.replace(
        " autoport='yes' passwd='geheim'",
        " passwd='geheim' autoport='yes'",
    );
    assert_eq!(undone.text, expected);
    assert_eq!(undone.passed_over, Vec::<String>::new());
    assert_eq!(
        undone.put_back,
        [
            "graphics[type=spice]: autoport='yes' again, instead of no autoport",
            "graphics[type=spice]/listen: type='address' again, instead of type='none'",
            "graphics[type=spice]/gl taken out",
            "audio[id=1]: type='none' again, instead of type='spice'",
            "video[type=qxl] put back instead of video[type=none]",
            "hostdev[uuid=c1a20000-0000-4000-8000-000000000002]: display='off' again, instead of display='on'",
            "hostdev[uuid=c1a20000-0000-4000-8000-000000000002]: no ramfb again, instead of ramfb='on'",
        ]
    );
    // A second undo finds nothing of ours.
    let again = back(SPICE, FIXED, &undone.text);
    assert_eq!((again.text, again.put_back), (undone.text, Vec::new()));
    assert_eq!(again.passed_over, Vec::<String>::new());
}

#[test]
fn what_somebody_has_changed_since_stays() {
    let current = FIXED
        .replace(
            "<gl enable='yes'/>",
            "<gl enable='yes' rendernode='/dev/dri/renderD129'/>",
        )
        .replace("<model type='none'/>", "<model type='virtio'/>")
        .replace("display='on'", "display='off'")
        .replace("ramfb='on'", "ramfb='off'")
        .replace("<name>guest</name>", "<name>other</name>\n  <!-- mine -->");
    let undone = back(SPICE, FIXED, &current);
    assert_eq!(
        undone.passed_over,
        [
            "graphics[type=spice]/gl is not as it was made, and stays",
            "video[type=none] is not as it was made, and stays",
            "hostdev[uuid=c1a20000-0000-4000-8000-000000000002]: ramfb='off' is somebody else's",
        ]
    );
    assert_eq!(undone.put_back.len(), 3);
    let expected = current
        .replace("passwd='geheim'>", "passwd='geheim' autoport='yes'>")
        .replace("listen type='none'", "listen type='address'")
        .replace("audio id='1' type='spice'", "audio id='1' type='none'");
    assert_eq!(undone.text, expected);
}

#[test]
fn what_makes_sense_only_together() {
    let current = FIXED.replace("listen type='none'", "listen type='socket'");
    let undone = back(SPICE, FIXED, &current);
    assert_eq!(
        undone.passed_over,
        [
            "graphics[type=spice]/listen: type='socket' is somebody else's",
            "graphics[type=spice] stays with it",
        ]
    );
    assert!(
        undone
            .text
            .contains("<graphics type='spice' passwd='geheim'>")
    );
    assert!(!undone.text.contains("<gl"), "it has nothing to do with it");
    // A value that is already as it was does not keep the others from being put back.
    let current = FIXED.replace("listen type='none'", "listen type='address'");
    let undone = back(SPICE, FIXED, &current);
    assert_eq!(undone.passed_over, Vec::<String>::new());
    assert!(undone.text.contains("autoport='yes'"));
}

#[test]
fn what_is_gone_is_named() {
    let current = "<domain><devices/></domain>";
    let undone = back(SPICE, FIXED, current);
    assert_eq!((undone.text.as_str(), undone.put_back), (current, vec![]));
    let gone = undone
        .passed_over
        .iter()
        .filter(|why| why.ends_with("is not there any more"));
    assert_eq!((gone.count(), undone.passed_over.len()), (6, 7));
}

#[test]
fn passwords_are_not_kept() {
    const VNC: &str = "<domain><devices>
        <graphics type='vnc' passwd='geheim'/>
        <disk><source><cookies><cookie name='x'>geheim</cookie></cookies></source><target dev='vda'/></disk>
        <tpm passphrase='geheim'/><x token='my secret: geheim'/>
      </devices></domain>";
    const NONE: &str = "<domain><devices>
        <graphics type='spice'/>
        <disk><source/><target dev='vda'/></disk>
        <tpm/><x/>
      </devices></domain>";
    for (before, after) in [(VNC, NONE), (NONE, VNC)] {
        let inverses = inverse(before, after).unwrap();
        let json = serde_json::to_string(&inverses).unwrap();
        assert!(!json.contains("geheim"), "{json}");
        let undone = undo(after, &inverses).unwrap();
        assert_eq!((undone.text.as_str(), undone.put_back), (after, vec![]));
        assert_eq!(undone.passed_over.len(), 4, "{:?}", undone.passed_over);
        assert!(
            undone
                .passed_over
                .iter()
                .all(|why| why.contains("because of its password"))
        );
    }
}

#[test]
fn elements_come_back_to_their_places_with_their_namespaces() {
    const BEFORE: &str = "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>
  <a/>
  <q:commandline>
    <q:arg value='-set'/>
    <q:arg value='device.hostdev0.display=on'/>
    <q:arg value='-set'/>
    <q:arg value='device.disk.x=y'/>
  </q:commandline>
  <z/>
</domain>";
    // libvirt declares the namespace only where it is used.
    const AFTER: &str = "<domain><a/><z/></domain>";
    let undone = back(BEFORE, AFTER, AFTER);
    let expected =
        "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-set'/>";
    assert!(
        undone.text.starts_with(&format!("<domain><a/>{expected}")),
        "{}",
        undone.text
    );
    assert_eq!(undone.put_back, ["qemu:commandline put back"]);
    let without = BEFORE.replacen(
        "    <q:arg value='-set'/>\n    <q:arg value='device.hostdev0.display=on'/>\n",
        "",
        1,
    );
    let with_more = without.replace(
        "  </q:comm",
        "    <q:arg value='-set'/>\n    <q:arg value='device.more.x=y'/>\n  </q:comm",
    );
    let undone = back(BEFORE, &without, &with_more);
    let args = |text: &str| {
        let document = Document::parse(text).unwrap();
        let values: Vec<String> = document
            .elements()
            .filter_map(|e| e.attribute("value").map(Into::into))
            .collect();
        values.join(" ")
    };
    assert_eq!(
        args(&undone.text),
        format!("{} -set device.more.x=y", args(BEFORE))
    );
}

#[test]
fn nothing_is_made_twice() {
    let after = SPICE.replace("<audio id='1' type='none'/>\n    ", "");
    let own = after.replace(
        "    <video>",
        "    <audio id='1' type='jack'/>\n    <video>",
    );
    let undone = back(SPICE, &after, &own);
    assert_eq!((undone.text, undone.put_back), (own, vec![]));
    assert_eq!(
        undone.passed_over,
        ["audio[id=1]: there is one again that is somebody else's"]
    );
    // Somebody has undone it already.
    let undone = back(SPICE, &after, SPICE);
    assert_eq!(
        (undone.text.as_str(), undone.put_back, undone.passed_over),
        (SPICE, vec![], vec![])
    );
}

#[test]
fn the_newest_first() {
    let middle = SPICE.replace("display='off'", "display='on'");
    let last = middle
        .replace("display='on'", "display='on' ramfb='on'")
        .replace("type='address'", "type='none'");
    let rounds = [
        inverse(SPICE, &middle).unwrap(),
        inverse(&middle, &last).unwrap(),
    ];
    let undone = undo_all(&last, rounds.iter().map(Vec::as_slice)).unwrap();
    assert_eq!((undone.text.as_str(), undone.put_back.len()), (SPICE, 3));
}

#[test]
fn bad_input_has_its_place() {
    let error = inverse("<a/>", "<a>\n</b>").unwrap_err().to_string();
    assert!(
        error.starts_with("the definition after the change: line 2, column 1"),
        "{error}"
    );
    let bad = Inverse::Elements {
        parent: vec![],
        after: None,
        before: None,
        old: vec![Piece {
            step: "x".into(),
            xml: "<x".into(),
        }],
        new: vec![],
    };
    let undone = undo("<a/>", &[bad]).unwrap();
    assert_eq!((undone.text.as_str(), undone.put_back), ("<a/>", vec![]));
    assert_eq!(undone.passed_over, ["x: what is kept of it is damaged"]);
}

/// A tree with few names and values, so that many elements are alike.
fn tree() -> impl Strategy<Value = String> {
    let attributes =
        || proptest::sample::subsequence(vec!["x='1'", "x='2'", "y='1'", "id='3'"], 0..3);
    let tag = move |name: &'static str, attributes: Vec<&str>, inner: String| {
        let mut seen = Vec::new();
        let mut tag = format!("<{name}");
        for attribute in attributes {
            if !seen.contains(&&attribute[..1]) {
                seen.push(&attribute[..1]);
                tag.push_str(&format!(" {attribute}"));
            }
        }
        format!("{tag}>{inner}</{name}>")
    };
    let names = proptest::sample::select(vec!["a", "b", "graphics", "audio"]);
    let leaf = (
        names.clone(),
        attributes(),
        proptest::sample::select(vec!["", "t", "u", " "]),
    )
        .prop_map(move |(name, attributes, text)| tag(name, attributes, text.into()));
    leaf.prop_recursive(3, 24, 5, move |inner| {
        (
            names.clone(),
            attributes(),
            proptest::collection::vec(inner, 0..5),
        )
            .prop_map(move |(name, attributes, children)| {
                tag(name, attributes, children.join("\n"))
            })
    })
    .prop_map(|inner| format!("<domain>\n{inner}\n</domain>"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_was_comes_back(before in tree(), after in tree()) {
        let inverses = inverse(&before, &after).unwrap();
        let json = serde_json::to_string(&inverses).unwrap();
        let read: Vec<Inverse> = serde_json::from_str(&json).unwrap();
        let undone = undo(&after, &read).unwrap();
        let (one, other) = (Document::parse(&before).unwrap(), Document::parse(&undone.text).unwrap());
        prop_assert!(same(one.root(), other.root()), "{}\n{json}\n{}", undone.text, undone.passed_over.join("\n"));
        prop_assert_eq!(inverse(&before, &before).unwrap(), vec![]);
    }
}

/// The file is damaged, but can still be read.
#[test]
fn what_is_remembered_and_makes_no_document() {
    let element = || vec!["devices".into(), "video".into()];
    for damaged in [
        Inverse::Attribute {
            element: element(),
            name: "a*b".into(),
            old: Some("x".into()),
            new: None,
        },
        Inverse::Elements {
            parent: element(),
            after: None,
            before: None,
            old: vec![Piece {
                step: "model".into(),
                xml: "<model".into(),
            }],
            new: Vec::new(),
        },
    ] {
        let undone = undo(FIXED, std::slice::from_ref(&damaged)).unwrap();
        assert_eq!((undone.text.as_str(), undone.put_back), (FIXED, vec![]));
        assert_eq!(undone.passed_over.len(), 1, "{damaged:?}");
    }
}
