use super::*;

const ODD: &str = "<?xml version='1.0'?>\n<a b='1'>\n    <b/>\n    <!-- c -->\n    <c/>\n</a>\n";

/// Edits the first element with this name.
enum Do {
    Set(&'static str, &'static str, &'static str),
    Unset(&'static str, &'static str),
    Text(&'static str, &'static str),
    Out(&'static str),
    Append(&'static str, &'static str),
    Before(&'static str, &'static [&'static str], &'static str),
}

use Do::{Append, Before, Out, Set, Text, Unset};

#[track_caller]
fn produce(rows: &[(&str, &[Do], &str)]) {
    for (before, edits, after) in rows {
        let document = Document::parse(before).unwrap();
        let named = |name| document.elements().find(|e| e.name() == name).unwrap();
        let edits: Vec<Edit> = edits
            .iter()
            .map(|edit| match *edit {
                Set(of, name, value) => named(of).set_attribute(name, value),
                Unset(of, name) => named(of).remove_attribute(name),
                Text(of, text) => named(of).set_text(text),
                Out(of) => named(of).remove(),
                Append(to, xml) => named(to).append(xml),
                Before(of, names, xml) => named(of).insert_before(names, xml),
            })
            .collect();
        assert_eq!(document.apply(&edits), *after, "{before:?} {edits:?}");
    }
}

#[test]
fn attributes() {
    produce(&[
        ("<a b='1'/>", &[Set("a", "b", "2")], "<a b='2'/>"),
        (
            "<a b = \"1\" />",
            &[Set("a", "b", "'\"<>&")],
            "<a b = \"'&quot;&lt;>&amp;\" />",
        ),
        (
            "<a b='1'/>",
            &[Set("a", "b", "'\"\t\r\n")],
            "<a b='&apos;\"&#9;&#13;&#10;'/>",
        ),
        // A value that is there already keeps its bytes.
        (
            "<a b='&#x31;&gt;>'/>",
            &[Set("a", "b", "1>>")],
            "<a b='&#x31;&gt;>'/>",
        ),
        // A new attribute gets the quotes of its element, or else the document's most frequent
        // quotes, or else single quotes.
        (
            "<a b=\"\" c='' ><d/></a>",
            &[Set("a", "x", "1")],
            "<a b=\"\" c='' x=\"1\" ><d/></a>",
        ),
        (
            "<a b=\"\" c='' d=\"\"><d /></a>",
            &[Set("d", "x", "1")],
            "<a b=\"\" c='' d=\"\"><d x=\"1\" /></a>",
        ),
        (
            "<a b=\"\" c=''><d\n/></a>",
            &[Set("d", "x", "1")],
            "<a b=\"\" c=''><d x='1'\n/></a>",
        ),
        // Several attributes of one tag.
        (
            "<a b='1' c='2'/>",
            &[
                Set("a", "x", "1"),
                Set("a", "c", "3"),
                Set("a", "y", "1"),
                Set("a", "x", "2"),
                Unset("a", "b"),
                Append("a", "<n/>"),
            ],
            "<a c='3' x='2' y='1'><n/></a>",
        ),
        (
            "<a  b='1'\n c='2'/>",
            &[Unset("a", "b"), Unset("a", "c")],
            "<a/>",
        ),
        ("<a b='1' />", &[Unset("a", "x")], "<a b='1' />"),
        (
            "<a b='1'/>",
            &[Unset("a", "b"), Set("a", "b", "2")],
            "<a b='2'/>",
        ),
        ("<a b='1'/>", &[Set("a", "b", "2"), Unset("a", "b")], "<a/>"),
        ("<a/>", &[Set("a", "b", "2"), Unset("a", "b")], "<a/>"),
        (
            "<?xml version='1.0' encoding='ascii'?><a/>",
            &[Set("a", "b", "é")],
            "<?xml version='1.0' encoding='ascii'?><a b='&#233;'/>",
        ),
    ]);
}

#[test]
fn texts() {
    produce(&[
        (
            "<a>x</a>",
            &[Text("a", "<y>&\"\r")],
            "<a>&lt;y&gt;&amp;\"&#13;</a>",
        ),
        ("<a />", &[Text("a", "y")], "<a>y</a>"),
        ("<a />", &[Text("a", "")], "<a />"),
        ("<a></a>", &[Text("a", "")], "<a></a>"),
        ("<a> x </a>", &[Text("a", "")], "<a></a>"),
        (
            "<a><![CDATA[x]]>&#x79;</a>",
            &[Text("a", "xy")],
            "<a><![CDATA[x]]>&#x79;</a>",
        ),
        ("<a><![CDATA[x]]>y</a>", &[Text("a", "z")], "<a>z</a>"),
        ("<a>x</a>", &[Text("a", "y"), Text("a", "z")], "<a>z</a>"),
        (
            "<a>x</a>",
            &[Append("a", "<n/>"), Text("a", "y")],
            "<a>y<n/></a>",
        ),
        (
            "<a>\n  <b/><!-- c -->\n</a>",
            &[Text("a", "y"), Set("b", "x", ""), Out("b")],
            "<a>y</a>",
        ),
    ]);
}

#[test]
fn elements_out() {
    produce(&[
        (
            ODD,
            &[Out("b")],
            "<?xml version='1.0'?>\n<a b='1'>\n    <!-- c -->\n    <c/>\n</a>\n",
        ),
        (
            ODD,
            &[Out("c"), Out("b"), Out("b")],
            "<?xml version='1.0'?>\n<a b='1'>\n    <!-- c -->\n</a>\n",
        ),
        (
            "<a>\n  <b/><c/> <d/>\n</a>",
            &[Out("c"), Out("d")],
            "<a>\n  <b/>\n</a>",
        ),
        ("<a>\r\n\r\n\t<b/>\r\n</a>", &[Out("b")], "<a>\r\n\r\n</a>"),
        (
            "<a>\n  <b><c/></b>\n</a>",
            &[Text("c", "x"), Out("b")],
            "<a>\n</a>",
        ),
        // The root stays.
        ("<a/>", &[Out("a")], "<a/>"),
    ]);
}

#[test]
fn elements_in() {
    produce(&[
        // A comment stays with the element before it on its line, or else with the next one.
        (
            ODD,
            &[Before("a", &["c"], "<n>\n  <m/>\n</n>")],
            "<?xml version='1.0'?>\n<a b='1'>\n    <b/>\n    <n>\n        <m/>\n    </n>\n    <!-- c -->\n    <c/>\n</a>\n",
        ),
        (
            "<a>\n  <b/> <!-- b -->\n</a>",
            &[Append("a", "<n/>")],
            "<a>\n  <b/> <!-- b -->\n  <n/>\n</a>",
        ),
        (
            "<a>\n  <b/>\n  <!-- last -->\n</a>",
            &[Append("a", "<n/>")],
            "<a>\n  <b/>\n  <n/>\n  <!-- last -->\n</a>",
        ),
        (
            "<a> <!-- a -->\n  <!-- b -->\n  <b/>\n</a>",
            &[Before("a", &["b"], "<n/>")],
            "<a> <!-- a -->\n  <n/>\n  <!-- b -->\n  <b/>\n</a>",
        ),
        // Insertions at one place stay in the order given.
        (
            ODD,
            &[
                Append("a", "<n1/>"),
                Before("a", &["c", "b"], "<n2/>"),
                Before("a", &["b"], "<n3/>"),
                Before("a", &["nothing"], "<n4/>"),
            ],
            "<?xml version='1.0'?>\n<a b='1'>\n    <n2/>\n    <n3/>\n    <b/>\n    <!-- c -->\n    <c/>\n    <n1/>\n    <n4/>\n</a>\n",
        ),
        // An insertion when all children are removed.
        (
            ODD,
            &[
                Out("b"),
                Out("c"),
                Before("a", &["b"], "<n1/>"),
                Append("a", "<n2/>"),
            ],
            "<?xml version='1.0'?>\n<a b='1'>\n    <n1/>\n    <!-- c -->\n    <n2/>\n</a>\n",
        ),
        // An empty element is opened once, with the document's own indentation.
        (
            ODD,
            &[Append("b", "<n1>\n  <m/>\n</n1>"), Append("b", "<n2/>")],
            "<?xml version='1.0'?>\n<a b='1'>\n    <b>\n        <n1>\n            <m/>\n        </n1>\n        <n2/>\n    </b>\n    <!-- c -->\n    <c/>\n</a>\n",
        ),
        // Children on one line, and a document of one line.
        (
            "<a><b/></a>",
            &[Append("a", "<n>\n  <m/>\n</n>"), Append("b", "<n/>")],
            "<a><b><n/></b><n><m/></n></a>",
        ),
        (
            "<a><b/> <c/></a>",
            &[Before("a", &["c"], "<n/>")],
            "<a><b/><n/> <c/></a>",
        ),
        (
            "<a>\n  <b><c/></b>\n</a>",
            &[Append("b", "<n/>")],
            "<a>\n  <b><c/><n/></b>\n</a>",
        ),
        (
            "<a>\n  <b/><c/>\n</a>",
            &[Append("c", "<n/>")],
            "<a>\n  <b/><c><n/></c>\n</a>",
        ),
        ("<a>x\n</a>", &[Append("a", "<n/>")], "<a>x<n/>\n</a>"),
        // Line breaks in a text or a tag are no indentation.
        (
            "<a>\n <b/>\n</a>",
            &[Append("a", "<n\n  b=''>x\n  y</n>")],
            "<a>\n <b/>\n <n\n  b=''>x\n  y</n>\n</a>",
        ),
        (
            "<a/>",
            &[Append("a", "<n\n  b=''/>")],
            "<a><n\n  b=''/></a>",
        ),
        (
            "<a>\r  <b/>\r</a>",
            &[Append("a", "<n/>")],
            "<a>\r  <b/>\r  <n/>\r</a>",
        ),
        ("<a/>\n", &[Append("a", "<n/>")], "<a>\n  <n/>\n</a>\n"),
        ("<a></a>\n", &[Append("a", "<n/>")], "<a>\n  <n/>\n</a>\n"),
        ("<a>\n</a>", &[Append("a", "<n/>")], "<a>\n  <n/>\n</a>"),
        (
            "\u{feff}<a>\r\n\t<b/>\r\n</a>",
            &[Append("a", "<n/>")],
            "\u{feff}<a>\r\n\t<b/>\r\n\t<n/>\r\n</a>",
        ),
    ]);
}

#[test]
#[should_panic(expected = "an edit of another document")]
fn edits_of_another_document() {
    let large = Document::parse("<a><b/></a>").unwrap();
    let edit = large.root().child("b").unwrap().remove();
    let _ = Document::parse("<a/>").unwrap().apply(&[edit]);
}
