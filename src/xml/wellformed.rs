//! Reads a document in one pass, and refuses at the byte what is not well-formed. The rules are
//! those of XML 1.0, fifth edition, as libxml2 applies them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{Document, MAX_DEPTH, MAX_SIZE, Namespace, Node, Span, XmlError, place};

/// Reads a document.
pub(super) fn read(text: &str) -> Result<Document<'_>, XmlError> {
    let mut reader = Reader {
        text,
        bytes: text.as_bytes(),
        at: 0,
        nodes: Vec::new(),
        open: Vec::new(),
        tag: Vec::new(),
        scope: Scope::default(),
        ascii: false,
    };
    reader.document()?;
    Ok(Document {
        text,
        nodes: reader.nodes,
        declarations: reader.scope.declarations,
        ascii: reader.ascii,
    })
}

/// An attribute; what lies between these is white space, `=` and quotes.
#[derive(Debug, Clone)]
pub(super) struct Attribute {
    /// Where the one before, or the name of the element, ends.
    pub(super) before: usize,
    pub(super) name: Range<usize>,
    /// Between the quotes.
    pub(super) value: Range<usize>,
}

impl Attribute {
    /// With the white space before it.
    pub(super) fn span(&self) -> Range<usize> {
        self.before..self.value.end + 1
    }
}

/// The attributes of a tag that was read before, from the end of its name on.
pub(super) fn attributes(text: &str, name_end: usize) -> impl Iterator<Item = Attribute> {
    let bytes = text.as_bytes();
    let skip = |mut at: usize| {
        while is_space(bytes[at]) {
            at += 1;
        }
        at
    };
    let mut at = name_end;
    std::iter::from_fn(move || {
        let before = at;
        let start = skip(at);
        if matches!(bytes[start], b'/' | b'>') {
            return None;
        }
        let mut end = start;
        while bytes[end] != b'=' && !is_space(bytes[end]) {
            end += 1;
        }
        let open = skip(skip(end) + 1);
        let mut close = open + 1;
        while bytes[close] != bytes[open] {
            close += 1;
        }
        at = close + 1;
        Some(Attribute {
            before,
            name: start..end,
            value: open + 1..close,
        })
    })
}

/// What the content of an element without elements is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Text,
    /// With its brackets.
    Cdata,
    /// A comment or a processing instruction.
    Other,
}

/// The pieces of content without elements.
pub(super) fn pieces(
    text: &str,
    content: Range<usize>,
) -> impl Iterator<Item = (Piece, Range<usize>)> {
    let mut at = content.start;
    std::iter::from_fn(move || {
        let rest = &text[at..content.end];
        if rest.is_empty() {
            return None;
        }
        let (piece, opening, closing) = [
            (Piece::Cdata, "<![CDATA[", "]]>"),
            (Piece::Other, "<!--", "-->"),
            (Piece::Other, "<?", "?>"),
        ]
        .into_iter()
        .find(|(_, opening, _)| rest.starts_with(opening))
        .unwrap_or((Piece::Text, "", "<"));
        let end = rest[opening.len()..].find(closing);
        let end = end.map(|end| match piece {
            Piece::Text => end,
            _ => opening.len() + end + closing.len(),
        });
        let start = at;
        at = end.map_or(content.end, |end| start + end);
        Some((piece, start..at))
    })
}

/// What a text between tags says.
pub(super) fn text(raw: &str) -> Cow<'_, str> {
    resolve(raw, false)
}

/// What the value of an attribute says.
pub(super) fn value(raw: &str) -> Cow<'_, str> {
    resolve(raw, true)
}

/// What a CDATA section says.
pub(super) fn cdata(raw: &str) -> String {
    line_ends(&raw["<![CDATA[".len()..raw.len() - "]]>".len()])
}

fn line_ends(raw: &str) -> String {
    raw.replace("\r\n", "\n").replace('\r', "\n")
}

fn resolve(raw: &str, value: bool) -> Cow<'_, str> {
    let plain =
        |byte: u8| byte != b'&' && byte != b'\r' && !(value && is_space(byte) && byte != b' ');
    if raw.bytes().all(plain) {
        return Cow::Borrowed(raw);
    }
    let literal = |part: &str| {
        let part = line_ends(part);
        if value {
            part.replace(['\t', '\n'], " ")
        } else {
            part
        }
    };
    let mut result = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('&') {
        let (reference, after) = after.split_once(';').unwrap_or((after, ""));
        result.push_str(&literal(before));
        result.extend(character(reference));
        rest = after;
    }
    result.push_str(&literal(rest));
    Cow::Owned(result)
}

/// The character that `&reference;` stands for.
fn character(reference: &str) -> Option<char> {
    let number = match reference {
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "amp" => return Some('&'),
        "apos" => return Some('\''),
        "quot" => return Some('"'),
        _ => reference.strip_prefix('#')?,
    };
    let (digits, radix) = match number.strip_prefix('x') {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // from_str_radix would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let c = char::from_u32(u32::from_str_radix(digits, radix).ok()?)?;
    is_char(c).then_some(c)
}

/// Why a document in this encoding is not taken, and what to do.
pub(super) fn other_encoding(encoding: &str) -> String {
    format!(
        "the encoding is {encoding}: expected UTF-8 (`iconv -f {encoding} -t UTF-8` converts it; \
         an XML declaration must then say UTF-8, or no encoding)"
    )
}

/// The encoding that the XML declaration of a text names.
pub(super) fn declared_encoding(text: &str) -> Option<&str> {
    let declaration = text.trim_start_matches('\u{feff}').strip_prefix("<?xml")?;
    let (_, rest) = declaration[..declaration.find("?>")?].split_once("encoding")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let name = rest.strip_prefix(['\'', '"'])?;
    let end = name.find(['\'', '"'])?;
    name[..end].bytes().all(is_encoding).then_some(&name[..end])
}

fn is_encoding(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_char(c: char) -> bool {
    !matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

fn is_name_start(c: char) -> bool {
    matches!(c,
        ':' | '_' | 'A'..='Z' | 'a'..='z'
        | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}' | '\u{370}'..='\u{37d}'
        | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}'
        | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
}

fn is_name(c: char) -> bool {
    is_name_start(c)
        || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

/// Bytes that need a look: these, control characters, and the first of U+FFFE and U+FFFF.
const fn table(special: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = !matches!(byte as u8, b'\t' | b'\n' | b'\r');
        byte += 1;
    }
    table[0xef] = true;
    let mut index = 0;
    while index < special.len() {
        table[special[index] as usize] = true;
        index += 1;
    }
    table
}

const fn names() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x80 {
        table[byte as usize] =
            matches!(byte, b':' | b'_' | b'-' | b'.') || byte.is_ascii_alphanumeric();
        byte += 1;
    }
    table
}

static TEXT: [bool; 256] = table(b"<&]");
static VALUE: [bool; 256] = table(b"<&'\"");
static COMMENT: [bool; 256] = table(b"-");
static INSTRUCTION: [bool; 256] = table(b"?");
static CDATA: [bool; 256] = table(b"]");
static NAME: [bool; 256] = names();

/// Prefix and local name. As in libxml2, a name whose colon can't part it has no prefix.
pub(super) fn split(name: &str) -> Option<(&str, &str)> {
    let (prefix, local) = name.split_once(':')?;
    let starts = |c| c != ':' && is_name_start(c);
    (!prefix.is_empty() && local.starts_with(starts)).then_some((prefix, local))
}

/// What the prefix `xml` stands for.
pub(super) const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// The namespaces declared at a place.
#[derive(Default)]
struct Scope<'a> {
    declarations: Vec<Span>,
    default: Option<u32>,
    prefixes: HashMap<&'a str, u32>,
    /// What to put back when elements end: depth, prefix (empty: the default), what was there.
    shadowed: Vec<(usize, &'a str, Option<u32>)>,
}

impl<'a> Scope<'a> {
    /// Takes an attribute of an element at this depth. As in libxml2, what must not be declared is
    /// ignored.
    fn declare(&mut self, depth: usize, name: &'a str, uri: &str, span: Span) {
        let prefix = match split(name) {
            None if name == "xmlns" => "",
            Some(("xmlns", prefix)) => prefix,
            _ => return,
        };
        let reserved = matches!(prefix, "xml" | "xmlns")
            || matches!(uri, XML_NAMESPACE | "http://www.w3.org/2000/xmlns/");
        if reserved || (!prefix.is_empty() && uri.is_empty()) {
            return;
        }
        let index = self.declarations.len() as u32;
        self.declarations.push(span);
        let before = if prefix.is_empty() {
            self.default.replace(index)
        } else {
            self.prefixes.insert(prefix, index)
        };
        self.shadowed.push((depth, prefix, before));
    }

    /// Forgets what elements at this depth declared.
    fn leave(&mut self, depth: usize) {
        while let Some((_, prefix, before)) = self.shadowed.pop_if(|(at, ..)| *at == depth) {
            match (prefix, before) {
                ("", before) => self.default = before,
                (_, Some(before)) => drop(self.prefixes.insert(prefix, before)),
                (_, None) => drop(self.prefixes.remove(prefix)),
            }
        }
    }

    fn resolve(&self, name: &str) -> Namespace {
        match split(name) {
            None => self.default.map_or(Namespace::None, Namespace::Declared),
            Some(("xml", _)) => Namespace::Xml,
            Some((prefix, _)) => self
                .prefixes
                .get(prefix)
                .map_or(Namespace::Undeclared, |index| Namespace::Declared(*index)),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    open: Vec<u32>,
    /// Attributes of the tag that is being read: name, value.
    tag: Vec<(Span, Span)>,
    scope: Scope<'a>,
    ascii: bool,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<(), XmlError> {
        if self.bytes.len() > MAX_SIZE {
            let size = MAX_SIZE / 1024 / 1024;
            return self.refuse(
                0,
                format!("the document is larger than {size} MiB: expected less"),
            );
        }
        if self.text.starts_with('\u{feff}') {
            self.at = '\u{feff}'.len_utf8();
        }
        if self.looking_at("<?xml") && self.bytes.get(self.at + 5).copied().is_some_and(is_space) {
            self.declaration()?;
        }
        loop {
            self.character_data()?;
            match self.bytes.get(self.at + 1) {
                _ if self.at == self.bytes.len() => break,
                Some(b'/') => self.end_tag()?,
                Some(b'?') => self.instruction()?,
                Some(b'!') => self.declared()?,
                _ => self.start_tag()?,
            }
        }
        if let Some(index) = self.open.last() {
            let name = self.name_of(*index as usize);
            let line = self.line_of(*index as usize);
            return self.refuse(
                self.at,
                format!(
                    "the end tag </{name}> is missing: expected it for <{name}> of line {line}"
                ),
            );
        }
        if self.nodes.is_empty() {
            return self.refuse(self.at, "there is no element: expected one".into());
        }
        Ok(())
    }

    #[cold]
    fn refuse<T>(&self, at: usize, problem: String) -> Result<T, XmlError> {
        let (line, column) = place(self.text, at);
        Err(XmlError {
            line,
            column,
            problem,
        })
    }

    /// Refuses what is at the current place.
    #[cold]
    fn expected<T>(&self, what: &str) -> Result<T, XmlError> {
        let found = match self.text[self.at..].chars().next() {
            None => "the document ends".to_owned(),
            Some(c) if c.is_control() || !is_char(c) => format!("found U+{:04X}", c as u32),
            Some(c) => format!("found `{c}`"),
        };
        self.refuse(self.at, format!("{found}: expected {what}"))
    }

    fn looking_at(&self, what: &str) -> bool {
        self.bytes[self.at..].starts_with(what.as_bytes())
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span {
            start: start as u32,
            end: end as u32,
        }
    }

    fn name_of(&self, index: usize) -> &str {
        let node = &self.nodes[index];
        &self.text[node.span.start as usize + 1..node.name_end as usize]
    }

    fn line_of(&self, index: usize) -> usize {
        place(self.text, self.nodes[index].span.start as usize).0
    }

    /// Goes to the next byte that needs a look.
    fn skip(&mut self, table: &[bool; 256]) -> Option<u8> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| table[*byte as usize]);
        self.at += length.unwrap_or(rest.len());
        self.peek()
    }

    fn skip_space(&mut self) -> bool {
        let start = self.at;
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
        self.at > start
    }

    /// Takes a byte that the tables stop at and that has no meaning at its place.
    fn other(&mut self, byte: u8) -> Result<(), XmlError> {
        let bad = byte < 0x20
            || (byte == 0xef && matches!(self.bytes[self.at + 1..], [0xbf, 0xbe | 0xbf, ..]));
        if bad {
            let c = self.text[self.at..].chars().next().unwrap_or_default();
            let problem = format!(
                "the character U+{:04X}: expected one that XML allows",
                c as u32
            );
            return self.refuse(self.at, problem);
        }
        self.at += 1;
        Ok(())
    }

    fn name(&mut self, what: &str) -> Result<Span, XmlError> {
        let start = self.at;
        loop {
            let rest = &self.bytes[self.at..];
            let length = rest.iter().position(|byte| !NAME[*byte as usize]);
            self.at += length.unwrap_or(rest.len());
            match self.peek() {
                Some(byte) if !byte.is_ascii() => {
                    let c = self.text[self.at..].chars().next().unwrap_or_default();
                    if !is_name(c) {
                        break;
                    }
                    self.at += c.len_utf8();
                }
                _ => break,
            }
        }
        let first = self.text[start..].chars().next();
        if !first.is_some_and(is_name_start) {
            self.at = start;
            return self.expected(what);
        }
        Ok(self.span(start, self.at))
    }

    /// Up to the next `<`, or the end.
    fn character_data(&mut self) -> Result<(), XmlError> {
        if self.open.is_empty() {
            self.skip_space();
            return match self.peek() {
                None | Some(b'<') => Ok(()),
                Some(_) if self.nodes.is_empty() => {
                    self.refuse(self.at, "text beside the root element: expected <".into())
                }
                Some(_) => self.refuse(
                    self.at,
                    "text beside the root element: expected the end of the document".into(),
                ),
            };
        }
        loop {
            match self.skip(&TEXT) {
                None | Some(b'<') => return Ok(()),
                Some(b'&') => self.reference()?,
                Some(b']') if self.looking_at("]]>") => {
                    return self.refuse(self.at, "]]> in a text: expected ]]&gt;".into());
                }
                Some(byte) => self.other(byte)?,
            }
        }
    }

    fn reference(&mut self) -> Result<(), XmlError> {
        let rest = &self.text[self.at + 1..];
        let end = rest
            .bytes()
            .position(|byte| !(byte == b'#' || NAME[byte as usize] || !byte.is_ascii()));
        let Some(end) = end.filter(|end| *end > 0 && rest.as_bytes()[*end] == b';') else {
            return self.refuse(self.at, "a single &: expected &amp;".into());
        };
        let reference = &rest[..end];
        if character(reference).is_none() {
            let problem = if reference.starts_with('#') {
                format!("&{reference}; is no character that XML allows: expected one")
            } else {
                format!(
                    "the entity &{reference}; is not known: expected &lt; &gt; &amp; &apos; &quot; \
                     or a character's number"
                )
            };
            return self.refuse(self.at, problem);
        }
        self.at += end + 2;
        Ok(())
    }

    fn start_tag(&mut self) -> Result<(), XmlError> {
        let start = self.at;
        if self.open.is_empty() && !self.nodes.is_empty() {
            return self.refuse(
                start,
                "a second root element: expected the end of the document".into(),
            );
        }
        if self.open.len() >= MAX_DEPTH {
            return self.refuse(
                start,
                format!("elements are nested deeper than {MAX_DEPTH}: expected fewer"),
            );
        }
        self.at += 1;
        let name = self.name("the name of an element after < (a < of the text is &lt;)")?;
        self.tag.clear();
        let empty = loop {
            let space = self.skip_space();
            match self.peek() {
                Some(b'>') => {
                    self.at += 1;
                    break false;
                }
                Some(b'/') => {
                    self.at += 1;
                    if self.peek() != Some(b'>') {
                        return self.expected("> after /");
                    }
                    self.at += 1;
                    break true;
                }
                _ if space => self.attribute()?,
                _ if self.tag.is_empty() => {
                    return self.expected("white space, / or > after the name of an element");
                }
                _ => return self.expected("white space, / or > after an attribute"),
            }
        };
        self.no_attribute_twice()?;
        let depth = self.open.len();
        for (name, value) in &self.tag {
            let (name, uri) = (&self.text[name.range()], &self.text[value.range()]);
            self.scope.declare(depth, name, uri, *value);
        }
        let namespace = self.scope.resolve(&self.text[name.range()]);
        let index = self.nodes.len() as u32;
        self.nodes.push(Node {
            span: self.span(start, self.at),
            name_end: name.end,
            content: self.span(self.at, self.at),
            parent: self.open.last().copied().unwrap_or(0),
            next: index + 1,
            namespace,
        });
        if empty {
            self.scope.leave(depth);
        } else {
            self.open.push(index);
        }
        Ok(())
    }

    fn attribute(&mut self) -> Result<(), XmlError> {
        let name = self.name("the name of an attribute, / or >")?;
        self.skip_space();
        if self.peek() != Some(b'=') {
            return self.expected("= after the name of an attribute");
        }
        self.at += 1;
        self.skip_space();
        let value = self.quoted("the value of an attribute in quotes")?;
        self.tag.push((name, value));
        Ok(())
    }

    fn quoted(&mut self, what: &str) -> Result<Span, XmlError> {
        let Some(quote @ (b'"' | b'\'')) = self.peek() else {
            return self.expected(what);
        };
        self.at += 1;
        let start = self.at;
        loop {
            match self.skip(&VALUE) {
                None => {
                    let problem = format!(
                        "a value without an end: expected {} before the document ends",
                        char::from(quote)
                    );
                    return self.refuse(start - 1, problem);
                }
                Some(byte) if byte == quote => break,
                Some(b'"' | b'\'') => self.at += 1,
                Some(b'<') => {
                    let problem = format!(
                        "a < in the value of line {}: expected &lt;, or {} before it",
                        place(self.text, start).0,
                        char::from(quote)
                    );
                    return self.refuse(self.at, problem);
                }
                Some(b'&') => self.reference()?,
                Some(byte) => self.other(byte)?,
            }
        }
        self.at += 1;
        Ok(self.span(start, self.at - 1))
    }

    fn no_attribute_twice(&self) -> Result<(), XmlError> {
        let name = |index: usize| &self.text[self.tag[index].0.range()];
        let count = self.tag.len();
        let twice = if count <= 16 {
            (1..count).find(|index| (0..*index).any(|other| name(other) == name(*index)))
        } else {
            let mut seen = HashSet::with_capacity(count);
            (0..count).find(|index| !seen.insert(name(*index)))
        };
        match twice {
            None => Ok(()),
            Some(index) => self.refuse(
                self.tag[index].0.start as usize,
                format!("the attribute {} again: expected it once", name(index)),
            ),
        }
    }

    fn end_tag(&mut self) -> Result<(), XmlError> {
        let start = self.at;
        let Some(index) = self.open.last().map(|index| *index as usize) else {
            let problem = "an end tag without a start tag: expected none";
            return self.refuse(start, problem.into());
        };
        self.at += 2;
        let opened = self.nodes[index].span.start as usize + 1..self.nodes[index].name_end as usize;
        let length = opened.len();
        let same = self.bytes[self.at..].starts_with(&self.bytes[opened]);
        let after = self.bytes.get(self.at + length).copied();
        if !same || !after.is_some_and(|byte| byte == b'>' || is_space(byte)) {
            let (name, line) = (self.name_of(index).to_owned(), self.line_of(index));
            if same && after.is_none() {
                self.at += length;
                return self.expected("> of an end tag");
            }
            return self.refuse(
                start,
                format!("another end tag: expected </{name}> for <{name}> of line {line}"),
            );
        }
        self.at += length;
        self.skip_space();
        if self.peek() != Some(b'>') {
            return self.expected("> of an end tag");
        }
        self.at += 1;
        self.open.pop();
        self.scope.leave(self.open.len());
        let (next, end) = (self.nodes.len() as u32, self.at as u32);
        let node = &mut self.nodes[index];
        node.content.end = start as u32;
        node.span.end = end;
        node.next = next;
        Ok(())
    }

    /// What begins with `<!`.
    fn declared(&mut self) -> Result<(), XmlError> {
        let start = self.at;
        if self.looking_at("<!--") {
            self.at += 4;
            loop {
                match self.skip(&COMMENT) {
                    None => {
                        let problem = "a comment without an end: expected -->".into();
                        return self.refuse(start, problem);
                    }
                    Some(b'-') if self.looking_at("-->") => {
                        self.at += 3;
                        return Ok(());
                    }
                    Some(b'-') if self.looking_at("--") => {
                        let problem = "-- inside a comment: expected --> or something else".into();
                        return self.refuse(self.at, problem);
                    }
                    Some(byte) => self.other(byte)?,
                }
            }
        }
        if self.looking_at("<!DOCTYPE") {
            let problem = "a DOCTYPE is not taken: expected the root element";
            return self.refuse(start, problem.into());
        }
        if !self.looking_at("<![CDATA[") {
            let problem =
                "<! without a meaning: expected <!-- or <![CDATA[ (a < of the text is &lt;)";
            return self.refuse(start, problem.into());
        }
        if self.open.is_empty() {
            return self.refuse(
                start,
                "text beside the root element (CDATA): expected none".into(),
            );
        }
        self.at += 9;
        loop {
            match self.skip(&CDATA) {
                None => {
                    let problem = "a CDATA section without an end: expected ]]>";
                    return self.refuse(start, problem.into());
                }
                Some(b']') if self.looking_at("]]>") => {
                    self.at += 3;
                    return Ok(());
                }
                Some(byte) => self.other(byte)?,
            }
        }
    }

    fn instruction(&mut self) -> Result<(), XmlError> {
        let start = self.at;
        self.at += 2;
        let target = self.name("the target of a processing instruction after <?")?;
        if self.text[target.range()].eq_ignore_ascii_case("xml") {
            let problem = "an XML declaration where none can be: expected it as the first of the \
                           document, as <?xml version='1.0'?>, or not at all";
            return self.refuse(start, problem.into());
        }
        if !self.looking_at("?>") && !self.peek().is_some_and(is_space) {
            return self.expected("white space or ?> after the target of a processing instruction");
        }
        loop {
            match self.skip(&INSTRUCTION) {
                None => {
                    let problem = "a processing instruction without an end: expected ?>";
                    return self.refuse(start, problem.into());
                }
                Some(b'?') if self.looking_at("?>") => {
                    self.at += 2;
                    return Ok(());
                }
                Some(byte) => self.other(byte)?,
            }
        }
    }

    /// `<?xml version='1.0' encoding='UTF-8' standalone='yes'?>`, the last two optional.
    fn declaration(&mut self) -> Result<(), XmlError> {
        self.at += "<?xml".len();
        self.skip_space();
        let Some(version) = self.pseudo_attribute("version")? else {
            return self.expected("version='1.0' in the XML declaration");
        };
        let minor = self.text[version.range()].strip_prefix("1.");
        if !minor.is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit())) {
            let problem = "another version of XML: expected version='1.0'";
            return self.refuse(version.start as usize, problem.into());
        }
        let mut space = false;
        for name in ["encoding", "standalone"] {
            space |= self.skip_space();
            if !space && self.looking_at(name) {
                return self.expected("white space or ?> in the XML declaration");
            }
            if let Some(value) = self.pseudo_attribute(name)? {
                self.declared_value(name, value)?;
                space = false;
            }
        }
        self.skip_space();
        if !self.looking_at("?>") {
            return self.expected("?> of the XML declaration");
        }
        self.at += 2;
        Ok(())
    }

    fn declared_value(&mut self, name: &str, span: Span) -> Result<(), XmlError> {
        let value = &self.text[span.range()];
        let at = span.start as usize;
        if name == "standalone" {
            return match value {
                "yes" | "no" => Ok(()),
                _ => self.refuse(at, "standalone is neither: expected yes or no".into()),
            };
        }
        let is_one_of = |names: &[&str]| names.iter().any(|name| value.eq_ignore_ascii_case(name));
        if is_one_of(&["UTF-8", "UTF8"]) {
            return Ok(());
        }
        if !is_one_of(&["US-ASCII", "ASCII"]) {
            let known = value.starts_with(|c: char| c.is_ascii_alphabetic())
                && value.bytes().all(is_encoding);
            let problem = if known {
                other_encoding(value)
            } else {
                "this is no encoding: expected UTF-8".into()
            };
            return self.refuse(at, problem);
        }
        self.ascii = true;
        match self.text[at..].bytes().position(|byte| !byte.is_ascii()) {
            Some(after) => self.refuse(
                at + after,
                "a character that is not US-ASCII, which the XML declaration names: expected \
                 UTF-8 there"
                    .into(),
            ),
            None => Ok(()),
        }
    }

    /// `name='value'` of the XML declaration, if it is what comes next.
    fn pseudo_attribute(&mut self, name: &str) -> Result<Option<Span>, XmlError> {
        if !self.looking_at(name) {
            return Ok(None);
        }
        self.at += name.len();
        self.skip_space();
        if self.peek() != Some(b'=') {
            return self.expected(&format!("= after {name}"));
        }
        self.at += 1;
        self.skip_space();
        self.quoted(&format!("the value of {name} in quotes"))
            .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken() {
        for text in [
            "<a/>",
            "\u{feff}\n<!----><?p?><a></a\t>\r\n<!-- - -->",
            "<?xml version='1.0'?><a/>",
            "<?xml\tversion = \"1.1\"\nencoding='utf-8' standalone=\"no\" ?><a/>",
            "<?xml version='1.0' standalone='yes'?><a/>",
            "<?xml version='1.0' encoding='US-ASCII'?><a/>",
            "<a b='>\"]]>'>]] > ></a>",
            "<a>&lt;&gt;&amp;&apos;&quot;&#9;&#x10FFFF;&#0065;</a>",
            "<a><![CDATA[<&]]]]><![CDATA[>]]></a>",
            "<é·-.1 _='' :='' x:y=''/>",
            "<p:a q:b=''/>",
            "<a xmlns:p=''/>",
        ] {
            assert!(read(text).is_ok(), "{text}: {:?}", read(text).err());
        }
    }

    #[test]
    fn refused() {
        for (text, place, expected) in [
            ("", (1, 1), "expected one"),
            (
                " <?xml version='1.0'?><a/>",
                (1, 2),
                "expected it as the first",
            ),
            ("<?xml?><a/>", (1, 1), "expected it as the first"),
            (
                "<?xml version='1.0'?><?xml version='1.0'?><a/>",
                (1, 22),
                "expected it as the first",
            ),
            ("<?xml version='2.0'?><a/>", (1, 16), "version='1.0'"),
            (
                "<?xml version='1.0'encoding='UTF-8'?><a/>",
                (1, 20),
                "expected white space",
            ),
            (
                "<?xml version='1.0' encoding='UTF-8'standalone='no'?><a/>",
                (1, 37),
                "expected white space",
            ),
            (
                "<?xml version='1.0' standalone='x'?><a/>",
                (1, 33),
                "expected yes or no",
            ),
            ("<?xml version='1.0' x='1'?><a/>", (1, 21), "expected ?>"),
            (
                "<?xml version='1.0' encoding='UTF-16'?><a/>",
                (1, 31),
                "iconv -f UTF-16 -t UTF-8",
            ),
            (
                "<?xml version='1.0' encoding='`rm`'?><a/>",
                (1, 31),
                "no encoding",
            ),
            (
                "<?xml version='1.0' encoding='ascii'?><a é=''/>",
                (1, 42),
                "US-ASCII",
            ),
            ("x<a/>", (1, 1), "text beside the root element"),
            ("<a/>\n x", (2, 2), "expected the end of the document"),
            ("<a/><![CDATA[]]>", (1, 5), "text beside the root element"),
            ("<a/><b/>", (1, 5), "a second root element"),
            ("</a>", (1, 1), "an end tag without a start tag"),
            ("<a>\n é<b></c>", (2, 6), "expected </b> for <b> of line 2"),
            ("<a></ab>", (1, 4), "expected </a>"),
            ("<ab></a>", (1, 5), "expected </ab>"),
            ("<a></a b=''>", (1, 8), "expected > of an end tag"),
            (
                "<a></a",
                (1, 7),
                "the document ends: expected > of an end tag",
            ),
            ("<a>", (1, 4), "the end tag </a> is missing"),
            (
                "<a",
                (1, 3),
                "the document ends: expected white space, / or >",
            ),
            ("<a ", (1, 4), "expected the name of an attribute"),
            ("< a/>", (1, 2), "expected the name of an element"),
            (
                "<1a/>",
                (1, 2),
                "found `1`: expected the name of an element",
            ),
            ("<a+/>", (1, 3), "expected white space, / or >"),
            ("<a / >", (1, 5), "expected > after /"),
            ("<a b/>", (1, 5), "expected = after"),
            ("<a b=1/>", (1, 6), "in quotes"),
            ("<a b='1'c='2'/>", (1, 9), "expected white space"),
            ("<a b='1' b=\"2\"/>", (1, 10), "the attribute b again"),
            ("<a b='<'/>", (1, 7), "expected &lt;"),
            ("<a b='\n\n", (1, 6), "expected ' before the document ends"),
            ("<a b='\u{1}'/>", (1, 7), "U+0001"),
            ("<a>\u{ffff}</a>", (1, 4), "U+FFFF"),
            ("<a b='&nope;'/>", (1, 7), "&nope; is not known"),
            ("<a>&</a>", (1, 4), "expected &amp;"),
            ("<a>&lt</a>", (1, 4), "expected &amp;"),
            ("<a>&#0;</a>", (1, 4), "no character that XML allows"),
            ("<a>&#x1;</a>", (1, 4), "no character that XML allows"),
            ("<a>&#+65;</a>", (1, 4), "expected &amp;"),
            ("<a>&#xd800;</a>", (1, 4), "no character that XML allows"),
            (
                "<a>&#4294967361;</a>",
                (1, 4),
                "no character that XML allows",
            ),
            ("<a>]]></a>", (1, 4), "expected ]]&gt;"),
            ("<a><!-- -- --></a>", (1, 9), "-- inside a comment"),
            ("<a><!-- ---></a>", (1, 9), "-- inside a comment"),
            ("<a><!--></a>", (1, 4), "expected -->"),
            ("<a><![CDATA[]]</a>", (1, 4), "expected ]]>"),
            ("<a><?p</a>", (1, 7), "expected white space or ?>"),
            ("<a><?p </a>", (1, 4), "expected ?>"),
            ("<a><?XML ?></a>", (1, 4), "expected it as the first"),
            ("<a><! ></a>", (1, 4), "expected <!--"),
            ("<!DOCTYPE a><a/>", (1, 1), "a DOCTYPE is not taken"),
        ] {
            let error = read(text).map(|_| ()).unwrap_err();
            assert_eq!((error.line, error.column), place, "{text:?}: {error}");
            assert!(error.problem.contains(expected), "{text:?}: {error}");
            assert!(error.problem.contains("expected"), "{text:?}: {error}");
        }
    }

    #[test]
    fn limits() {
        let deep = "<a>".repeat(MAX_DEPTH + 1) + &"</a>".repeat(MAX_DEPTH + 1);
        let error = read(&deep).unwrap_err();
        assert!(error.problem.contains("nested deeper"), "{error}");
        assert!(read(&deep["<a>".len()..deep.len() - "</a>".len()]).is_ok());
        let large = format!("<a>{}</a>", " ".repeat(MAX_SIZE - 7));
        assert!(read(&large).is_ok());
        assert!(read(&(large + " ")).unwrap_err().problem.contains("16 MiB"));
    }

    /// Each takes minutes if a step is done again for each of the others.
    #[test]
    fn many_of_a_kind() {
        let many = 100_000;
        let attributes: String = (0..many).map(|n| format!(" xmlns:a{n}='{n}'")).collect();
        let children: String = (0..many).map(|n| format!("<a{n}:b/>")).collect();
        let text = format!("<a{attributes}>{children}</a>");
        let document = read(&text).unwrap();
        let last = document.root().children().last().unwrap();
        assert_eq!(last.namespace().unwrap(), (many - 1).to_string());
        let mut edits: Vec<_> = document.elements().map(|e| e.remove()).collect();
        edits.extend(document.elements().map(|e| e.append("<n/>")));
        assert!(document.apply(&edits).ends_with("'><n/></a>"));
    }
}
