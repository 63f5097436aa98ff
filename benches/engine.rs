//! How fast the XML engine reads the documents of a directory: prints bytes per second, one round
//! a line. `benches/libxml2.c` does the same; `benches/domains.py` sets them side by side.
//!
//! `cargo bench --bench engine -- DIRECTORY ROUNDS`

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::time::Instant;

use gfxplane::xml::Document;

fn main() {
    let arguments: Vec<String> = std::env::args().filter(|a| a != "--bench").collect();
    let [_, directory, rounds] = &arguments[..] else {
        eprintln!("usage: engine DIRECTORY ROUNDS");
        std::process::exit(2);
    };
    let rounds: u32 = rounds.parse().expect("ROUNDS is a number");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("DIRECTORY can be read")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .collect();
    files.sort();
    let texts: Vec<String> = files
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    for _ in 0..rounds {
        let began = Instant::now();
        let elements: usize = texts
            .iter()
            .filter_map(|text| Document::parse(text).ok())
            .map(|document| document.elements().count())
            .sum();
        assert!(elements > 0, "nothing was read");
        println!("{:.0}", bytes as f64 / began.elapsed().as_secs_f64());
    }
}
