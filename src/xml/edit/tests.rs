use super::*;

const ODD: &str = "<?xml version='1.0'?>\n<a b='1'>\n    <b/>\n    <!-- c -->\n    <c/>\n</a>\n";

/// The edit for the first element of a name.
type Make = fn(Element<'_, '_>) -> Edit;

/// A document, the edits, and the result.
type Row = (&'static str, &'static [(&'static str, Make)], &'static str);

#[track_caller]
fn produce(rows: &[Row]) {
    for (before, edits, after) in rows {
        let document = Document::parse(before).unwrap();
        let edits: Vec<Edit> = edits
            .iter()
            .map(|(name, edit)| {
                let mut elements = document.elements();
                edit(elements.find(|element| element.name() == *name).unwrap())
            })
            .collect();
        assert_eq!(document.apply(&edits), *after, "{before:?} {edits:?}");
    }
}

#[test]
fn attributes() {
    produce(&[
        (
            "<a b='1'/>",
            &[("a", |a| a.set_attribute("b", "2"))],
            "<a b='2'/>",
        ),
        (
            "<a b = \"1\" />",
            &[("a", |a| a.set_attribute("b", "'\"<>&"))],
            "<a b = \"'&quot;&lt;>&amp;\" />",
        ),
        (
            "<a b='1'/>",
            &[("a", |a| a.set_attribute("b", "'\"\t\r\n"))],
            "<a b='&apos;\"&#9;&#13;&#10;'/>",
        ),
        // A value that is there already keeps its bytes.
        (
            "<a b='&#x31;&gt;>'/>",
            &[("a", |a| a.set_attribute("b", "1>>"))],
            "<a b='&#x31;&gt;>'/>",
        ),
        // A new attribute gets the quotes of its element, or else the document's most frequent
        // ones, or else single ones.
        (
            "<a b=\"\" c='' ><d/></a>",
            &[("a", |a| a.set_attribute("x", "1"))],
            "<a b=\"\" c='' x=\"1\" ><d/></a>",
        ),
        (
            "<a b=\"\" c='' d=\"\"><d /></a>",
            &[("d", |d| d.set_attribute("x", "1"))],
            "<a b=\"\" c='' d=\"\"><d x=\"1\" /></a>",
        ),
        (
            "<a b=\"\" c=''><d\n/></a>",
            &[("d", |d| d.set_attribute("x", "1"))],
            "<a b=\"\" c=''><d x='1'\n/></a>",
        ),
        // Several attributes of one tag.
        (
            "<a b='1' c='2'/>",
            &[
                ("a", |a| a.set_attribute("x", "1")),
                ("a", |a| a.set_attribute("c", "3")),
                ("a", |a| a.set_attribute("y", "1")),
                ("a", |a| a.set_attribute("x", "2")),
                ("a", |a| a.remove_attribute("b")),
                ("a", |a| a.append("<n/>")),
            ],
            "<a c='3' x='2' y='1'><n/></a>",
        ),
        (
            "<a  b='1'\n c='2'/>",
            &[
                ("a", |a| a.remove_attribute("b")),
                ("a", |a| a.remove_attribute("c")),
            ],
            "<a/>",
        ),
        (
            "<a b='1' />",
            &[("a", |a| a.remove_attribute("x"))],
            "<a b='1' />",
        ),
        (
            "<a b='1'/>",
            &[
                ("a", |a| a.remove_attribute("b")),
                ("a", |a| a.set_attribute("b", "2")),
            ],
            "<a b='2'/>",
        ),
        (
            "<a b='1'/>",
            &[
                ("a", |a| a.set_attribute("b", "2")),
                ("a", |a| a.remove_attribute("b")),
            ],
            "<a/>",
        ),
        (
            "<a/>",
            &[
                ("a", |a| a.set_attribute("b", "2")),
                ("a", |a| a.remove_attribute("b")),
            ],
            "<a/>",
        ),
        (
            "<?xml version='1.0' encoding='ascii'?><a/>",
            &[("a", |a| a.set_attribute("b", "é"))],
            "<?xml version='1.0' encoding='ascii'?><a b='&#233;'/>",
        ),
    ]);
}

#[test]
fn texts() {
    produce(&[
        (
            "<a>x</a>",
            &[("a", |a| a.set_text("<y>&\"\r"))],
            "<a>&lt;y&gt;&amp;\"&#13;</a>",
        ),
        ("<a />", &[("a", |a| a.set_text("y"))], "<a>y</a>"),
        ("<a />", &[("a", |a| a.set_text(""))], "<a />"),
        ("<a></a>", &[("a", |a| a.set_text(""))], "<a></a>"),
        ("<a> x </a>", &[("a", |a| a.set_text(""))], "<a></a>"),
        (
            "<a><![CDATA[x]]>&#x79;</a>",
            &[("a", |a| a.set_text("xy"))],
            "<a><![CDATA[x]]>&#x79;</a>",
        ),
        (
            "<a><![CDATA[x]]>y</a>",
            &[("a", |a| a.set_text("z"))],
            "<a>z</a>",
        ),
        (
            "<a>x<!-- c -->y<?p?></a>",
            &[("a", |a| a.set_text("z"))],
            "<a>z<!-- c --><?p?></a>",
        ),
        (
            "<a><!-- c --></a>",
            &[("a", |a| a.set_text("z"))],
            "<a><!-- c -->z</a>",
        ),
        (
            "<a>x</a>",
            &[("a", |a| a.set_text("y")), ("a", |a| a.set_text("z"))],
            "<a>z</a>",
        ),
        (
            "<a>x</a>",
            &[("a", |a| a.append("<n/>")), ("a", |a| a.set_text("y"))],
            "<a>y<n/></a>",
        ),
        (
            "<a>\n  <b/><!-- c -->\n</a>",
            &[
                ("a", |a| a.set_text("y")),
                ("b", |b| b.set_attribute("x", "")),
                ("b", |b| b.remove()),
            ],
            "<a>y<!-- c --></a>",
        ),
    ]);
}

#[test]
fn elements_out() {
    produce(&[
        (
            ODD,
            &[("b", |b| b.remove())],
            "<?xml version='1.0'?>\n<a b='1'>\n    <!-- c -->\n    <c/>\n</a>\n",
        ),
        (
            ODD,
            &[
                ("c", |c| c.remove()),
                ("b", |b| b.remove()),
                ("b", |b| b.remove()),
            ],
            "<?xml version='1.0'?>\n<a b='1'>\n    <!-- c -->\n</a>\n",
        ),
        (
            "<a>\n  <b/><c/> <d/>\n</a>",
            &[("c", |c| c.remove()), ("d", |d| d.remove())],
            "<a>\n  <b/>\n</a>",
        ),
        (
            "<a>\r\n\r\n\t<b/>\r\n</a>",
            &[("b", |b| b.remove())],
            "<a>\r\n\r\n</a>",
        ),
        (
            "<a>\n  <b><c/></b>\n</a>",
            &[("c", |c| c.set_text("x")), ("b", |b| b.remove())],
            "<a>\n</a>",
        ),
        // The root stays.
        ("<a/>", &[("a", |a| a.remove())], "<a/>"),
    ]);
}

#[test]
fn elements_in() {
    produce(&[
        // A comment stays with the element before it on its line, or else with the next one.
        (
            ODD,
            &[("a", |a| a.insert_before(&["c"], "<n>\n  <m/>\n</n>"))],
            "<?xml version='1.0'?>\n<a b='1'>\n    <b/>\n    <n>\n        <m/>\n    </n>\n    <!-- c -->\n    <c/>\n</a>\n",
        ),
        (
            "<a>\n  <b/> <!-- b -->\n</a>",
            &[("a", |a| a.append("<n/>"))],
            "<a>\n  <b/> <!-- b -->\n  <n/>\n</a>",
        ),
        (
            "<a>\n  <b/>\n  <!-- last -->\n</a>",
            &[("a", |a| a.append("<n/>"))],
            "<a>\n  <b/>\n  <n/>\n  <!-- last -->\n</a>",
        ),
        (
            "<a> <!-- a -->\n  <!-- b -->\n  <b/>\n</a>",
            &[("a", |a| a.insert_before(&["b"], "<n/>"))],
            "<a> <!-- a -->\n  <n/>\n  <!-- b -->\n  <b/>\n</a>",
        ),
        // Insertions at one place stay in the order given.
        (
            ODD,
            &[
                ("a", |a| a.append("<n1/>")),
                ("a", |a| a.insert_before(&["c", "b"], "<n2/>")),
                ("a", |a| a.insert_before(&["b"], "<n3/>")),
                ("a", |a| a.insert_before(&["nothing"], "<n4/>")),
            ],
            "<?xml version='1.0'?>\n<a b='1'>\n    <n2/>\n    <n3/>\n    <b/>\n    <!-- c -->\n    <c/>\n    <n1/>\n    <n4/>\n</a>\n",
        ),
        // An insertion at a place among the children.
        (
            "<a>\n  <b/> <!-- b -->\n  <c/>\n</a>",
            &[
                ("a", |a| a.insert_after(a.child("b"), "<n1/>")),
                ("a", |a| a.insert_after(a.child("c"), "<n2/>")),
                ("a", |a| a.insert_after(None, "<n3/>")),
                ("a", |a| a.insert_after(a.child("b"), "<n4/>")),
                ("a", |a| a.append("<n5/>")),
            ],
            "<a>\n  <n3/>\n  <b/> <!-- b -->\n  <n1/>\n  <n4/>\n  <c/>\n  <n2/>\n  <n5/>\n</a>",
        ),
        (
            "<a><b/><c/></a>",
            &[
                ("a", |a| a.insert_after(a.child("b"), "<n1/>")),
                ("b", |b| b.insert_after(None, "<n2/>")),
                ("c", |c| c.remove()),
            ],
            "<a><b><n2/></b><n1/></a>",
        ),
        // An insertion when all children are removed.
        (
            ODD,
            &[
                ("b", |b| b.remove()),
                ("c", |c| c.remove()),
                ("a", |a| a.insert_before(&["b"], "<n1/>")),
                ("a", |a| a.append("<n2/>")),
            ],
            "<?xml version='1.0'?>\n<a b='1'>\n    <n1/>\n    <!-- c -->\n    <n2/>\n</a>\n",
        ),
        // An empty element is opened once, with the document's own indentation.
        (
            ODD,
            &[
                ("b", |b| b.append("<n1>\n  <m/>\n</n1>")),
                ("b", |b| b.append("<n2/>")),
            ],
            "<?xml version='1.0'?>\n<a b='1'>\n    <b>\n        <n1>\n            <m/>\n        </n1>\n        <n2/>\n    </b>\n    <!-- c -->\n    <c/>\n</a>\n",
        ),
        // Children on one line, and a document of one line.
        (
            "<a><b/></a>",
            &[
                ("a", |a| a.append("<n>\n  <m/>\n</n>")),
                ("b", |b| b.append("<n/>")),
            ],
            "<a><b><n/></b><n><m/></n></a>",
        ),
        (
            "<a><b/> <c/></a>",
            &[("a", |a| a.insert_before(&["c"], "<n/>"))],
            "<a><b/><n/> <c/></a>",
        ),
        (
            "<a>\n  <b><c/></b>\n</a>",
            &[("b", |b| b.append("<n/>"))],
            "<a>\n  <b><c/><n/></b>\n</a>",
        ),
        (
            "<a>\n  <b/><c/>\n</a>",
            &[("c", |c| c.append("<n/>"))],
            "<a>\n  <b/><c><n/></c>\n</a>",
        ),
        (
            "<a>x\n</a>",
            &[("a", |a| a.append("<n/>"))],
            "<a>x<n/>\n</a>",
        ),
        // Line breaks in a text or a tag are no indentation.
        (
            "<a>\n <b/>\n</a>",
            &[("a", |a| a.append("<n\n  b=''>x\n  y</n>"))],
            "<a>\n <b/>\n <n\n  b=''>x\n  y</n>\n</a>",
        ),
        (
            "<a/>",
            &[("a", |a| a.append("<n\n  b=''/>"))],
            "<a><n\n  b=''/></a>",
        ),
        (
            "<a>\r  <b/>\r</a>",
            &[("a", |a| a.append("<n/>"))],
            "<a>\r  <b/>\r  <n/>\r</a>",
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
