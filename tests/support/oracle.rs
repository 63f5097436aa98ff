//! roxmltree, which shares nothing with our own parser, and the names of which it can be asked.

use gfxplane::xml;
use roxmltree::Document;

/// # Errors
/// What roxmltree refuses, and what it takes but reads otherwise than libxml2, and so libvirt, does:
/// of such a document it can't be asked anything.
pub(crate) fn parse(text: &str) -> Result<Document<'_>, String> {
    let ours = xml::Document::parse(text).map_err(|error| error.to_string())?;
    if !reads_names_as_libxml2(&ours) {
        return Err("roxmltree parts a name elsewhere than libxml2".into());
    }
    // The byte order mark is not roxmltree's affair.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Document::parse(text).map_err(|error| format!("roxmltree: {error}"))
}

/// Whether roxmltree parts all names of the document as libxml2 does.
pub(crate) fn reads_names_as_libxml2(document: &xml::Document<'_>) -> bool {
    document.elements().all(|element| {
        let mut names = element.attributes().map(|(name, _)| name);
        is_alike(element.name()) && names.all(is_alike)
    })
}

fn is_alike(name: &str) -> bool {
    !is_no_qualified_name(name) && !is_taken_for_a_default(name)
}

/// libxml2 only warns of these and takes them as they are; roxmltree parts them elsewhere (`:a` is
/// `a` to it), or refuses them.
fn is_no_qualified_name(name: &str) -> bool {
    let bad = |part: &str| {
        part.is_empty() || part.starts_with(|c: char| !(c.is_alphabetic() || c == '_'))
    };
    name.matches(':').count() > 1 || name.split(':').any(bad)
}

/// `p:xmlns` is an attribute like others (Namespaces in XML 1.0, 3: a default is declared by `xmlns`
/// without a prefix); roxmltree looks at what is behind the colon only and takes it for a declaration.
fn is_taken_for_a_default(name: &str) -> bool {
    name.ends_with(":xmlns")
}
