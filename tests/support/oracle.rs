//! Asks roxmltree, which shares nothing with our own parser, and says about which names it can be
//! asked.

use gfxplane::xml;
use roxmltree::Document;

/// Parses a document.
///
/// # Errors
/// The document can't be used: roxmltree refuses it, or reads it otherwise than libxml2, and so
/// libvirt, does.
pub(crate) fn parse(text: &str) -> Result<Document<'_>, String> {
    let ours = xml::Document::parse(text).map_err(|error| error.to_string())?;
    if !reads_names_as_libxml2(&ours) {
        return Err("roxmltree parts a name elsewhere than libxml2".into());
    }
    // roxmltree does not handle the byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Document::parse(text).map_err(|error| format!("roxmltree: {error}"))
}

/// Returns whether roxmltree splits all names of the document as libxml2 does.
pub(crate) fn reads_names_as_libxml2(document: &xml::Document<'_>) -> bool {
    document.elements().all(|element| {
        let mut names = element.attributes().map(|(name, _)| name);
        is_alike(element.name()) && names.all(is_alike)
    })
}

fn is_alike(name: &str) -> bool {
    !is_no_qualified_name(name) && !is_taken_for_a_default(name)
}

/// Returns whether libxml2 only warns of a name and takes it as it is. roxmltree splits such a name
/// elsewhere (`:a` is `a` to it), or refuses it.
fn is_no_qualified_name(name: &str) -> bool {
    let bad = |part: &str| {
        part.is_empty() || part.starts_with(|c: char| !(c.is_alphabetic() || c == '_'))
    };
    name.matches(':').count() > 1 || name.split(':').any(bad)
}

/// Returns whether roxmltree takes an attribute like `p:xmlns` for a declaration, because it looks
/// only at what follows the colon. It is an attribute like others (Namespaces in XML 1.0, 3: only
/// `xmlns` without a prefix declares a default).
fn is_taken_for_a_default(name: &str) -> bool {
    name.ends_with(":xmlns")
}
