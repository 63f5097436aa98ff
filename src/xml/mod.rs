//! Edits XML by its bytes: an edit changes only its own bytes, and all others stay. This room knows
//! nothing about libvirt.
//!
//! `apply([]) == text` for every document that [`Document::parse`] accepts, with any quotes, line
//! endings, comments and byte order mark.
//!
//! This room accepts the documents that libxml2 accepts, because libvirt reads with libxml2. So an
//! undeclared prefix is no error, and stays part of the name. But the room refuses, with line and
//! column: a DOCTYPE (libvirt never writes one, and nested entities could expand without limit),
//! elements nested deeper than [`MAX_DEPTH`], more than [`MAX_SIZE`] bytes, and any encoding but
//! UTF-8 ([`from_bytes`]) and its subset US-ASCII.
//!
//! An edit does not preserve the space before the `/>` of an element that gets content.

mod edit;
mod escape;
mod wellformed;

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::iter::successors;
use std::ops::Range;

pub use edit::Edit;
pub use escape::escape;
use quick_xml::events::Event;
use wellformed::{Attribute, events};

/// The deepest nesting that is read.
pub(crate) const MAX_DEPTH: usize = 256;

/// The largest document that is read, in bytes.
pub const MAX_SIZE: usize = 16 * 1024 * 1024;

/// The error for a text that is refused, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct XmlError {
    /// The line of the problem, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// The problem, and what was expected.
    pub problem: String,
}

/// A parsed document. Positions are byte offsets into its text.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    /// The elements in the order of their start tags.
    nodes: Vec<Node>,
    /// The attributes of all elements, in their order.
    attributes: Vec<Attribute>,
    /// The values of the attributes that declare namespaces.
    declarations: Vec<Span>,
    /// True if the document is declared as US-ASCII, so that new text must be US-ASCII, too.
    ascii: bool,
}

/// A byte range that needs half the memory of a `Range<usize>`, because a document has less than 4
/// GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Span {
            start: range.start as u32,
            end: range.end as u32,
        }
    }
}

impl Span {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug)]
struct Node {
    /// The range from `<` to the end of the end tag.
    span: Span,
    name_end: u32,
    /// The range of the element's attributes in the document's.
    attributes: Span,
    /// The range between the tags; empty and at the end of `span` for `<x/>`.
    content: Span,
    /// The index of the parent. The root's is the root itself.
    parent: u32,
    /// The index of the first element that begins after this one's end; the number of elements if
    /// none does.
    next: u32,
    namespace: Namespace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    None,
    /// The name has a prefix that is not declared.
    Undeclared,
    /// The namespace of the prefix `xml`, which needs no declaration.
    Xml,
    /// The namespace of the declaration with this index.
    Declared(u32),
}

/// One element of a document.
#[derive(Debug, Clone, Copy)]
pub struct Element<'d, 'a> {
    document: &'d Document<'a>,
    index: usize,
}

/// Elements of two documents are never equal.
impl PartialEq for Element<'_, '_> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && std::ptr::eq(self.document, other.document)
    }
}

impl Eq for Element<'_, '_> {}

impl Hash for Element<'_, '_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.index.hash(state);
    }
}

impl<'a> Document<'a> {
    /// Reads a document.
    ///
    /// # Errors
    /// [`XmlError`] for a document that [`crate::xml`] refuses.
    pub fn parse(text: &'a str) -> Result<Self, XmlError> {
        wellformed::read(text)
    }

    /// Returns the whole text of the document.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Returns the root element.
    pub fn root(&self) -> Element<'_, 'a> {
        self.element(0)
    }

    /// Returns all elements, in the order of their start tags.
    pub fn elements(&self) -> impl Iterator<Item = Element<'_, 'a>> {
        (0..self.nodes.len()).map(|index| self.element(index))
    }

    fn element(&self, index: usize) -> Element<'_, 'a> {
        Element {
            document: self,
            index,
        }
    }

    fn attributes(&self, index: usize) -> &[Attribute] {
        &self.attributes[self.nodes[index].attributes.range()]
    }
}

impl<'d, 'a> Element<'d, 'a> {
    fn node(&self) -> &'d Node {
        &self.document.nodes[self.index]
    }

    /// Returns the name with its prefix.
    pub fn name(&self) -> &'a str {
        let node = self.node();
        &self.document.text[node.span.start as usize + 1..node.name_end as usize]
    }

    /// Returns the name without its prefix. As in libxml2, an undeclared prefix stays part of the
    /// name.
    pub(crate) fn local_name(&self) -> &'a str {
        let name = self.name();
        match wellformed::split(name) {
            Some((_, local)) if self.node().namespace != Namespace::Undeclared => local,
            _ => name,
        }
    }

    /// Returns the namespace of the element's prefix or, without a prefix, the default namespace.
    /// `None` if there is none, or if the prefix is not declared.
    pub fn namespace(&self) -> Option<Cow<'a, str>> {
        match self.node().namespace {
            Namespace::None | Namespace::Undeclared => None,
            Namespace::Xml => Some(Cow::Borrowed(wellformed::XML_NAMESPACE)),
            Namespace::Declared(index) => {
                let value = self.document.declarations[index as usize].range();
                Some(wellformed::value(&self.document.text[value])).filter(|name| !name.is_empty())
            }
        }
    }

    /// Returns whether the element has this namespace (`None`: no namespace) and local name.
    pub fn is(&self, namespace: Option<&str>, local: &str) -> bool {
        self.local_name() == local && self.namespace().as_deref() == namespace
    }

    /// Returns the value of an attribute as an XML parser reads it: with references resolved and
    /// white space turned into blanks. `None` if the element does not have the attribute.
    pub fn attribute(&self, name: &str) -> Option<Cow<'a, str>> {
        self.attributes()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value)
    }

    /// Returns the names and values of the attributes in their order, including declarations of
    /// namespaces.
    pub fn attributes(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + use<'a, 'd> {
        let text = self.document.text;
        let attributes = self.document.attributes(self.index).iter();
        attributes.map(move |attribute| {
            let value = wellformed::value(&text[attribute.value.clone()]);
            (&text[attribute.name.clone()], value)
        })
    }

    /// Returns the byte ranges of the attributes' values in the document.
    pub(crate) fn places(&self) -> impl Iterator<Item = Range<usize>> {
        let attributes = self.document.attributes(self.index).iter();
        attributes.map(|attribute| attribute.value.clone())
    }

    /// Returns the byte range between the element's tags; for `<x/>`, an empty range after it.
    pub(crate) fn content(&self) -> Range<usize> {
        self.node().content.range()
    }

    /// Returns the text with references resolved; `None` if the element contains an element.
    /// Comments are ignored.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        let text = self.document.text;
        let node = self.node();
        if node.next as usize != self.index + 1 {
            return None;
        }
        let content = &text[node.content.range()];
        if !content.contains(['<', '&', '\r']) {
            return Some(Cow::Borrowed(content));
        }
        let mut result = String::new();
        for (event, _) in events(&text[node.span.range()]) {
            match event {
                Event::Text(text) => result.push_str(&text.xml10_content()),
                Event::CData(text) => result.push_str(&text.xml10_content()),
                Event::GeneralRef(reference) => result.extend(wellformed::character(&reference)),
                _ => {}
            }
        }
        Some(Cow::Owned(result))
    }

    /// Returns whether the element contains a comment, at any depth. A `<!--` in a CDATA section
    /// counts, too.
    pub(crate) fn has_comment(&self) -> bool {
        self.document.text[self.node().content.range()].contains("<!--")
    }

    /// Returns the child elements, in the document's order.
    pub fn children(self) -> impl Iterator<Item = Element<'d, 'a>> {
        let document = self.document;
        let end = self.node().next as usize;
        let next = move |index: usize| Some(index).filter(|index| *index < end);
        successors(next(self.index + 1), move |index| {
            next(document.nodes[*index].next as usize)
        })
        .map(|index| document.element(index))
    }

    /// Returns the first child with this name, including its prefix; `None` if there is none.
    pub fn child(self, name: &str) -> Option<Element<'d, 'a>> {
        self.children().find(|child| child.name() == name)
    }

    /// Returns the parent; `None` for the root.
    pub fn parent(&self) -> Option<Element<'d, 'a>> {
        (self.index > 0).then(|| self.document.element(self.node().parent as usize))
    }

    /// Returns the range of the element in the document, from `<` to the end of its end tag.
    pub fn span(&self) -> Range<usize> {
        self.node().span.range()
    }

    /// Returns the line and the column where the element begins, counted from 1, the column in
    /// characters.
    pub fn position(&self) -> (usize, usize) {
        place(self.document.text, self.span().start)
    }

    /// Makes an error about the element, with its place.
    pub(crate) fn refused(&self, problem: impl Into<String>) -> XmlError {
        let (line, column) = self.position();
        XmlError {
            line,
            column,
            problem: problem.into(),
        }
    }
}

/// Returns the text of a file, if it is UTF-8.
///
/// # Errors
/// [`XmlError`] for other encodings, with the place and the fix, and for more than [`MAX_SIZE`]
/// bytes.
pub fn from_bytes(bytes: Vec<u8>) -> Result<String, XmlError> {
    let refused = |problem| {
        Err(XmlError {
            line: 1,
            column: 1,
            problem,
        })
    };
    // This comes before the check of UTF-8: the reader may have stopped within a character.
    if bytes.len() > MAX_SIZE {
        return refused(wellformed::too_large());
    }
    for (start, encoding) in [
        (&b"\xff\xfe\0\0"[..], "UTF-32"),
        (b"\0\0\xfe\xff", "UTF-32"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
        (b"<\0", "UTF-16LE"),
        (b"\0<", "UTF-16BE"),
    ] {
        if bytes.starts_with(start) {
            return refused(wellformed::other_encoding(encoding));
        }
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let before = String::from_utf8_lossy(&bytes[..at]);
        let (line, column) = place(&before, at);
        let fix = wellformed::declared_encoding(&before)
            .map_or("expected UTF-8".to_owned(), |name| {
                wellformed::other_encoding(&name)
            });
        XmlError {
            line,
            column,
            problem: format!("the byte 0x{:02x} is not UTF-8: {fix}", bytes[at]),
        }
    })
}

/// Returns the line and the column (in characters) of a byte offset, both counted from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces() {
        let document = Document::parse(
            "<d xmlns:p='urn:p&amp;'><p:a><b xmlns='urn:b'><c/><e xmlns=''/></b></p:a>\
             <p:a xmlns:p='urn:q'/><u:x/><xml:y/><p:a xmlns:p=''/>\
             <f p:xmlns='urn:f' u:xmlns='urn:f'/></d>",
        )
        .unwrap();
        let found: Vec<String> = document
            .elements()
            .map(|e| format!("{} {}", e.local_name(), e.namespace().unwrap_or("-".into())))
            .collect();
        let xml = "y http://www.w3.org/XML/1998/namespace";
        assert_eq!(
            found,
            [
                "d -", "a urn:p&", "b urn:b", "c urn:b", "e -", "a urn:q", "u:x -", xml,
                "a urn:p&", "f -"
            ]
        );
        let element = document.root().child("p:a").unwrap();
        assert!(element.is(Some("urn:p&"), "a") && !element.is(None, "a"));
        assert_eq!(element.child("b").unwrap().parent(), Some(element));
        assert_eq!(document.root().parent(), None);
        let other = Document::parse(document.text()).unwrap();
        assert_ne!(document.root(), other.root());
    }

    #[test]
    fn values_are_what_a_parser_says() {
        let text = "<a b='\ta\r\nb\rc&#10;' c=''>x\r\ny\rz&#13;<!-- c --><![CDATA[<\r\n]]></a>\n";
        let document = Document::parse(text).unwrap();
        let root = document.root();
        let attributes: Vec<_> = root.attributes().collect();
        assert_eq!(attributes, [("b", " a b c\n".into()), ("c", "".into())]);
        assert_eq!(root.text().unwrap(), "x\ny\nz\r<\n");
        let document = Document::parse("<a>\u{feff}&lt;</a>").unwrap();
        assert_eq!(document.root().text().unwrap(), "\u{feff}<");
        let document = Document::parse("<a>\n é<b/></a>").unwrap();
        let inner = document.root().child("b").unwrap();
        assert_eq!(inner.position(), (2, 3));
        assert_eq!(&document.text()[inner.span()], "<b/>");
        assert_eq!(document.root().text(), None);
    }

    #[test]
    fn bytes() {
        assert_eq!(
            from_bytes(b"\xef\xbb\xbf<a/>".into()).unwrap(),
            "\u{feff}<a/>"
        );
        for (bytes, place, expected) in [
            (&b"\xff\xfe<\0a\0"[..], (1, 1), "iconv -f UTF-16 -t"),
            (b"\xff\xfe\0\0", (1, 1), "iconv -f UTF-32 -t"),
            (b"<\0a\0", (1, 1), "iconv -f UTF-16LE -t"),
            (
                b"<a>\n\xc3\xa9\xe9</a>",
                (2, 2),
                "0xe9 is not UTF-8: expected UTF-8",
            ),
        ] {
            let error = from_bytes(bytes.into()).unwrap_err();
            assert_eq!((error.line, error.column), place, "{error}");
            assert!(error.problem.contains(expected), "{error}");
        }
    }

    #[test]
    fn escaped_text_is_well_formed_and_comes_back() {
        for text in ["plain", "a<b>&'\"", "tab\tand\nline\r", "é\u{1f600}"] {
            let xml = format!("<a b='{0}'>{0}</a>", escape(text));
            let document = Document::parse(&xml).unwrap();
            assert_eq!(document.root().attribute("b").unwrap(), text);
            assert_eq!(document.root().text().unwrap(), text);
        }
        assert_eq!(escape("\u{1}\u{0}x"), "\u{fffd}\u{fffd}x");
    }
}
