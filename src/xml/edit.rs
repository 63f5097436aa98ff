//! Edits a document by changing its bytes.
//!
//! Edits of one document combine: each is made for the document as it was read, then all are
//! applied at once. Some edits exclude each other:
//!
//! * If one edit removes an element and another changes something in it, the element is removed.
//! * If several edits set or remove one attribute or set one text, the last one counts.
//! * If one edit sets a text and another changes an element that the text replaces, the element is
//!   removed.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;

use quick_xml::events::Event;

use super::escape::{escape_text, escape_value, only_ascii};
use super::wellformed::{XML_SPACE, events, is_space};
use super::{Document, Element, Node};

/// One change to a document, which [`Document::apply`] of the same document makes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Edit {
    element: usize,
    change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Remove,
    /// The name, and the new value; `None` removes the attribute.
    Attribute(String, Option<String>),
    Text(String),
    /// XML to insert before the first child with one of these names; without such a child, after
    /// the last child.
    Insert(Vec<String>, String),
}

/// The edits that can be made to an element. Values and texts are escaped; a character that XML
/// does not allow becomes U+FFFD.
///
/// XML to insert (`xml`) is not checked, so it must be well-formed. Write it without indentation,
/// with two spaces for each level below the top one, and without a final line ending. The edit adds
/// the indentation and the line endings of the document. If the children are on one line, or the
/// whole document is, the XML is inserted without line breaks between its tags. Line breaks inside
/// its tags and texts stay.
impl Element<'_, '_> {
    fn edit(&self, change: Change) -> Edit {
        Edit {
            element: self.index,
            change,
        }
    }

    /// Sets an attribute. An existing attribute keeps its place and its quotes, and also its bytes
    /// if it has this value already. A new attribute comes last, in the quotes of the element's
    /// first attribute or, without one, in the document's most frequent quotes.
    pub fn set_attribute(&self, name: &str, value: &str) -> Edit {
        self.edit(Change::Attribute(name.into(), Some(value.into())))
    }

    /// Removes an attribute and the white space before it. Does nothing if there is no such
    /// attribute.
    pub fn remove_attribute(&self, name: &str) -> Edit {
        self.edit(Change::Attribute(name.into(), None))
    }

    /// Replaces the whole content, including any elements and comments, by this text. Does nothing
    /// if [`Element::text`] is this text already.
    pub fn set_text(&self, text: &str) -> Edit {
        self.edit(Change::Text(text.into()))
    }

    /// Removes the element and the white space before it, up to and including one line ending. Does
    /// nothing to the root, because a document needs one.
    pub fn remove(&self) -> Edit {
        self.edit(Change::Remove)
    }

    /// Inserts XML after the last child, with the indentation of its siblings.
    pub fn append(&self, xml: &str) -> Edit {
        self.insert_before(&[], xml)
    }

    /// Inserts XML before the first child that has one of these names (with their prefixes), and
    /// before the comments above that child. If there is no such child, inserts the XML after the
    /// last child.
    pub fn insert_before(&self, names: &[&str], xml: &str) -> Edit {
        let names = names.iter().map(ToString::to_string).collect();
        self.edit(Change::Insert(names, xml.into()))
    }
}

impl Document<'_> {
    /// Returns the text with the edits made. Edits at one place are made in the order given.
    ///
    /// # Panics
    /// If an edit is for an element of another document, and this document has no element in the
    /// same place. If it has one, the edit changes this wrong element.
    pub fn apply(&self, edits: &[Edit]) -> String {
        let mut edits: Vec<&Edit> = edits.iter().collect();
        edits.sort_by_key(|edit| edit.element);
        let mut change = Changes {
            document: self,
            newline: self.newline(),
            unit: OnceCell::new(),
            quote: OnceCell::new(),
            splices: Vec::new(),
        };
        // Elements before this index are removed together with an element that contained them.
        let mut gone = 0;
        for edits in edits.chunk_by(|one, other| one.element == other.element) {
            let index = edits[0].element;
            assert!(index < self.nodes.len(), "an edit of another document");
            if index < gone {
                continue;
            }
            let next = self.nodes[index].next as usize;
            if index > 0 && edits.iter().any(|edit| edit.change == Change::Remove) {
                change.splice(self.removal(index), String::new());
                gone = next;
                continue;
            }
            change.attributes(index, edits);
            if change.content(index, edits) {
                gone = next;
            }
        }
        change.made()
    }

    /// Returns the first line ending in the document; `None` if it is a single line.
    fn newline(&self) -> Option<&'static str> {
        let at = self.text.find(['\n', '\r'])?;
        Some(match &self.text.as_bytes()[at..] {
            [b'\r', b'\n', ..] => "\r\n",
            [b'\r', ..] => "\r",
            _ => "\n",
        })
    }

    /// Returns the byte range that [`Element::remove`] removes: the element `index` and white space
    /// before it.
    fn removal(&self, index: usize) -> Range<usize> {
        let span = self.nodes[index].span.range();
        let before = &self.text[..span.start];
        let line = before.trim_end_matches([' ', '\t']);
        let rest = line
            .strip_suffix("\r\n")
            .or_else(|| line.strip_suffix(['\n', '\r']))
            .unwrap_or(line);
        rest.len()..span.end
    }

    /// Returns the white space between the start of a line and this position; `None` if the line
    /// has something else before it.
    fn indentation(&self, at: usize) -> Option<&str> {
        let before = &self.text[..at];
        let line = before.trim_end_matches([' ', '\t']);
        (line.is_empty() || line.ends_with(['\n', '\r'])).then(|| &before[line.len()..])
    }

    /// Returns the position after the comments that follow `at` on its line; `at` if anything else
    /// follows on the line. So a comment stays beside its element when something is inserted.
    fn after_comments(&self, at: usize) -> usize {
        let mut end = at;
        loop {
            let rest = self.text[end..].trim_start_matches([' ', '\t']);
            if rest.starts_with(['\n', '\r']) {
                return end;
            }
            let comment = rest.strip_prefix("<!--").and_then(|inner| {
                let length = inner.find("-->")?;
                (!inner[..length].contains(['\n', '\r'])).then_some(length + "<!---->".len())
            });
            match comment {
                Some(length) => end = self.text.len() - rest.len() + length,
                None => return at,
            }
        }
    }

    fn is_empty_tag(&self, node: &Node) -> bool {
        node.content.end == node.span.end
    }
}

/// The edits of one document, while they are turned into changes of its bytes.
struct Changes<'d, 'a> {
    document: &'d Document<'a>,
    /// The line ending; `None` if the document is a single line.
    newline: Option<&'static str>,
    unit: OnceCell<&'a str>,
    quote: OnceCell<char>,
    splices: Vec<(Range<usize>, String)>,
}

impl<'a> Changes<'_, 'a> {
    fn splice(&mut self, span: Range<usize>, text: String) {
        let text = if self.document.ascii {
            only_ascii(&text)
        } else {
            text
        };
        self.splices.push((span, text));
    }

    fn made(mut self) -> String {
        // An insertion comes before a replacement or a removal that begins at the same byte.
        self.splices.sort_by_key(|(span, _)| (span.start, span.end));
        let text = self.document.text;
        let added: usize = self.splices.iter().map(|(_, text)| text.len()).sum();
        let mut result = String::with_capacity(text.len() + added);
        let mut at = 0;
        for (span, new) in &self.splices {
            result.push_str(&text[at..span.start]);
            result.push_str(new);
            at = span.end;
        }
        result.push_str(&text[at..]);
        result
    }

    fn attributes(&mut self, index: usize, edits: &[&Edit]) {
        let mut wanted: Vec<(&str, Option<&str>)> = Vec::new();
        for edit in edits {
            if let Change::Attribute(name, value) = &edit.change {
                match wanted.iter_mut().find(|(other, _)| other == name) {
                    Some(earlier) => earlier.1 = value.as_deref(),
                    None => wanted.push((name, value.as_deref())),
                }
            }
        }
        if wanted.is_empty() {
            return;
        }
        let document = self.document;
        let text = document.text;
        let mut end = document.nodes[index].name_end as usize;
        let mut own_quote = None;
        for attribute in document.attributes(index) {
            let quote = char::from(text.as_bytes()[attribute.value.end]);
            own_quote.get_or_insert(quote);
            end = attribute.span().end;
            let name = &text[attribute.name.clone()];
            let Some(place) = wanted.iter().position(|(other, _)| *other == name) else {
                continue;
            };
            match wanted.remove(place).1 {
                None => self.splice(attribute.span(), String::new()),
                Some(value)
                    if super::wellformed::value(&text[attribute.value.clone()]) == value => {}
                Some(value) => self.splice(attribute.value.clone(), escape_value(value, quote)),
            }
        }
        for (name, value) in wanted {
            if let Some(value) = value {
                let quote = own_quote.unwrap_or_else(|| self.quote());
                let value = escape_value(value, quote);
                self.splice(end..end, format!(" {name}={quote}{value}{quote}"));
            }
        }
    }

    /// Makes those of an element's `edits` that change its content. Returns true if a text replaced
    /// the whole content, so that edits of elements in it must be dropped.
    fn content(&mut self, index: usize, edits: &[&Edit]) -> bool {
        let document = self.document;
        let element = document.element(index);
        let text = edits.iter().rev().find_map(|edit| match &edit.change {
            Change::Text(text) => Some(text),
            _ => None,
        });
        let inserts = edits.iter().filter_map(|edit| match &edit.change {
            Change::Insert(names, xml) => Some((names, xml)),
            _ => None,
        });
        if let Some(text) = text.filter(|text| element.text().as_deref() != Some(text)) {
            let mut content = escape_text(text);
            content.extend(inserts.map(|(_, xml)| one_line(xml)));
            self.replace_content(index, &content);
            return true;
        }
        let mut into_childless = Vec::new();
        let mut last = None;
        for (names, xml) in inserts {
            let mut before = None;
            let mut next = None;
            for child in element.children().take_while(|_| !names.is_empty()) {
                if names.iter().any(|name| name == child.name()) {
                    next = Some(child.index);
                    break;
                }
                before = Some(child.index);
            }
            if next.is_none() {
                before = *last.get_or_insert_with(|| element.children().last().map(|e| e.index));
            }
            match (before, next) {
                (None, None) => into_childless.push(xml.as_str()),
                _ => self.insert_between(index, before, next, xml),
            }
        }
        if !into_childless.is_empty() {
            self.insert_into_childless(index, &into_childless);
        }
        false
    }

    fn replace_content(&mut self, index: usize, content: &str) {
        let node = &self.document.nodes[index];
        if self.document.is_empty_tag(node) {
            if !content.is_empty() {
                self.open(index, content);
            }
        } else {
            self.splice(node.content.range(), content.to_owned());
        }
    }

    /// Gives content to an element that is written `<x/>`.
    fn open(&mut self, index: usize, content: &str) {
        let element = self.document.element(index);
        let end = element.span().end;
        let start = self.document.text[..end - "/>".len()].trim_end().len();
        self.splice(start..end, format!(">{content}</{}>", element.name()));
    }

    /// Inserts XML between two neighbouring children of the element `index`. `before` is `None` if
    /// there is no child above, `next` if there is none below; one of them must be given.
    fn insert_between(
        &mut self,
        index: usize,
        before: Option<usize>,
        next: Option<usize>,
        xml: &str,
    ) {
        let document = self.document;
        let start = |child: usize| document.nodes[child].span.start as usize;
        let indented = |child: usize| {
            let newline = self.newline?;
            document
                .indentation(start(child))
                .map(|indentation| (newline, indentation))
        };
        if let Some(before) = before {
            let end = document.nodes[before].span.end as usize;
            if let Some((newline, indentation)) = indented(before) {
                let lines = self.lines(newline, indentation, xml);
                let at = document.after_comments(end);
                self.splice(at..at, lines);
                return;
            }
            if next.is_none() {
                self.splice(end..end, one_line(xml));
                return;
            }
        }
        let Some(next) = next else { return };
        // Insert before the white space in front of the next child, because that is removed if the
        // child is removed at the same time.
        let mut at = document.removal(next).start;
        match indented(next) {
            Some((newline, indentation)) => {
                let lines = self.lines(newline, indentation, xml);
                if before.is_none() {
                    let content = document.nodes[index].content.start as usize;
                    let top = document.after_comments(content);
                    let rest = document.text[top..].trim_start_matches([' ', '\t']);
                    if rest.starts_with(['\n', '\r']) {
                        at = top;
                    }
                }
                self.splice(at..at, lines);
            }
            None => self.splice(at..at, one_line(xml)),
        }
    }

    fn insert_into_childless(&mut self, index: usize, xml: &[&str]) {
        let document = self.document;
        let text = document.text;
        let node = &document.nodes[index];
        let (start, end) = (node.content.start as usize, node.content.end as usize);
        let empty_tag = document.is_empty_tag(node);
        let closing = (!empty_tag).then(|| document.indentation(end)).flatten();
        // A byte order mark or an XML declaration may precede the root.
        let root = (index == 0).then_some("");
        let own = document.indentation(node.span.start as usize);
        let own = own.or(closing).or(root);
        let has_text = events(&text[node.span.range()]).any(|(event, _)| match event {
            Event::Text(text) => !text.bytes().all(is_space),
            Event::CData(_) | Event::GeneralRef(_) => true,
            _ => false,
        });
        let (Some(newline), Some(own), false) = (self.newline, own, has_text) else {
            let content: String = xml.iter().copied().map(one_line).collect();
            if empty_tag {
                self.open(index, &content);
            } else {
                // Insert before the white space: a later removal of the new child would remove it.
                let at = start + text[start..end].trim_end_matches(XML_SPACE).len();
                self.splice(at..at, content);
            }
            return;
        };
        let indentation = format!("{own}{}", self.unit());
        let mut content: String = xml
            .iter()
            .map(|xml| self.lines(newline, &indentation, xml))
            .collect();
        let at = if closing.is_some() {
            document.after_comments(start)
        } else {
            content += newline;
            content += own;
            start + text[start..end].trim_end_matches(XML_SPACE).len()
        };
        if empty_tag {
            self.open(index, &content);
        } else {
            self.splice(at..at, content);
        }
    }

    /// Returns XML as lines of their own, each after a line ending. Indents each line that begins
    /// with a tag: by `indentation`, and by this document's unit for every two blanks that the line
    /// has. A line inside a tag or a text keeps its white space.
    fn lines(&self, newline: &str, indentation: &str, xml: &str) -> String {
        let mut result = String::new();
        let mut between_tags = true;
        for line in xml.lines() {
            result.push_str(newline);
            let inner = line.trim_start_matches(' ');
            // A line inside a tag or a text keeps its white space.
            if between_tags && inner.starts_with('<') {
                result.push_str(indentation);
                let deep = line.len() - inner.len();
                for _ in 0..deep / 2 {
                    result.push_str(self.unit());
                }
                result.push_str(inner);
            } else {
                result.push_str(line);
            }
            between_tags = line.ends_with('>');
        }
        result
    }

    /// Returns the white space by which most elements are indented deeper than their parents; two
    /// blanks if no element is.
    fn unit(&self) -> &'a str {
        self.unit.get_or_init(|| {
            let document = self.document;
            let indentation = |node: &Node| document.indentation(node.span.start as usize);
            let mut steps: HashMap<&str, (usize, usize)> = HashMap::new();
            for (index, node) in document.nodes.iter().enumerate().skip(1) {
                let parent = &document.nodes[node.parent as usize];
                let around = match indentation(parent) {
                    None if node.parent == 0 => "",
                    Some(around) => around,
                    None => continue,
                };
                let step = indentation(node).and_then(|own| own.strip_prefix(around));
                if let Some(step) = step.filter(|step| !step.is_empty()) {
                    let at = node.span.start as usize - step.len();
                    let step = &document.text[at..at + step.len()];
                    steps.entry(step).or_insert((0, usize::MAX - index)).0 += 1;
                }
            }
            let most = steps.into_iter().max_by_key(|(_, count)| *count);
            most.map_or("  ", |(step, _)| step)
        })
    }

    /// Returns the quote that most attributes have; `'` if neither is more frequent.
    fn quote(&self) -> char {
        *self.quote.get_or_init(|| {
            let (text, attributes) = (self.document.text.as_bytes(), &self.document.attributes);
            let double = attributes.iter().filter(|one| text[one.value.end] == b'"');
            if double.count() * 2 > attributes.len() {
                '"'
            } else {
                '\''
            }
        })
    }
}

/// Returns XML without the line breaks between its tags.
fn one_line(xml: &str) -> String {
    let mut result = String::new();
    for (index, line) in xml.lines().enumerate() {
        let inner = line.trim_start_matches(' ');
        if index == 0 || (result.ends_with('>') && inner.starts_with('<')) {
            result.push_str(inner);
        } else {
            result.push('\n');
            result.push_str(line);
        }
    }
    result
}

#[cfg(test)]
mod tests;
