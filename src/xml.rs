//! XML edited by its bytes: quick-xml gives the spans, an edit touches only its own, and all else
//! stays as it was. Knows nothing of libvirt.
//!
//! `apply(text, []) == text` for every document that [`Document::parse`] takes.
//!
//! Refused, with line and column: what is not well-formed, a second root or text beside the root,
//! a DOCTYPE (libvirt never writes one, and entities could blow up), elements nested deeper than
//! [`MAX_DEPTH`], more than [`MAX_SIZE`] bytes.

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 256;

/// The largest document that is read, in bytes.
pub const MAX_SIZE: usize = 16 * 1024 * 1024;

/// A text that is not taken, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct XmlError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong, and what was expected.
    pub problem: String,
}

/// A parsed document; positions are byte offsets into its text.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    elements: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    name: Range<usize>,
    parent: Option<usize>,
    /// From `<` to the end of the end tag.
    span: Range<usize>,
    /// Between the tags; empty and at the end of `span` for `<x/>`.
    content: Range<usize>,
}

/// One element of a document.
#[derive(Debug, Clone, Copy)]
pub struct Element<'d, 'a> {
    document: &'d Document<'a>,
    index: usize,
}

/// One change to a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    span: Range<usize>,
    text: String,
}

impl<'a> Document<'a> {
    /// Reads a document.
    ///
    /// # Errors
    /// [`XmlError`] for what the module's text says is refused.
    pub fn parse(text: &'a str) -> Result<Self, XmlError> {
        // quick-xml skips a byte order mark without counting it.
        let skipped = if text.starts_with('\u{feff}') {
            '\u{feff}'.len_utf8()
        } else {
            0
        };
        let error = |at: usize, problem: String| Err(place(text, at, problem));
        if text.len() > MAX_SIZE {
            return error(
                0,
                format!("the document is larger than {} MiB", MAX_SIZE / 1024 / 1024),
            );
        }
        let mut reader = Reader::from_str(&text[skipped..]);
        let mut elements: Vec<Node> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        loop {
            let start = reader.buffer_position() as usize + skipped;
            let event = match reader.read_event() {
                Ok(event) => event,
                Err(problem) => {
                    return error(
                        reader.error_position() as usize + skipped,
                        problem.to_string(),
                    );
                }
            };
            let end = reader.buffer_position() as usize + skipped;
            match event {
                Event::Start(tag) => {
                    let node = node(text, start..end, &tag, &elements, &open)?;
                    elements.push(node);
                    open.push(elements.len() - 1);
                }
                Event::Empty(tag) => {
                    let node = node(text, start..end, &tag, &elements, &open)?;
                    elements.push(Node {
                        content: end..end,
                        ..node
                    });
                }
                Event::End(_) => {
                    let index = open
                        .pop()
                        .expect("quick-xml refuses an end tag without a start");
                    elements[index].span.end = end;
                    elements[index].content.end = start;
                }
                Event::Text(_) | Event::CData(_) | Event::GeneralRef(_)
                    if open.is_empty() && !text[start..end].trim_ascii().is_empty() =>
                {
                    return error(start, "text beside the root element".into());
                }
                Event::DocType(_) => return error(start, "a DOCTYPE is not taken".into()),
                Event::Eof => break,
                _ => {}
            }
        }
        if let Some(index) = open.last() {
            let name = &text[elements[*index].name.clone()];
            return error(text.len(), format!("the end tag </{name}> is missing"));
        }
        if elements.is_empty() {
            return error(text.len(), "there is no element".into());
        }
        Ok(Document { text, elements })
    }

    /// The root element.
    #[must_use]
    pub fn root(&self) -> Element<'_, 'a> {
        Element {
            document: self,
            index: 0,
        }
    }

    /// All elements, in the order of their start tags.
    pub fn elements(&self) -> impl Iterator<Item = Element<'_, 'a>> {
        (0..self.elements.len()).map(|index| Element {
            document: self,
            index,
        })
    }

    /// The text with the edits made. Edits must not overlap; those at one place are made in the
    /// order given.
    ///
    /// # Panics
    /// If edits overlap or belong to another document: a mistake of the caller.
    #[must_use]
    pub fn apply(&self, edits: &[Edit]) -> String {
        let mut edits: Vec<&Edit> = edits.iter().collect();
        edits.sort_by_key(|edit| edit.span.start);
        let mut result = String::with_capacity(self.text.len());
        let mut at = 0;
        for edit in edits {
            assert!(edit.span.start >= at, "edits overlap");
            result.push_str(&self.text[at..edit.span.start]);
            result.push_str(&edit.text);
            at = edit.span.end;
        }
        result.push_str(&self.text[at..]);
        result
    }

    /// The first line end of the document.
    fn line_end(&self) -> &'static str {
        match self.text.find('\n') {
            Some(at) if at > 0 && self.text.as_bytes()[at - 1] == b'\r' => "\r\n",
            _ => "\n",
        }
    }

    /// The white space between the start of a line and this position; `None` if there is
    /// something else before it on the line.
    fn indentation(&self, at: usize) -> Option<&'a str> {
        let line = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = &self.text[line..at];
        before
            .chars()
            .all(|c| c == ' ' || c == '\t')
            .then_some(before)
    }
}

impl<'d, 'a> Element<'d, 'a> {
    fn node(&self) -> &'d Node {
        &self.document.elements[self.index]
    }

    /// Its name, as it stands there.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.document.text[self.node().name.clone()]
    }

    /// The value of an attribute, with its references resolved.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<Cow<'a, str>> {
        let node = self.node();
        let tag = &self.document.text[node.name.start..node.content.start];
        let end = tag.rfind(['/', '>']).map_or(tag.len(), |at| {
            if tag[..at].ends_with('/') { at - 1 } else { at }
        });
        let start = BytesStart::from_content(&tag[..end], node.name.len());
        let value = start
            .attributes()
            .flatten()
            .find(|attribute| attribute.key.as_ref() == name)?
            .value;
        let value = match value {
            // The value lies in the tag, which lies in the text.
            Cow::Borrowed(value) => {
                let at = value.as_ptr() as usize - self.document.text.as_ptr() as usize;
                &self.document.text[at..at + value.len()]
            }
            Cow::Owned(value) => return Some(Cow::Owned(unescape(&value).ok()?.into_owned())),
        };
        unescape(value).ok()
    }

    /// Its text, with references resolved, if it has nothing but text in it.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'a, str>> {
        unescape(&self.document.text[self.node().content.clone()]).ok()
    }

    /// Its child elements.
    pub fn children(self) -> impl Iterator<Item = Element<'d, 'a>> {
        let document = self.document;
        let end = self.node().span.end;
        (self.index + 1..document.elements.len())
            .take_while(move |index| document.elements[*index].span.start < end)
            .filter(move |index| document.elements[*index].parent == Some(self.index))
            .map(move |index| Element { document, index })
    }

    /// The first child of this name.
    #[must_use]
    pub fn child(self, name: &str) -> Option<Element<'d, 'a>> {
        self.children().find(|child| child.name() == name)
    }

    /// Takes the element out, and the white space before it up to and including one line end.
    #[must_use]
    pub fn remove(&self) -> Edit {
        let node = self.node();
        let mut start = node.span.start;
        if let Some(indentation) = self.document.indentation(start) {
            start -= indentation.len();
            let before = &self.document.text[..start];
            start -= if before.ends_with("\r\n") {
                2
            } else {
                usize::from(before.ends_with('\n'))
            };
        }
        Edit {
            span: start..node.span.end,
            text: String::new(),
        }
    }

    /// Puts XML in after the last child, its lines indented as its siblings are. `xml`: lines
    /// without indentation of the place, each deeper level by two spaces, no line end at the end.
    #[must_use]
    pub fn append(&self, xml: &str) -> Edit {
        let (document, node) = (self.document, self.node());
        let newline = document.line_end();
        let own = document.indentation(node.span.start).unwrap_or("");
        let last = self.children().last();
        let sibling = last
            .as_ref()
            .and_then(|last| document.indentation(last.node().span.start));
        let indentation = sibling.map_or_else(|| format!("{own}  "), str::to_owned);
        let mut text = String::new();
        for line in xml.lines() {
            text.push_str(newline);
            text.push_str(&indentation);
            text.push_str(line);
        }
        match last {
            Some(last) => Edit {
                span: last.node().span.end..last.node().span.end,
                text,
            },
            None if document.text[..node.span.end].ends_with("/>") && node.content.is_empty() => {
                let name = self.name();
                let slash = node.span.end - 2;
                let start = document.text[..slash].trim_end().len();
                Edit {
                    span: start..node.span.end,
                    text: format!(">{text}{newline}{own}</{name}>"),
                }
            }
            None => {
                let at = node.content.start;
                let rest = &document.text[node.content.clone()];
                let closing = if rest.contains('\n') {
                    String::new()
                } else {
                    format!("{newline}{own}")
                };
                Edit {
                    span: at..at,
                    text: text + &closing,
                }
            }
        }
    }
}

/// Escapes a text for an attribute in single quotes or for the content of an element. Characters
/// that XML 1.0 does not allow become U+FFFD, so that whatever sysfs says stays well-formed.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '&' => result.push_str("&amp;"),
            '\'' => result.push_str("&apos;"),
            '"' => result.push_str("&quot;"),
            '\t' | '\n' | '\r' => result.push_str(&format!("&#{};", c as u32)),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => result.push('\u{fffd}'),
            _ => result.push(c),
        }
    }
    result
}

fn place(text: &str, at: usize, problem: String) -> XmlError {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
    XmlError {
        line,
        column,
        problem,
    }
}

/// A node for a start tag; refuses one that is nested too deep, a second root, and bad attributes.
fn node(
    text: &str,
    span: Range<usize>,
    tag: &BytesStart<'_>,
    elements: &[Node],
    open: &[usize],
) -> Result<Node, XmlError> {
    if open.is_empty() && !elements.is_empty() {
        return Err(place(text, span.start, "a second root element".into()));
    }
    if open.len() >= MAX_DEPTH {
        return Err(place(
            text,
            span.start,
            format!("elements are nested deeper than {MAX_DEPTH}"),
        ));
    }
    for attribute in tag.attributes() {
        let problem = match attribute {
            Ok(attribute) => match unescape(&attribute.value) {
                Ok(_) if !attribute.value.contains('<') => continue,
                Ok(_) => "a < in an attribute value: expected &lt;".to_owned(),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        return Err(place(text, span.start, problem));
    }
    let name = span.start + 1..span.start + 1 + tag.name().as_ref().len();
    if name.is_empty() {
        return Err(place(text, span.start, "an element without a name".into()));
    }
    Ok(Node {
        name,
        parent: open.last().copied(),
        content: span.end..span.end,
        span,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "<device>\n  <name>a</name>\n  <capability type='mdev'>\n    <attr name='x' value='1'/>\n    <attr name='y' value='2'/>\n  </capability>\n</device>\n";

    #[test]
    fn children_attributes_and_text() {
        let document = Document::parse(DEVICE).unwrap();
        let root = document.root();
        assert_eq!((root.name(), root.children().count()), ("device", 2));
        assert_eq!(root.child("name").unwrap().text().unwrap(), "a");
        let values: Vec<String> = document
            .elements()
            .filter_map(|e| e.attribute("value").map(Cow::into_owned))
            .collect();
        assert_eq!(values, ["1", "2"]);
        let odd = Document::parse("<a b = \"x&amp;'y\" c='&#65;/' ><d e='f'/></a >").unwrap();
        assert_eq!(odd.root().attribute("b").unwrap(), "x&'y");
        assert_eq!(odd.root().attribute("c").unwrap(), "A/");
        assert_eq!(odd.root().child("d").unwrap().attribute("e").unwrap(), "f");
        assert_eq!(odd.root().attribute("e"), None);
    }

    #[test]
    fn removing_and_appending() {
        let document = Document::parse(DEVICE).unwrap();
        let attr = |name: &str| {
            document
                .elements()
                .find(|e| e.attribute("name").as_deref() == Some(name))
                .unwrap()
        };
        assert_eq!(
            document.apply(&[attr("x").remove()]),
            DEVICE.replace("\n    <attr name='x' value='1'/>", "")
        );
        let appended = document.apply(&[document.root().append("<c>\n  <d/>\n</c>")]);
        assert_eq!(
            appended,
            DEVICE.replace("\n</device>", "\n  <c>\n    <d/>\n  </c>\n</device>")
        );
        for (before, after) in [
            ("<a/>", "<a>\n  <n/>\n</a>"),
            ("<a b='c' />", "<a b='c'>\n  <n/>\n</a>"),
            ("<a></a>", "<a>\n  <n/>\n</a>"),
            ("<a>\n</a>", "<a>\n  <n/>\n</a>"),
            ("<a>\r\n\t<b/>\r\n</a>", "<a>\r\n\t<b/>\r\n\t<n/>\r\n</a>"),
            (
                "\u{feff}<a>\n <b/>\n</a>",
                "\u{feff}<a>\n <b/>\n <n/>\n</a>",
            ),
        ] {
            let document = Document::parse(before).unwrap();
            assert_eq!(
                document.apply(&[document.root().append("<n/>")]),
                after,
                "{before}"
            );
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, expected) in [
            ("", "line 1, column 1: there is no element"),
            ("<a>\n <b></a>", "line 2, column"),
            ("<a>", "the end tag </a> is missing"),
            ("<a/>\n<b/>", "line 2, column 1: a second root element"),
            ("<a/>x", "text beside the root element"),
            ("x<a/>", "line 1, column 1: text beside"),
            ("<!DOCTYPE a><a/>", "a DOCTYPE is not taken"),
            ("<a b='1' b='2'/>", "line 1"),
            ("<a b='&nope;'/>", "line 1"),
            ("<a b='<'/>", "expected &lt;"),
            ("<a b=1/>", "line 1"),
            ("< a/>", "line 1"),
            ("<a>&</a>", "line 1"),
        ] {
            let error = Document::parse(text).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let deep = "<a>".repeat(MAX_DEPTH + 1) + &"</a>".repeat(MAX_DEPTH + 1);
        assert!(
            Document::parse(&deep)
                .unwrap_err()
                .problem
                .contains("nested deeper")
        );
        assert!(Document::parse(&deep["<a>".len()..deep.len() - "</a>".len()]).is_ok());
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

    proptest::proptest! {
        #[test]
        fn no_edits_no_change(text in "(<[ab]( c='[x&;]*')?/?>|</[ab] ?>|[ x\r\n]|<!--y-->){0,12}") {
            if let Ok(document) = Document::parse(&text) {
                proptest::prop_assert_eq!(document.apply(&[]), text);
            }
        }

        #[test]
        fn what_is_appended_is_the_last_child(inner in "(<b/>|<!--c-->|\n  <b>t</b>| |\r\n){0,6}") {
            let text = format!("<a>{inner}</a>");
            let document = Document::parse(&text).unwrap();
            let before = document.root().children().count();
            let result = document.apply(&[document.root().append("<n/>")]);
            let document = roxmltree::Document::parse(&result).unwrap();
            let children: Vec<_> = document.root_element().children().filter(roxmltree::Node::is_element).collect();
            proptest::prop_assert_eq!(children.len(), before + 1);
            proptest::prop_assert_eq!(children.last().unwrap().tag_name().name(), "n");
        }
    }
}
