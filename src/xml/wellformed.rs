//! Reads a document with quick-xml, and refuses one that is not well-formed, with the position.
//! quick-xml finds the tokens and their ends; this module checks their contents. The rules are
//! those of XML 1.0, fifth edition, as libxml2 applies them.

mod characters;
mod namespaces;

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::errors::IllFormedError;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::attributes::{AttrError, Attribute as Found, Attributes};
use quick_xml::events::{BytesRef, Event};
use quick_xml::name::QName;
use quick_xml::{Error, Reader, XmlVersion};

use super::{Document, MAX_DEPTH, MAX_SIZE, Node, Span, XmlError, place};
pub(super) use characters::{XML_SPACE, is_space};
use characters::{characters, is_char, is_name, is_name_start};
use namespaces::Scope;
pub(super) use namespaces::{XML_NAMESPACE, split};

/// Reads a document, as [`Document::parse`] describes.
pub(super) fn read(text: &str) -> Result<Document<'_>, XmlError> {
    let mut builder = Builder {
        text,
        nodes: Vec::new(),
        attributes: Vec::new(),
        open: Vec::new(),
        scope: Scope::default(),
        ascii: false,
    };
    builder.document()?;
    Ok(Document {
        text,
        nodes: builder.nodes,
        attributes: builder.attributes,
        declarations: builder.scope.declarations,
        ascii: builder.ascii,
    })
}

/// The place of an attribute. Between the two ranges are white space, `=` and quotes.
#[derive(Debug, Clone)]
pub(super) struct Attribute {
    /// The byte offset where the previous attribute ends, or the element's name if there is none.
    pub(super) before: usize,
    pub(super) name: Range<usize>,
    /// The byte range of the value, between the quotes.
    pub(super) value: Range<usize>,
}

impl Attribute {
    /// Returns the range of the attribute with the white space before it.
    pub(super) fn span(&self) -> Range<usize> {
        self.before..self.value.end + 1
    }
}

/// Returns the byte range of `part` in `text`, of which it must be a slice. quick-xml returns
/// slices without their positions.
fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

/// Returns the tokens of an element that was checked before, with their byte ranges in it.
/// `element` includes the element's own tags, because quick-xml drops a U+FEFF at the start of a
/// text.
pub(super) fn events(element: &str) -> impl Iterator<Item = (Event<'_>, Range<usize>)> {
    let mut reader = Reader::from_str(element);
    std::iter::from_fn(move || {
        let start = reader.buffer_position() as usize;
        let event = reader.read_event().ok()?;
        let end = reader.buffer_position() as usize;
        (event != Event::Eof).then_some((event, start..end))
    })
}

/// Returns the value of an attribute as an XML parser reads it.
pub(super) fn value(raw: &str) -> Cow<'_, str> {
    let found = Found {
        key: QName(""),
        value: Cow::Borrowed(raw),
    };
    // The text was checked before, so it has no unknown reference.
    found
        .normalized_value(XmlVersion::Explicit1_0)
        .unwrap_or(Cow::Borrowed(raw))
}

/// Returns the character that `&reference;` means; `None` if the reference is unknown.
pub(super) fn character(reference: &str) -> Option<char> {
    match BytesRef::new(reference).resolve_char_ref() {
        Ok(Some(c)) => Some(c).filter(|c| is_char(*c)),
        Ok(None) => resolve_xml_entity(reference)?.chars().next(),
        Err(_) => None,
    }
}

/// Returns why a document of more than [`MAX_SIZE`] bytes is refused.
pub(super) fn too_large() -> String {
    let size = MAX_SIZE / 1024 / 1024;
    format!("the document is larger than {size} MiB: expected less")
}

/// Returns why a document in this encoding is refused, and the fix.
pub(super) fn other_encoding(encoding: &str) -> String {
    format!(
        "the encoding is {encoding}: expected UTF-8 (`iconv -f {encoding} -t UTF-8` converts it; \
         an XML declaration must then say UTF-8, or no encoding)"
    )
}

/// Returns the encoding that the XML declaration of a text names; `None` if it names none.
pub(super) fn declared_encoding(text: &str) -> Option<String> {
    let Ok(Event::Decl(declaration)) = Reader::from_str(text).read_event() else {
        return None;
    };
    let name = declaration.encoding()?.ok()?;
    is_encoding(&name).then(|| name.into_owned())
}

fn is_encoding(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(allowed)
}

struct Builder<'a> {
    text: &'a str,
    nodes: Vec<Node>,
    attributes: Vec<Attribute>,
    open: Vec<u32>,
    scope: Scope<'a>,
    ascii: bool,
}

impl Builder<'_> {
    fn document(&mut self) -> Result<(), XmlError> {
        let text = self.text;
        if text.len() > MAX_SIZE {
            return refuse(text, 0, too_large());
        }
        characters(text)?;
        let mut reader = Reader::from_str(text);
        // quick-xml drops a byte order mark, and counts from what follows it.
        let first = text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len();
        let mut end = first;
        loop {
            let start = end;
            let event = reader.read_event();
            end = first + reader.buffer_position() as usize;
            match event {
                Err(error) => {
                    return self.not_read(first + reader.error_position() as usize, error);
                }
                Ok(Event::Eof) => break,
                Ok(event) => self.token(&event, start..end, start == first)?,
            }
        }
        if let Some(index) = self.open.last() {
            let (name, line) = self.opened(*index as usize);
            let problem = format!(
                "the end tag </{name}> is missing: expected it for <{name}> of line {line}"
            );
            return refuse(text, end, problem);
        }
        if self.nodes.is_empty() {
            let problem = match text.trim().is_empty() {
                true => "it is empty: expected an element",
                false => "there is no element: expected one",
            };
            return refuse(text, end, problem);
        }
        Ok(())
    }

    /// Checks one token, whose byte range is `span`. A start tag adds an element to the document,
    /// and an end tag completes it. `is_first` is true if nothing but a byte order mark precedes
    /// the token.
    fn token(
        &mut self,
        event: &Event<'_>,
        span: Range<usize>,
        is_first: bool,
    ) -> Result<(), XmlError> {
        let text = self.text;
        let Range { start, end } = span;
        match event {
            Event::Start(tag) => {
                let name_end = start + 1 + tag.name().0.len();
                self.start_tag(start..end, name_end, end - 1)?;
                self.open.push(self.nodes.len() as u32 - 1);
            }
            Event::Empty(tag) => {
                let name_end = start + 1 + tag.name().0.len();
                self.start_tag(start..end, name_end, end - 2)?;
                self.scope.leave(self.open.len());
            }
            Event::End(_) => self.end_tag(start..end),
            Event::Text(found) if self.open.is_empty() => {
                if let Some(at) = found.bytes().position(|byte| !is_space(byte)) {
                    return self.text_beside(start + at);
                }
            }
            Event::Text(found) => {
                if let Some(at) = found.find("]]>") {
                    let problem = "]]> in a text: expected ]]&gt;";
                    return refuse(text, start + at, problem);
                }
            }
            Event::CData(_) | Event::GeneralRef(_) if self.open.is_empty() => {
                return self.text_beside(start);
            }
            Event::CData(_) => {}
            Event::GeneralRef(found) => reference(text, start, found)?,
            Event::Comment(_) => {
                // The range includes the first - of the end, because --- can't end a comment.
                // quick-xml can check this, but reports a wrong place if a single - comes
                // before.
                let content = start + "<!--".len()..end - "->".len();
                if let Some(at) = text[content.clone()].find("--") {
                    let problem = "-- inside a comment: expected --> or something else";
                    return refuse(text, content.start + at, problem);
                }
            }
            Event::Decl(_) if is_first => self.declaration(start..end)?,
            Event::Decl(_) => return late_declaration(text, start),
            Event::PI(found) => {
                let target = start + 2..start + 2 + found.target().len();
                name(
                    text,
                    target,
                    "the target of a processing instruction after <?",
                    "white space or ?> after the target of a processing instruction",
                )?;
                if found.target().eq_ignore_ascii_case("xml") {
                    return late_declaration(text, start);
                }
            }
            Event::DocType(_) => return refuse(text, start, DOCTYPE),
            Event::Eof => {}
        }
        Ok(())
    }

    /// Returns the name of an element, and the line where it begins.
    fn opened(&self, index: usize) -> (&str, usize) {
        let node = &self.nodes[index];
        let start = node.span.start as usize;
        let name = &self.text[start + 1..node.name_end as usize];
        (name, place(self.text, start).0)
    }

    #[cold]
    fn text_beside<T>(&self, at: usize) -> Result<T, XmlError> {
        let expected = match self.nodes.is_empty() {
            true => "<",
            false => "the end of the document",
        };
        let problem = format!("text beside the root element: expected {expected}");
        refuse(self.text, at, problem)
    }

    /// Returns the error for a document that quick-xml can't read further than `at`.
    #[cold]
    fn not_read<T>(&mut self, at: usize, error: Error) -> Result<T, XmlError> {
        let text = self.text;
        let rest = &text[at..];
        let problem = match error {
            Error::IllFormed(IllFormedError::UnclosedReference) => SINGLE_AMP,
            Error::IllFormed(IllFormedError::UnmatchedEndTag(_)) => {
                "an end tag without a start tag: expected none"
            }
            Error::IllFormed(IllFormedError::MismatchedEndTag {
                expected: name,
                found,
            }) => {
                if found
                    .strip_prefix(&*name)
                    .is_some_and(|rest| rest.bytes().next().is_some_and(is_space))
                {
                    let after = &rest["</".len() + name.len()..];
                    let at = text.len() - after.trim_start_matches(XML_SPACE).len();
                    return expected(text, at, "> of an end tag");
                }
                let line = self
                    .open
                    .last()
                    .map_or(0, |index| self.opened(*index as usize).1);
                let problem =
                    format!("another end tag: expected </{name}> for <{name}> of line {line}");
                return refuse(text, at, problem);
            }
            _ if rest.starts_with("<!--") => "a comment without an end: expected -->",
            _ if rest.starts_with("<![CDATA[") => "a CDATA section without an end: expected ]]>",
            _ if rest.starts_with("<!DOCTYPE") => DOCTYPE,
            _ if rest.starts_with("<!") => {
                "unknown markup after <!: expected <!-- or <![CDATA[ (a < of the text is &lt;)"
            }
            _ if rest.starts_with("<?") => "a processing instruction without an end: expected ?>",
            _ if rest.starts_with("</") => return expected(text, text.len(), "> of an end tag"),
            _ => {
                // The end of the tag may only seem to be missing, because a quote is missing.
                let name_end = rest
                    .bytes()
                    .position(is_space)
                    .map_or(text.len(), |length| at + length);
                self.start_tag(at..text.len(), name_end, text.len())?;
                return expected(text, text.len(), "the end of the tag");
            }
        };
        refuse(text, at, problem)
    }

    fn start_tag(
        &mut self,
        span: Range<usize>,
        name_end: usize,
        attributes_end: usize,
    ) -> Result<(), XmlError> {
        let text = self.text;
        let depth = self.open.len();
        if depth == 0 && !self.nodes.is_empty() {
            let problem = "a second root element: expected the end of the document";
            return refuse(text, span.start, problem);
        }
        if depth >= MAX_DEPTH {
            let problem = format!("elements are nested deeper than {MAX_DEPTH}: expected fewer");
            return refuse(text, span.start, problem);
        }
        name(
            text,
            span.start + 1..name_end,
            "the name of an element after < (a < of the text is &lt;)",
            "white space or the end of the tag after the name of an element",
        )?;
        let first = self.attributes.len();
        for attribute in attributes(text, name_end..attributes_end) {
            let attribute = attribute?;
            let value = attribute.value.clone();
            let (name, uri) = (&text[attribute.name.clone()], &text[value.clone()]);
            self.scope.declare(depth, name, uri, Span::from(value));
            self.attributes.push(attribute);
        }
        let index = self.nodes.len() as u32;
        self.nodes.push(Node {
            name_end: name_end as u32,
            attributes: Span::from(first..self.attributes.len()),
            content: Span::from(span.end..span.end),
            parent: self.open.last().copied().unwrap_or(0),
            next: index + 1,
            namespace: self.scope.resolve(&text[span.start + 1..name_end]),
            span: Span::from(span),
        });
        Ok(())
    }

    fn end_tag(&mut self, span: Range<usize>) {
        // quick-xml counts the open elements, too, so there is one.
        let Some(index) = self.open.pop() else { return };
        self.scope.leave(self.open.len());
        let next = self.nodes.len() as u32;
        let node = &mut self.nodes[index as usize];
        node.content.end = span.start as u32;
        node.span.end = span.end as u32;
        node.next = next;
    }

    /// Checks `<?xml version='1.0' encoding='UTF-8' standalone='yes'?>`. Encoding and standalone
    /// are optional.
    fn declaration(&mut self, span: Range<usize>) -> Result<(), XmlError> {
        let text = self.text;
        let end = span.end - "?>".len();
        let mut attributes = attributes(text, span.start + "<?xml".len()..end);
        let version = match attributes.next().transpose()? {
            Some(first) if &text[first.name.clone()] == "version" => first.value,
            other => {
                let at = other.map_or(end, |other| other.name.start);
                return expected(text, at, "version='1.0' in the XML declaration");
            }
        };
        let minor = text[version.clone()].strip_prefix("1.");
        if !minor.is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit())) {
            let problem = "another version of XML: expected version='1.0'";
            return refuse(text, version.start, problem);
        }
        let mut names = ["encoding", "standalone"].into_iter();
        for attribute in attributes {
            let attribute = attribute?;
            match names.find(|name| *name == &text[attribute.name.clone()]) {
                Some("encoding") => self.encoding(attribute.value)?,
                Some(_) if matches!(&text[attribute.value.clone()], "yes" | "no") => {}
                Some(_) => {
                    let problem = "the value of standalone is unknown: expected yes or no";
                    return refuse(text, attribute.value.start, problem);
                }
                None => return expected(text, attribute.name.start, "?> of the XML declaration"),
            }
        }
        Ok(())
    }

    fn encoding(&mut self, value: Range<usize>) -> Result<(), XmlError> {
        let (text, at) = (self.text, value.start);
        let encoding = &text[value];
        let is_one_of =
            |names: &[&str]| names.iter().any(|name| encoding.eq_ignore_ascii_case(name));
        if is_one_of(&["UTF-8", "UTF8"]) {
            return Ok(());
        }
        if !is_one_of(&["US-ASCII", "ASCII"]) {
            let problem = match is_encoding(encoding) {
                true => other_encoding(encoding),
                false => "this is no encoding: expected UTF-8".into(),
            };
            return refuse(text, at, problem);
        }
        self.ascii = true;
        match text[at..].bytes().position(|byte| !byte.is_ascii()) {
            None => Ok(()),
            Some(after) => {
                let problem = "a character that is not US-ASCII, which the XML declaration names: \
                               expected UTF-8 there";
                refuse(text, at + after, problem)
            }
        }
    }
}

const DOCTYPE: &str = "a DOCTYPE is not accepted: expected the root element";
const SINGLE_AMP: &str = "a single &: expected &amp;";

#[cold]
fn refuse<T>(text: &str, at: usize, problem: impl Into<String>) -> Result<T, XmlError> {
    let (line, column) = place(text, at);
    Err(XmlError {
        line,
        column,
        problem: problem.into(),
    })
}

/// Returns the error for the character at this place. `what` was expected there.
#[cold]
fn expected<T>(text: &str, at: usize, what: &str) -> Result<T, XmlError> {
    let found = match text[at..].chars().next() {
        None => "the document ends".to_owned(),
        Some(c) if c.is_control() => format!("found U+{:04X}", c as u32),
        Some(c) => format!("found `{c}`"),
    };
    refuse(text, at, format!("{found}: expected {what}"))
}

#[cold]
fn late_declaration<T>(text: &str, at: usize) -> Result<T, XmlError> {
    let problem = "an XML declaration in the wrong place: expected it at the start of the \
                   document, as <?xml version='1.0'?>, or not at all";
    refuse(text, at, problem)
}

/// Checks that a text is a name. For the error, `what` describes the name, and `after` what may
/// follow it.
fn name(text: &str, span: Range<usize>, what: &str, after: &str) -> Result<(), XmlError> {
    let name = &text[span.clone()];
    if !name.starts_with(is_name_start) {
        return expected(text, span.start, what);
    }
    match name.find(|c| !is_name(c)) {
        None => Ok(()),
        Some(at) => expected(text, span.start + at, after),
    }
}

/// Checks that a reference means a character. `at` is the position of its `&`.
fn reference(text: &str, at: usize, reference: &str) -> Result<(), XmlError> {
    if character(reference).is_some() {
        return Ok(());
    }
    if reference.is_empty() || !reference.chars().all(|c| c == '#' || is_name(c)) {
        return refuse(text, at, SINGLE_AMP);
    }
    let problem = match reference.starts_with('#') {
        true => format!("&{reference}; is no character that XML allows: expected one"),
        false => format!(
            "the entity &{reference}; is not known: expected &lt; &gt; &amp; &apos; &quot; or a \
             character's number"
        ),
    };
    refuse(text, at, problem)
}

/// Returns the attributes of a tag, and checks each. `tag` is the range from the end of the tag's
/// name to the characters that close it. Nothing after the first error can be relied on.
fn attributes(text: &str, tag: Range<usize>) -> impl Iterator<Item = Result<Attribute, XmlError>> {
    let mut before = tag.start;
    Attributes::new(&text[..tag.end], tag.start).map(move |found| {
        let name_span = match &found {
            Ok(found) => range_in(text, found.key.0),
            Err(_) => {
                let rest = text[before..tag.end].trim_start_matches(XML_SPACE);
                let ends = |c| c == '=' || XML_SPACE.contains(&c);
                range_in(text, rest.split(ends).next().unwrap_or(rest))
            }
        };
        if name_span.start == before {
            let what = "white space or the end of the tag after an attribute";
            return expected(text, before, what);
        }
        name(
            text,
            name_span.clone(),
            "the name of an attribute or the end of the tag",
            "= after the name of an attribute",
        )?;
        let attribute = match found {
            Ok(found) => Attribute {
                before,
                name: name_span,
                value: range_in(text, &found.value),
            },
            Err(AttrError::ExpectedEq(at)) => {
                return expected(text, at, "= after the name of an attribute");
            }
            Err(AttrError::ExpectedValue(at) | AttrError::UnquotedValue(at)) => {
                return expected(text, at, "the value of an attribute in quotes");
            }
            Err(AttrError::ExpectedQuote(_, quote)) => {
                let quote = char::from(quote);
                let open = text[before..].find(quote).map_or(before, |at| before + at);
                let problem =
                    format!("a value without an end: expected {quote} before the document ends");
                return refuse(text, open, problem);
            }
            Err(AttrError::Duplicated(at, _)) => {
                let problem = format!("the attribute {} again: expected it once", &text[name_span]);
                return refuse(text, at, problem);
            }
        };
        check_value(text, attribute.value.clone())?;
        before = attribute.span().end;
        Ok(attribute)
    })
}

fn check_value(text: &str, span: Range<usize>) -> Result<(), XmlError> {
    let bytes = text.as_bytes();
    let special = |byte: &u8| matches!(byte, b'<' | b'&');
    let mut at = span.start;
    while let Some(length) = bytes[at..span.end].iter().position(special) {
        at += length;
        if bytes[at] == b'<' {
            let problem = format!(
                "a < in the value of line {}: expected &lt;, or {} before it",
                place(text, span.start).0,
                char::from(bytes[span.end])
            );
            return refuse(text, at, problem);
        }
        at += 1;
        let end = text[at..span.end].find(';').unwrap_or(0);
        reference(text, at - 1, &text[at..at + end])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
