//! Whatever the bytes: no panic; what is taken comes back to the byte, reads as roxmltree reads
//! it, and edits change what they should and nothing else.
//!
//! Input: a document, and after the first NUL (which no document has) bytes that say what edits.

#![no_main]

use gfxplane::xml::{Document, from_bytes};
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/lossless/model.rs"]
mod model;

use model::{FRAGMENTS, NAMES, Op, check};

/// Each takes time for several parses.
const MOST_EDITS: usize = 12;

const TEXTS: [&str; 8] = ["", "x", "<&>", "'", "\"", "\t\r\n", "]]>\u{1}", "\u{e9} "];

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let text = parts.next().unwrap_or_default().to_vec();
    let Ok(text) = from_bytes(text) else { return };
    if Document::parse(&text).is_err() {
        return;
    }
    let ops: Vec<Op> = parts
        .next()
        .unwrap_or_default()
        .chunks_exact(3)
        .take(MOST_EDITS)
        .map(|bytes| op(bytes[0], bytes[1] as usize, bytes[2] as usize))
        .collect();
    if let Err(problem) = check(&text, &ops) {
        panic!("{problem}");
    }
});

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
