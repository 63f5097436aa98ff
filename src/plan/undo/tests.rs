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
    assert_eq!(undone.text, SPICE);
    assert_eq!(undone.passed_over, Vec::<String>::new());
    assert_eq!(
        undone.put_back,
        [
            "<graphics autoport='yes'> <listen type='address'/> again, instead of <graphics> <listen type='none'/> <gl enable='yes'/>",
            "<audio type='none'/> again, instead of <audio type='spice'/>",
            "<model type='qxl' ram='65536'/> again, instead of <model type='none'/>",
            "<hostdev display='off'> again, instead of <hostdev display='on' ramfb='on'>",
        ]
    );
    // libvirt shows no passwords on a read-only connection.
    let bare = |text: &str| text.replace(" passwd='geheim'", "");
    assert_eq!(back(SPICE, FIXED, &bare(FIXED)).text, bare(SPICE));
    // A second undo finds nothing of ours.
    let again = back(SPICE, FIXED, SPICE);
    assert_eq!((again.text.as_str(), again.put_back), (SPICE, vec![]));
    assert_eq!(again.passed_over, Vec::<String>::new());
}

#[test]
fn what_somebody_has_changed_since_stays() {
    let own = |text: &str| {
        text.replace("<model type='none'/>", "<model type='virtio'/>")
            .replace("<name>guest", "<title>mine</title>\n  <name>guest")
            .replace("geheim", "neu")
            .replace("</devices>", "  <rng/>\n  </devices>")
            .replace("    <hostdev", "    <hostdev display='on'/>\n    <hostdev")
    };
    let undone = back(SPICE, FIXED, &own(FIXED));
    assert_eq!(
        undone.passed_over,
        ["<model type='none'/> was changed since, and stays"]
    );
    assert_eq!(undone.put_back.len(), 3);
    let model = "<model type='qxl' ram='65536'/>";
    let expected = own(SPICE).replace(model, "<model type='virtio'/>");
    assert_eq!(undone.text, expected);
    let gone = "<domain><devices/></domain>";
    let undone = back(SPICE, FIXED, gone);
    assert_eq!((undone.text.as_str(), undone.put_back), (gone, vec![]));
    assert_eq!(undone.passed_over.len(), 4);
}

#[test]
fn elements_come_back_to_their_places_with_their_namespaces() {
    let before = "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>
  <a/>
  <q:commandline>
    <q:arg value='-set'/>
  </q:commandline>
  <z/>
</domain>";
    let after = "<domain>\n  <a/>\n  <z/>\n</domain>";
    assert_eq!(back(before, after, after).text, before);
    // Arguments and the environment are not recorded, and stay in the domain.
    let args = |ours: &str| {
        let args = "<q:arg value='-x'/><q:arg value='geheim'/>";
        let env = "<q:env name='K' value='geheim'/>";
        before.replace("<q:arg value='-set'/>", &format!("{args}{ours}{env}"))
    };
    let set = "<q:arg value='-set'/><q:arg value='device.hostdev0.x=y'/>";
    for (before, after) in [(args(set), args("")), (args(""), args(set))] {
        let inverses = inverse(&before, &after).unwrap();
        assert!(!format!("{inverses:?}").contains("geheim"));
        assert_eq!(undo(&after, &inverses).unwrap().text, before);
    }
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
    let inverses = inverse(VNC, NONE).unwrap();
    let json = serde_json::to_string(&inverses).unwrap();
    assert!(!json.contains("geheim"), "{json}");
    let undone = undo(NONE, &inverses).unwrap();
    assert_eq!((undone.text.as_str(), undone.put_back), (NONE, vec![]));
    let kept = |why: &String| why.contains("it has a password");
    assert!(undone.passed_over.len() == 2 && undone.passed_over.iter().all(kept));
    let undone = back(NONE, VNC, VNC);
    assert_eq!((undone.put_back.len(), undone.passed_over.len()), (2, 0));
    assert!(!undone.put_back.join(" ").contains("geheim"));
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
        ["<audio id='1' type='none'/> was changed since, and stays"]
    );
    assert_eq!(back(SPICE, &after, &after).text, SPICE);
    // Somebody has undone the change already.
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
    let bad = |old: &str| Inverse {
        old: old.into(),
        is_device: false,
        new: "<a/>".into(),
        hashes: [1, hash("<a/>")],
        around: [None, None],
    };
    for damaged in ["<x", "", "<x a='\u{fffe}'/>", "<x/><y/>"] {
        let undone = undo("<a/>", &[bad(damaged)]).unwrap();
        assert_eq!((undone.text.as_str(), undone.put_back), ("<a/>", vec![]));
        assert_eq!(undone.passed_over.len(), 1, "{damaged:?}");
    }
    let undone = undo("<a/>", &[bad("<b/>"), bad("<c/>")]).unwrap();
    assert_eq!(
        (undone.text.as_str(), undone.passed_over.len()),
        ("<b/>", 1)
    );
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
    .prop_map(|inner| format!("<domain>\n{inner}\n<devices>\n{inner}\n</devices></domain>"))
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
        prop_assert_eq!(undone.passed_over, Vec::<String>::new(), "{}", json);
        prop_assert_eq!(inverse(&before, &undone.text).unwrap(), vec![], "{}", json);
        prop_assert_eq!(inverse(&before, &before).unwrap(), vec![]);
    }
}
