use super::*;

const ODD: &str = "<?xml version='1.0'?>\n<a b='1'>\n    <b/>\n    <!-- c -->\n    <c/>\n</a>\n";

/// Makes an edit of the first element with a name.
fn edit(document: &Document<'_>, edit: &str) -> Edit {
    let (what, text) = edit.split_once('=').unwrap_or((edit, ""));
    let words: Vec<&str> = what.split(' ').collect();
    let of = |name: &str| document.elements().find(|e| e.name() == name).unwrap();
    match words[..] {
        ["set", name, attribute] => of(name).set_attribute(attribute, text),
        ["unset", name, attribute] => of(name).remove_attribute(attribute),
        ["text", name] => of(name).set_text(text),
        ["out", name] => of(name).remove(),
        ["append", name] => of(name).append(text),
        ["before", name, ref names @ ..] => of(name).insert_before(names, text),
        _ => panic!("{edit}"),
    }
}

/// Each row has a document ([`ODD`] if it is empty), the edits, and the result.
fn produce(rows: &[&str]) {
    for row in rows {
        let [before, edits, after] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let before = if before.is_empty() { ODD } else { before };
        let document = Document::parse(before).unwrap();
        let edits: Vec<Edit> = edits.split(';').map(|one| edit(&document, one)).collect();
        assert_eq!(document.apply(&edits), after, "{row}");
    }
}

#[test]
fn attributes() {
    produce(&[
        "<a b='1'/>|set a b=2|<a b='2'/>",
        "<a b = \"1\" />|set a b='\"<>&|<a b = \"'&quot;&lt;>&amp;\" />",
        "<a b='1'/>|set a b='\"\t\r\n|<a b='&apos;\"&#9;&#13;&#10;'/>",
        // A value that is there already keeps its bytes.
        "<a b='&#x31;&gt;>'/>|set a b=1>>|<a b='&#x31;&gt;>'/>",
        // A new attribute gets the quotes of its element, or else the document's most frequent
        // quotes, or else single quotes.
        "<a b=\"\" c='' ><d/></a>|set a x=1|<a b=\"\" c='' x=\"1\" ><d/></a>",
        "<a b=\"\" c='' d=\"\"><d /></a>|set d x=1|<a b=\"\" c='' d=\"\"><d x=\"1\" /></a>",
        "<a b=\"\" c=''><d\n/></a>|set d x=1|<a b=\"\" c=''><d x='1'\n/></a>",
        // Several attributes of one tag.
        "<a b='1' c='2'/>|set a x=1;set a c=3;set a y=1;set a x=2;unset a b;append a=<n/>|<a c='3' x='2' y='1'><n/></a>",
        "<a  b='1'\n c='2'/>|unset a b;unset a c|<a/>",
        "<a b='1' />|unset a x|<a b='1' />",
        "<a b='1'/>|unset a b;set a b=2|<a b='2'/>",
        "<a b='1'/>|set a b=2;unset a b|<a/>",
        "<a/>|set a b=2;unset a b|<a/>",
        "<?xml version='1.0' encoding='ascii'?><a/>|set a b=é|<?xml version='1.0' encoding='ascii'?><a b='&#233;'/>",
    ]);
}

#[test]
fn texts() {
    produce(&[
        "<a>x</a>|text a=<y>&\"\r|<a>&lt;y&gt;&amp;\"&#13;</a>",
        "<a />|text a=y|<a>y</a>",
        "<a />|text a=|<a />",
        "<a></a>|text a=|<a></a>",
        "<a> x </a>|text a=|<a></a>",
        "<a><![CDATA[x]]>&#x79;</a>|text a=xy|<a><![CDATA[x]]>&#x79;</a>",
        "<a><![CDATA[x]]>y</a>|text a=z|<a>z</a>",
        "<a>x</a>|text a=y;text a=z|<a>z</a>",
        "<a>x</a>|append a=<n/>;text a=y|<a>y<n/></a>",
        "<a>\n  <b/><!-- c -->\n</a>|text a=y;set b x=;out b|<a>y</a>",
    ]);
}

#[test]
fn elements_out() {
    produce(&[
        "|out b|<?xml version='1.0'?>\n<a b='1'>\n    <!-- c -->\n    <c/>\n</a>\n",
        "|out c;out b;out b|<?xml version='1.0'?>\n<a b='1'>\n    <!-- c -->\n</a>\n",
        "<a>\n  <b/><c/> <d/>\n</a>|out c;out d|<a>\n  <b/>\n</a>",
        "<a>\r\n\r\n\t<b/>\r\n</a>|out b|<a>\r\n\r\n</a>",
        "<a>\n  <b><c/></b>\n</a>|text c=x;out b|<a>\n</a>",
        // The root stays.
        "<a/>|out a|<a/>",
    ]);
}

#[test]
fn elements_in() {
    produce(&[
        // A comment stays with the element before it on its line, or else with the next one.
        "|before a c=<n>\n  <m/>\n</n>|<?xml version='1.0'?>\n<a b='1'>\n    <b/>\n    <n>\n        <m/>\n    </n>\n    <!-- c -->\n    <c/>\n</a>\n",
        "<a>\n  <b/> <!-- b -->\n</a>|append a=<n/>|<a>\n  <b/> <!-- b -->\n  <n/>\n</a>",
        "<a>\n  <b/>\n  <!-- last -->\n</a>|append a=<n/>|<a>\n  <b/>\n  <n/>\n  <!-- last -->\n</a>",
        "<a> <!-- a -->\n  <!-- b -->\n  <b/>\n</a>|before a b=<n/>|<a> <!-- a -->\n  <n/>\n  <!-- b -->\n  <b/>\n</a>",
        // Insertions at one place stay in the order given.
        "|append a=<n1/>;before a c b=<n2/>;before a b=<n3/>;before a nothing=<n4/>|<?xml version='1.0'?>\n<a b='1'>\n    <n2/>\n    <n3/>\n    <b/>\n    <!-- c -->\n    <c/>\n    <n1/>\n    <n4/>\n</a>\n",
        // An insertion when all children are removed.
        "|out b;out c;before a b=<n1/>;append a=<n2/>|<?xml version='1.0'?>\n<a b='1'>\n    <n1/>\n    <!-- c -->\n    <n2/>\n</a>\n",
        // An empty element is opened once, with the document's own indentation.
        "|append b=<n1>\n  <m/>\n</n1>;append b=<n2/>|<?xml version='1.0'?>\n<a b='1'>\n    <b>\n        <n1>\n            <m/>\n        </n1>\n        <n2/>\n    </b>\n    <!-- c -->\n    <c/>\n</a>\n",
        // Children on one line, and a document of one line.
        "<a><b/></a>|append a=<n>\n  <m/>\n</n>;append b=<n/>|<a><b><n/></b><n><m/></n></a>",
        "<a><b/> <c/></a>|before a c=<n/>|<a><b/><n/> <c/></a>",
        "<a>\n  <b><c/></b>\n</a>|append b=<n/>|<a>\n  <b><c/><n/></b>\n</a>",
        "<a>\n  <b/><c/>\n</a>|append c=<n/>|<a>\n  <b/><c><n/></c>\n</a>",
        "<a>x\n</a>|append a=<n/>|<a>x<n/>\n</a>",
        // Line breaks in a text or a tag are no indentation.
        "<a>\n <b/>\n</a>|append a=<n\n  b=''>x\n  y</n>|<a>\n <b/>\n <n\n  b=''>x\n  y</n>\n</a>",
        "<a/>|append a=<n\n  b=''/>|<a><n\n  b=''/></a>",
        "<a>\r  <b/>\r</a>|append a=<n/>|<a>\r  <b/>\r  <n/>\r</a>",
        "<a/>\n|append a=<n/>|<a>\n  <n/>\n</a>\n",
        "<a></a>\n|append a=<n/>|<a>\n  <n/>\n</a>\n",
        "<a>\n</a>|append a=<n/>|<a>\n  <n/>\n</a>",
        "\u{feff}<a>\r\n\t<b/>\r\n</a>|append a=<n/>|\u{feff}<a>\r\n\t<b/>\r\n\t<n/>\r\n</a>",
    ]);
}

#[test]
#[should_panic(expected = "an edit of another document")]
fn edits_of_another_document() {
    let large = Document::parse("<a><b/></a>").unwrap();
    let edit = large.root().child("b").unwrap().remove();
    let _ = Document::parse("<a/>").unwrap().apply(&[edit]);
}
