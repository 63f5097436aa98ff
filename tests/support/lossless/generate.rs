//! Makes documents and operations by chance.

use std::fmt::Write;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::model::{FRAGMENTS, NAMES, Op};

/// An item in an element, as it is written.
#[derive(Debug, Clone)]
enum Item {
    Element(Element),
    Other(String),
}

#[derive(Debug, Clone)]
struct Element {
    name: &'static str,
    attributes: String,
    /// The white space before the ends of the tags.
    space: &'static str,
    /// The items; `None`: `<x/>`.
    items: Option<Vec<Item>>,
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    newline: &'static str,
    /// The step of indentation; `None`: no line breaks but those that are there by chance.
    unit: Option<&'static str>,
    /// The number of items below which an element has its items on lines of their own.
    broken: u8,
}

/// Makes a well-formed document.
pub(crate) fn document() -> impl Strategy<Value = String> {
    let layout = (
        select(&["\n", "\n", "\r\n", "\r"][..]),
        option::weighted(0.8, select(&["  ", "  ", "\t", " ", "    "][..])),
        0..8_u8,
    );
    let layout = layout.prop_map(|(newline, unit, broken)| Layout {
        newline,
        unit,
        broken,
    });
    let start = select(
        &[
            "",
            "",
            "\u{feff}",
            "<?xml version='1.0'?>",
            "<?xml version=\"1.0\" encoding='utf-8' standalone='no' ?>\n",
            "\u{feff}<?xml version = '1.0' encoding=\"UTF-8\"?>\r\n",
        ][..],
    );
    let beside = || vec(prop_oneof![comment(), Just("\n".to_owned())], 0..3);
    (start, layout, beside(), element(), beside()).prop_map(
        |(start, layout, before, mut root, after)| {
            root.attributes
                .push_str(" xmlns:p='urn:p' xmlns:q=\"urn:q\"");
            let mut text = start.to_owned() + &before.concat();
            root.write(&mut text, layout, "");
            text + &after.concat()
        },
    )
}

fn element() -> impl Strategy<Value = Element> {
    let leaf = tag().prop_map(|(name, attributes, space)| Element {
        name,
        attributes,
        space,
        items: None,
    });
    leaf.prop_recursive(4, 24, 5, |inner| {
        let item = prop_oneof![
            5 => inner.prop_map(Item::Element),
            1 => other().prop_map(Item::Other),
        ];
        (tag(), vec(item, 0..5)).prop_map(|((name, attributes, space), items)| Element {
            name,
            attributes,
            space,
            items: Some(items),
        })
    })
}

fn tag() -> impl Strategy<Value = (&'static str, String, &'static str)> {
    let value = "[ xé\t\n>]{0,3}(&lt;|&#10;|&#x41;|&amp;)?[ x]?";
    let quote = || select(&["'{}'", "'{}\"'", "\"{}\"", "\"{}'\""][..]);
    let space = || select(&["", "", "", " ", "\n  ", "\t"][..]);
    let attribute = (value, quote(), space(), space(), space());
    let names = select(&["a", "b", "c", "p:a", "xml:lang"][..]);
    let attributes = btree_map(names, attribute, 0..3).prop_map(|attributes| {
        let mut text = String::new();
        for (name, (value, quote, before, left, right)) in attributes {
            let value = quote.replace("{}", &value);
            let _ = write!(text, " {before}{name}{left}={right}{value}");
        }
        text
    });
    let attributes = (
        attributes,
        select(&["", "", "", " xmlns='urn:d'", " xmlns=\"\""][..]),
    )
        .prop_map(|(attributes, default)| attributes + default);
    (
        select(&["a", "b", "c", "d", "p:a", "q:b", "é"][..]),
        attributes,
        space(),
    )
}

fn comment() -> impl Strategy<Value = String> {
    select(
        &[
            "<!-- c -->",
            "<!---->",
            "<!-- a\n b -->",
            "<?p?>",
            "<?p <a> ?>",
        ][..],
    )
    .prop_map(str::to_owned)
}

fn other() -> impl Strategy<Value = String> {
    prop_oneof![
        comment(),
        "[ \t\n]{1,3}",
        "[xé \"'>\n]{1,4}(&lt;|&#13;)?",
        select(&["<![CDATA[]]>", "<![CDATA[<x>&]]]]>", "<![CDATA[ ]]>"][..])
            .prop_map(str::to_owned),
    ]
}

impl Element {
    fn write(&self, text: &mut String, layout: Layout, line: &str) {
        let (name, space) = (self.name, self.space);
        let _ = write!(text, "<{name}{}{space}", self.attributes);
        let Some(items) = &self.items else {
            text.push_str("/>");
            return;
        };
        text.push('>');
        let mut inner = line.to_owned();
        inner.push_str(layout.unit.unwrap_or(""));
        let breaks = layout.unit.is_some() && items.len() < layout.broken as usize;
        for item in items {
            if breaks {
                text.push_str(layout.newline);
                text.push_str(&inner);
            }
            match item {
                Item::Element(element) => element.write(text, layout, &inner),
                Item::Other(other) => text.push_str(other),
            }
        }
        if breaks {
            text.push_str(layout.newline);
            text.push_str(line);
        }
        let _ = write!(text, "</{name}{space}>");
    }
}

/// Makes one edit.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let element = || any::<Index>().prop_map(|index| index.index(64));
    let text = || "([x <>&'\"\t\r\n\u{1}é]|\\]\\]>|\u{fffe}){0,4}";
    let name = || select(&NAMES[..]);
    let xml = || select(&FRAGMENTS[..]);
    prop_oneof![
        (element(), name(), text()).prop_map(|(element, name, text)| Op::Set(element, name, text)),
        (element(), name()).prop_map(|(element, name)| Op::Unset(element, name)),
        (element(), text()).prop_map(|(element, text)| Op::Text(element, text)),
        element().prop_map(Op::Remove),
        (element(), xml()).prop_map(|(element, xml)| Op::Append(element, xml)),
        (element(), vec(name(), 1..3), xml())
            .prop_map(|(element, names, xml)| Op::Before(element, names, xml)),
    ]
}

/// Makes a document with some damage, or with none.
pub(crate) fn mutated() -> impl Strategy<Value = String> {
    let change = (any::<Index>(), 0..4_usize, select(PIECES));
    (document(), vec(change, 1..3)).prop_map(|(mut text, changes)| {
        for (at, length, piece) in changes {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let start = at.index(places.len());
            let end = places.get(start + length).copied().unwrap_or(text.len());
            text.replace_range(places[start]..end, piece);
            if text.is_empty() {
                break;
            }
        }
        text
    })
}

const PIECES: &[&str] = &[
    "",
    "",
    "",
    "<",
    ">",
    "/",
    "&",
    "'",
    "\"",
    "=",
    " ",
    "\n",
    "x",
    "é",
    "-",
    "--",
    "]]>",
    "<!--",
    "-->",
    "<?",
    "?>",
    "<?xml version='1.0'?>",
    "<![CDATA[",
    "<a>",
    "</a>",
    "<b/>",
    "a='1'",
    ":",
    "&lt;",
    "&lt",
    "&#0;",
    "&#x1;",
    "&#65;",
    "&nope;",
    "\u{1}",
    "\u{7f}",
    "\u{feff}",
    "\u{fffe}",
    "\u{b7}",
    "1",
    "xmlns",
    "<xml",
    "<!",
    "!",
    "?",
    "[",
];

/// Documents that chance might not find.
pub(crate) const ODD: &[&str] = &[
    "<p:a/>",
    "<a p:b=\"1\"/>",
    "<a xmlns:p=\"\"/>",
    "<a xmlns:p=\"u\" xmlns:q=\"u\" p:x=\"\" q:x=\"\"/>",
    "<a xmlns:p=\"u\" xmlns:q=\"u\" p:x=\"\" p:x=\"\"/>",
    "<a:b:c/>",
    "<:a/>",
    "<a:/>",
    "<a:1/>",
    "<:/>",
    "<a><?xml x?></a>",
    "<a><?XML x?></a>",
    "<a><?xMl?></a>",
    "<?xml?><a/>",
    "<?xml ?><a/>",
    "<?xml version=\"1.1\"?><a/>",
    "<?xml version=\"1.15\"?><a/>",
    "<?xml version=\"1.\"?><a/>",
    "<?xml version=\"2.0\"?><a/>",
    "<?xml version=\"abc\"?><a/>",
    "<?xml version=\"1.0\"encoding=\"utf-8\"?><a/>",
    "<?xml version=\"1.0\" encoding=\"utf-8\"standalone=\"yes\"?><a/>",
    "<?xml version=\"1.0\" standalone=\"yes\" encoding=\"utf-8\"?><a/>",
    "<?xml version=\"1.0\" standalone=\"maybe\"?><a/>",
    "<?xml version=\"1.0\" foo=\"maybe\"?><a/>",
    "<?xml version=\"1.0\" encoding=\"UTF8\"?><a/>",
    "<?xml version=\"1.0\" encoding=\"US-ASCII\"?><a/>",
    "<?xml version=\"1.0\" encoding=\"ascii\"?><a/>",
    "<?xml version=\"1.0\" encoding=\"ascii\"?><a>é</a>",
    "\u{feff}<?xml version=\"1.0\" encoding=\"ascii\"?><a>é</a>",
    "\u{feff}<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><a>é</a>",
    "<?xml version=\"1.0\" encoding=\"\"?><a/>",
    "<?xml version=\"1.0\" encoding=\"1\"?><a/>",
    "<?xml version=\"1.0\" encoding=\"nope\"?><a/>",
    "<?xml version=\"1.0\" encoding=\"utf-16\"?><a/>",
    "\u{feff}<a/>",
    "\u{feff}\u{feff}<a/>",
    " <?xml version=\"1.0\"?><a/>",
    "<a><!-- - --></a>",
    "<a><!-- -- --></a>",
    "<a><!-- --- --></a>",
    "<a><!-- a ---></a>",
    "<a><!--></a>",
    "<a><!--> --></a>",
    "<a><!---></a>",
    "<a><!---> --></a>",
    "<a><!----></a>",
    "<a><!-----></a>",
    "<a>]]></a>",
    "<a>x]]]></a>",
    "<a b=\"]]>\"/>",
    "<a b=\">\"/>",
    "<a b=\"\x01\"/>",
    "<a>\x7f</a>",
    "<a>\u{85}</a>",
    "<a>\u{fffe}</a>",
    "<a b=\"\u{fffe}\"/>",
    "<a><!--\u{ffff}--></a>",
    "<a><?p \u{ffff}?></a>",
    "<a><![CDATA[\u{ffff}]]></a>",
    "<a>&#0;</a>",
    "<a>&#00065;</a>",
    "<a>&#x;</a>",
    "<a>&#;</a>",
    "<a>&#x110000;</a>",
    "<a>&#99999999999999999999;</a>",
    "<a>&#000000000000000000000000000000000000000000065;</a>",
    "<a>&#xFFFE;</a>",
    "<a>&#xD800;</a>",
    "<a>&#X41;</a>",
    "<a>& b</a>",
    "<a>&lt</a>",
    "<a>&nope;</a>",
    "<a b=\"&nope;\"/>",
    "<a b=\"&\"/>",
    "<a b=\"1\"c=\"2\"/>",
    "<a b/>",
    "<a / >",
    "<a\t\r\nb=\"1\"/>",
    "</a>",
    "<a></a\n>",
    "<a></ a>",
    "<a></a b=\"1\">",
    "<a/><b/>",
    "<a/>x",
    "<a/>&#32;",
    "<a/><![CDATA[]]>",
    "<a/><!-- x --><?p?>",
    "<a/>\0",
    "<a>\0</a>",
    "<a/><?p",
    "<a/><!-- ",
    "<a/><",
    "<a xml:space=\"x\"/>",
    "<xml/>",
    "<xmlfoo/>",
    "<xml:a/>",
    "<xmlns:a/>",
    "<a xmlns:xml=\"u\"/>",
    "<a xmlns:xmlns=\"u\"/>",
    "<a xmlns=\"http://www.w3.org/XML/1998/namespace\"/>",
    "<a xmlns:=\"u\"/>",
    "<a xmlns:p:q=\"u\"/>",
    "<a xmlns=\"&#1;\"/>",
    "<a xmlns=\"a b\"/>",
    "<é/>",
    "<a·/>",
    "<·a/>",
    "<-a/>",
    "<?p:q?><a/>",
    "<?-p?><a/>",
    "<?p?><a/>",
    "<? p?><a/>",
    "<?p+?><a/>",
    "<!doctype a><a/>",
    "<!DOCTYPE a><a/>",
    "<a><!DOCTYPE a></a>",
    "",
    " ",
    "<a",
    "<a>",
    "<a b=",
    "<a b='1",
    "<",
];
