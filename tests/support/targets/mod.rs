//! The functions that are fuzzed: one for each target of `fuzz/`, which takes any bytes and returns
//! the property that they break. `fuzz/` makes up the bytes; `tests/seeds.rs` runs those that are
//! kept in `fuzz/seeds`.

pub(crate) mod callout;
pub(crate) mod fixup;
pub(crate) mod log;
pub(crate) mod nodedev;
pub(crate) mod record;
pub(crate) mod rules;
pub(crate) mod sysfs;
pub(crate) mod xml;

use roxmltree::Node;

/// Splits an input into its parts. No text that anything here takes contains a NUL.
pub(crate) fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut parts = input.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Fails unless both are the same.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:#?}, expected {expected:#?}"))
}

/// Returns an element and all in it as lines without white space, and without what `left_out`
/// names.
pub(crate) fn outline(
    node: Node<'_, '_>,
    left_out: &dyn Fn(Node<'_, '_>) -> bool,
    lines: &mut Vec<String>,
) {
    if left_out(node) {
        return;
    }
    if node.is_element() {
        let mut attributes: Vec<String> = node
            .attributes()
            .map(|a| format!("{:?} {}={:?}", a.namespace(), a.name(), a.value()))
            .collect();
        attributes.sort();
        lines.push(format!("<{:?} {attributes:?}", node.tag_name()));
        for child in node.children() {
            outline(child, left_out, lines);
        }
        lines.push(">".into());
    } else if let Some(pi) = node.pi() {
        lines.push(format!("{pi:?}"));
    } else {
        let text: String = node.text().unwrap_or_default().split_whitespace().collect();
        if node.is_comment() {
            lines.push(format!("<!--{text}"));
        } else if let Some(before) = lines.last_mut().filter(|line| line.starts_with('"')) {
            // The text between them is left out.
            before.push_str(&text);
        } else if !text.is_empty() {
            lines.push(format!("\"{text}"));
        }
    }
}
