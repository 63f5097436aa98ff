//! Says what edits must do, on a tree that roxmltree reads, and checks what they did. The fuzz
//! target uses it, too, so it knows no test library.

use std::collections::BTreeMap;

use gfxplane::xml::{Document, Edit, Element};
use roxmltree::{Node, ParsingOptions};

use super::oracle::reads_names_as_libxml2;

/// An edit. The number is that of the element, modulo the number of elements.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Set(usize, &'static str, String),
    Unset(usize, &'static str),
    Text(usize, String),
    Remove(usize),
    Append(usize, &'static str),
    Before(usize, Vec<&'static str>, &'static str),
}

/// The names that operations use.
pub(crate) const NAMES: [&str; 5] = ["a", "b", "c", "d", "x"];

/// The fragments that are inserted. Their names begin with `new`, so that they can be found.
pub(crate) const FRAGMENTS: [&str; 4] = [
    "<new/>",
    "<new1 a='&lt;&quot;'>t</new1>",
    "<new2>\n  <b>\n    <c/>\n  </b>\n  <d/>\n</new2>",
    "<new3\n  a='1'>two\n lines</new3>",
];

impl Op {
    fn element(&self) -> usize {
        match self {
            Op::Set(element, ..)
            | Op::Unset(element, _)
            | Op::Text(element, _)
            | Op::Remove(element)
            | Op::Append(element, _)
            | Op::Before(element, ..) => *element,
        }
    }

    fn edit(&self, element: Element<'_, '_>) -> Edit {
        match self {
            Op::Set(_, name, value) => element.set_attribute(name, value),
            Op::Unset(_, name) => element.remove_attribute(name),
            Op::Text(_, text) => element.set_text(text),
            Op::Remove(_) => element.remove(),
            Op::Append(_, xml) => element.append(xml),
            Op::Before(_, names, xml) => element.insert_before(names, xml),
        }
    }
}

/// An element, as far as edits change it. White space that indents is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    name: String,
    attributes: BTreeMap<String, String>,
    children: Vec<Tree>,
    /// All of its own text, without white space.
    text: String,
    /// The text to the byte, for an element without elements.
    exact: Option<String>,
    /// The comments and processing instructions.
    comments: Vec<String>,
}

/// Checks a document and these operations, each alone and all at once.
pub(crate) fn check(text: &str, ops: &[Op]) -> Result<(), String> {
    let document = Document::parse(text).map_err(|error| format!("it is refused: {error}"))?;
    if document.apply(&[]) != text || document.text() != text {
        return Err("without an edit, it is changed".into());
    }
    if !reads_names_as_libxml2(&document) {
        return Ok(());
    }
    let text_for_oracle = line_feeds(text);
    let Some(oracle) = oracle(&text_for_oracle)? else {
        return Ok(());
    };
    reads_the_same(&document, &oracle)?;
    let elements: Vec<Element<'_, '_>> = document.elements().collect();
    for element in &elements {
        for (name, value) in element.attributes() {
            if document.apply(&[element.set_attribute(name, &value)]) != text {
                return Err(format!("{name} set to what it is changes something"));
            }
        }
        if let Some(present) = element.text()
            && document.apply(&[element.set_text(&present)]) != text
        {
            return Err("a text set to what it is changes something".into());
        }
    }
    for op in ops {
        let element = elements[op.element() % elements.len()];
        let result = document.apply(&[op.edit(element)]);
        stays_inside(op, element, text, &result).map_err(|error| format!("{op:?}: {error}"))?;
        does_what_is_asked(&document, &oracle, std::slice::from_ref(op))?;
        if let Op::Append(..) | Op::Before(..) = op {
            can_be_removed(element, text, &result).map_err(|error| format!("{op:?}: {error}"))?;
        }
    }
    does_what_is_asked(&document, &oracle, ops)
}

/// Turns carriage returns that stand alone into line feeds. XML says that they are the same, and
/// roxmltree forgets it at the end of a text.
fn line_feeds(text: &str) -> String {
    let parts: Vec<String> = text
        .split("\r\n")
        .map(|part| part.replace('\r', "\n"))
        .collect();
    parts.join("\r\n")
}

/// Returns roxmltree's reading; `None` if it refuses what libxml2 accepts, all of it about
/// namespaces.
fn oracle(text: &str) -> Result<Option<roxmltree::Document<'_>>, String> {
    use roxmltree::Error::{
        DuplicatedAttribute, DuplicatedNamespace, InvalidAttributeValue, InvalidElementNamePrefix,
        InvalidName, InvalidXmlPrefixUri, UnexpectedXmlUri, UnexpectedXmlnsUri, UnknownNamespace,
    };
    let options = ParsingOptions {
        nodes_limit: u32::MAX,
        ..ParsingOptions::default()
    };
    match roxmltree::Document::parse_with_options(text, options) {
        Ok(oracle) => {
            // There is no such declaration (Namespaces in XML 1.0). libxml2 ignores it, roxmltree
            // does not.
            let is_empty = (oracle.descendants())
                .flat_map(|node| node.namespaces())
                .any(|namespace| namespace.name().is_some() && namespace.uri().is_empty());
            Ok((!is_empty).then_some(oracle))
        }
        Err(
            UnknownNamespace(..)
            | DuplicatedAttribute(..)
            | DuplicatedNamespace(..)
            | InvalidElementNamePrefix(_)
            | InvalidXmlPrefixUri(_)
            | UnexpectedXmlUri(_)
            | UnexpectedXmlnsUri(_)
            | InvalidAttributeValue(_)
            | InvalidName(_),
        ) if text.contains(':') => Ok(None),
        Err(error) => Err(format!("roxmltree refuses it: {error}\n{text}")),
    }
}

/// Checks that both readings have the same elements, names, namespaces, attributes and texts.
fn reads_the_same(document: &Document<'_>, oracle: &roxmltree::Document<'_>) -> Result<(), String> {
    let theirs: Vec<Node<'_, '_>> = elements(oracle).collect();
    let ours: Vec<Element<'_, '_>> = document.elements().collect();
    if ours.len() != theirs.len() {
        return Err(format!("{} elements, not {}", ours.len(), theirs.len()));
    }
    for (our, their) in ours.iter().zip(&theirs) {
        let name = their.tag_name();
        if !our.is(name.namespace().filter(|uri| !uri.is_empty()), name.name()) {
            return Err(format!(
                "{} of {:?} reads as {name:?}",
                our.name(),
                our.namespace()
            ));
        }
        if our.span() != their.range() {
            return Err(format!("{} is at {:?}", our.name(), our.span()));
        }
        let position = oracle.text_pos_at(our.span().start);
        if our.position() != (position.row as usize, position.col as usize)
            && oracle.input_text() == document.text()
            && !document.text().starts_with('\u{feff}')
        {
            return Err(format!("{position}, not {:?}", our.position()));
        }
        let kept = our
            .attributes()
            .filter(|(name, _)| *name != "xmlns" && !name.starts_with("xmlns:"));
        let ours: Vec<String> = kept.map(|(_, value)| value.into_owned()).collect();
        let theirs: Vec<&str> = their.attributes().map(|a| a.value()).collect();
        if ours != theirs {
            return Err(format!("{ours:?}, not {theirs:?}"));
        }
        if our.text().map(String::from) != exact(*their) {
            return Err(format!("{:?}, not {:?}", our.text(), exact(*their)));
        }
        let parent = their.parent_element().map(|parent| parent.range());
        if our.parent().map(|parent| parent.span()) != parent
            || our.children().map(|child| child.span()).collect::<Vec<_>>()
                != their
                    .children()
                    .filter(Node::is_element)
                    .map(|child| child.range())
                    .collect::<Vec<_>>()
        {
            return Err(format!("{} has other relatives", our.name()));
        }
    }
    Ok(())
}

fn elements<'d, 'a>(oracle: &'d roxmltree::Document<'a>) -> impl Iterator<Item = Node<'d, 'a>> {
    oracle.descendants().filter(Node::is_element)
}

/// Checks that the bytes that one edit changes are those of its element.
fn stays_inside(op: &Op, element: Element<'_, '_>, text: &str, result: &str) -> Result<(), String> {
    let mut span = element.span();
    if let Op::Remove(_) = op {
        span.start = text[..span.start].trim_ascii_end().len();
    }
    let (before, after) = (&text[..span.start], &text[span.end..]);
    if result.len() < before.len() + after.len()
        || !result.starts_with(before)
        || !result.ends_with(after)
    {
        return Err(format!("it changes more:\n{text}\n->\n{result}"));
    }
    Ok(())
}

/// Checks that an insertion between or after children can be removed without a trace.
fn can_be_removed(element: Element<'_, '_>, text: &str, result: &str) -> Result<(), String> {
    // A lone carriage return before a new line feed would look like one line end.
    let alone = line_feeds(text) != text;
    if element.children().next().is_none() || alone || text.contains("new") {
        return Ok(());
    }
    let document = Document::parse(result).map_err(|error| error.to_string())?;
    let new = document
        .elements()
        .find(|element| element.name().starts_with("new"))
        .ok_or("it is not there")?;
    let back = document.apply(&[new.remove()]);
    if back == text {
        Ok(())
    } else {
        Err(format!("a trace stays:\n{result}\n->\n{back}"))
    }
}

fn does_what_is_asked(
    document: &Document<'_>,
    oracle: &roxmltree::Document<'_>,
    ops: &[Op],
) -> Result<(), String> {
    let ours: Vec<Element<'_, '_>> = document.elements().collect();
    let edits: Vec<Edit> = ops
        .iter()
        .map(|op| op.edit(ours[op.element() % ours.len()]))
        .collect();
    let result = document.apply(&edits);
    let problem = |error: String| format!("{ops:?}: {error}\n{}\n->\n{result}", document.text());
    let after = Document::parse(&result).map_err(|error| problem(error.to_string()))?;
    let result_for_oracle = line_feeds(&result);
    let Some(their) = self::oracle(&result_for_oracle).map_err(problem)? else {
        return Err(problem("roxmltree refuses it now".into()));
    };
    reads_the_same(&after, &their).map_err(problem)?;
    let mut of_element: BTreeMap<usize, Vec<&Op>> = BTreeMap::new();
    let theirs: Vec<usize> = elements(oracle).map(|node| node.id().get_usize()).collect();
    for op in ops {
        let id = theirs[op.element() % theirs.len()];
        of_element.entry(id).or_default().push(op);
    }
    let expected = edited(oracle.root(), &of_element).ok_or_else(|| problem("no root".into()))?;
    let found = edited(their.root(), &BTreeMap::new()).ok_or_else(|| problem("no root".into()))?;
    same(&expected, &found).map_err(problem)
}

/// Returns the tree of a node with the operations made; `None` if it is removed.
fn edited(node: Node<'_, '_>, ops: &BTreeMap<usize, Vec<&Op>>) -> Option<Tree> {
    let of_this = ops
        .get(&node.id().get_usize())
        .map_or(&[][..], Vec::as_slice);
    let is_root = node.parent().is_some_and(|parent| parent.is_root());
    if !is_root && of_this.iter().any(|op| matches!(op, Op::Remove(_))) {
        return None;
    }
    let mut tree = Tree {
        name: node.tag_name().name().to_owned(),
        attributes: node
            .attributes()
            .map(|a| (format!("{:?}{}", a.namespace(), a.name()), a.value().into()))
            .collect(),
        children: Vec::new(),
        text: String::new(),
        exact: exact(node),
        comments: Vec::new(),
    };
    let mut text = None;
    let mut inserts: Vec<(Option<usize>, &str)> = Vec::new();
    for op in of_this {
        match op {
            Op::Set(_, name, value) => {
                let value = value.chars().map(allowed).collect();
                tree.attributes.insert(format!("None{name}"), value);
            }
            Op::Unset(_, name) => drop(tree.attributes.remove(&format!("None{name}"))),
            Op::Text(_, new) => text = Some(new.chars().map(allowed).collect::<String>()),
            Op::Remove(_) => {}
            Op::Append(_, xml) => inserts.push((None, xml)),
            Op::Before(_, names, xml) => {
                let before = node
                    .children()
                    .find(|child| child.is_element() && names.contains(&qualified(*child)));
                inserts.push((before.map(|before| before.id().get_usize()), xml));
            }
        }
    }
    let new_text = text.filter(|text| tree.exact.as_ref() != Some(text));
    for child in node.children().take_while(|_| new_text.is_none()) {
        if child.is_comment() {
            tree.comments.push(child.text().unwrap_or("").into());
        } else if let Some(pi) = child.pi() {
            tree.comments.push(format!("{pi:?}"));
        } else if child.is_text() {
            tree.text.extend(visible(child.text().unwrap_or("")));
        } else if child.is_element() {
            let new = inserts
                .iter()
                .filter(|insert| insert.0 == Some(child.id().get_usize()));
            tree.children.extend(new.map(|(_, xml)| fragment(xml)));
            tree.children.extend(edited(child, ops));
        }
    }
    let all = new_text.is_some();
    let last = inserts.iter().filter(|insert| all || insert.0.is_none());
    tree.children.extend(last.map(|(_, xml)| fragment(xml)));
    if let Some(text) = new_text {
        tree.text = visible(&text).collect();
        tree.exact = Some(text);
    }
    if !inserts.is_empty() {
        tree.exact = None;
    }
    Some(tree)
}

/// Returns the name with its prefix.
fn qualified<'a>(node: Node<'_, 'a>) -> &'a str {
    let tag = &node.document().input_text()[node.range()][1..];
    let end = tag.find(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>');
    &tag[..end.unwrap_or(tag.len())]
}

fn fragment(xml: &str) -> Tree {
    let oracle = roxmltree::Document::parse(xml).expect("it is well-formed");
    edited(oracle.root_element(), &BTreeMap::new()).expect("nothing is removed")
}

fn same(expected: &Tree, found: &Tree) -> Result<(), String> {
    let mut plain = found.clone();
    plain.children.clone_from(&expected.children);
    if expected.exact.is_none() {
        plain.exact = None;
    }
    if *expected != plain || expected.children.len() != found.children.len() {
        return Err(format!("expected {expected:?}\nfound {found:?}"));
    }
    let mut children = expected.children.iter().zip(&found.children);
    children.try_for_each(|(expected, found)| same(expected, found))
}

/// Returns all of its text, if it has no elements.
fn exact(node: Node<'_, '_>) -> Option<String> {
    if !node.is_element() || node.children().any(|child| child.is_element()) {
        return None;
    }
    let texts = node.children().filter(Node::is_text);
    Some(texts.filter_map(|text| text.text()).collect())
}

fn visible(text: &str) -> impl Iterator<Item = char> {
    text.chars()
        .filter(|c| !matches!(c, ' ' | '\t' | '\n' | '\r'))
}

/// Returns the character as which a character is written.
fn allowed(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' => c,
        '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        _ => c,
    }
}
