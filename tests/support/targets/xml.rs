//! Checks that a document that is accepted comes back to the byte, reads as roxmltree reads it, and
//! that edits change what they should and nothing else.
//!
//! Input: a document, and after the first NUL bytes that stand for edits.

use gfxplane::xml::{Document, from_bytes};

use super::parts;
use crate::model::{FRAGMENTS, NAMES, Op, check as check_edits};

/// The greatest number of edits. Each takes the time of several parses.
const MOST_EDITS: usize = 12;

const TEXTS: [&str; 8] = ["", "x", "<&>", "'", "\"", "\t\r\n", "]]>\u{1}", "\u{e9} "];

/// Checks one input.
///
/// # Errors
/// The property that it breaks.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    let [text, ops] = parts(input);
    let Ok(text) = from_bytes(text.to_vec()) else {
        return Ok(());
    };
    if Document::parse(&text).is_err() {
        return Ok(());
    }
    let ops: Vec<Op> = ops
        .chunks_exact(3)
        .take(MOST_EDITS)
        .map(|bytes| op(bytes[0], bytes[1] as usize, bytes[2] as usize))
        .collect();
    check_edits(&text, &ops)
}

fn op(kind: u8, element: usize, what: usize) -> Op {
    let name = NAMES[what % NAMES.len()];
    let text = TEXTS[what / NAMES.len() % TEXTS.len()].to_owned();
    let xml = FRAGMENTS[what / NAMES.len() % FRAGMENTS.len()];
    match kind % 6 {
        0 => Op::Set(element, name, text),
        1 => Op::Unset(element, name),
        2 => Op::Text(element, text),
        3 => Op::Remove(element),
        4 => Op::Append(element, xml),
        _ => Op::Before(element, vec![name, NAMES[what % 3]], xml),
    }
}
