//! RELAX NG for the tests: libvirt's installed schemas, and the overlay on one of them.
//!
//! relax-ng 0.2 has a gap: it decides what may follow an element by the element's name alone. So
//! it can't say that the second of two `<display>` elements needs another type than the first.
//! `xmllint --relaxng` can.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) use relax_ng::Schema;
use relax_ng::{
    Content, DatatypeRegistry, Element, ExpandedName, ResolveError, SchemaResolver, SchemaSource,
    SchemaSyntax,
};
use roxmltree::{Document, Node};

/// The directory of the schemas in libvirt's package, which the overlay names, too.
const INSTALLED: &str = "/usr/share/libvirt/schemas";

/// A schema against which a document is validated.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Against {
    /// The overlay, `xml-schemas/gfxplane-nodedev.rng`.
    Overlay,
    /// The overlay for any number of devices in an element `devices`, because only the start takes
    /// time.
    Overlays,
    /// libvirt's own `nodedev.rng`.
    Libvirt,
    /// The `nodedev.rng` of a libvirt that has the capability, as upstream/libvirt would have it.
    KnowingLibvirt,
    /// The overlay on such a libvirt.
    OverlayOnKnowing,
    /// libvirt's own `domain.rng`.
    Domain,
}

/// Returns what is wrong with a document, with line and column; empty if it is valid.
///
/// # Errors
/// The document is not well-formed, or the schema is missing or can't be used.
pub(crate) fn problems(against: Against, xml: &str) -> Result<Vec<String>, String> {
    problems_by(against.schema()?, xml)
}

/// Does the same with a schema that the caller has.
pub(crate) fn problems_by(schema: &Schema, xml: &str) -> Result<Vec<String>, String> {
    let document = Document::parse(xml).map_err(|error| format!("not well-formed: {error}"))?;
    let found = schema
        .validate(&DatatypeRegistry::new(), &Xml(document.root_element()))
        .map_err(|error| error.to_string())?;
    Ok(found.iter().map(ToString::to_string).collect())
}

/// Reads libvirt's `domain.rng` from another directory than the installed one.
#[allow(dead_code, reason = "tests/corpus.rs has another directory")]
pub(crate) fn domain_schema(directory: &Path) -> Result<Schema, String> {
    let source = source(&directory.join("domain.rng")).map_err(|error| error.to_string())?;
    Schema::compile(&source, &Files).map_err(|error| format!("{}: {error}", source.base_uri()))
}

/// Fails unless the document is valid.
pub(crate) fn validate(against: Against, xml: &str) -> Result<(), String> {
    let problems = problems(against, xml)?;
    if problems.is_empty() {
        return Ok(());
    }
    let problems = problems.join("\n  ");
    Err(format!(
        "not valid against {}:\n  {problems}\n{xml}",
        against.path().display()
    ))
}

/// Fails unless all these documents are valid against the overlay.
pub(crate) fn validate_all<'a>(documents: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut all = String::from("<devices>\n");
    for xml in documents {
        Document::parse(xml).map_err(|error| format!("not well-formed: {error}\n{xml}"))?;
        all.push_str(xml);
    }
    validate(Against::Overlays, &(all + "</devices>\n"))
}

impl Against {
    fn path(self) -> PathBuf {
        match self {
            Against::Overlay | Against::Overlays | Against::OverlayOnKnowing => {
                Path::new(env!("CARGO_MANIFEST_DIR")).join("xml-schemas/gfxplane-nodedev.rng")
            }
            Against::Libvirt | Against::KnowingLibvirt => directory().join("nodedev.rng"),
            Against::Domain => directory().join("domain.rng"),
        }
    }

    fn schema(self) -> Result<&'static Schema, String> {
        static OVERLAY: OnceLock<Result<Schema, String>> = OnceLock::new();
        static LIBVIRT: OnceLock<Result<Schema, String>> = OnceLock::new();
        static DOMAIN: OnceLock<Result<Schema, String>> = OnceLock::new();
        static OVERLAYS: OnceLock<Result<Schema, String>> = OnceLock::new();
        static KNOWING: OnceLock<Result<Schema, String>> = OnceLock::new();
        static OVERLAY_ON_KNOWING: OnceLock<Result<Schema, String>> = OnceLock::new();
        let schema = match self {
            Against::Overlay => OVERLAY.get_or_init(|| compile(source(&self.path()), &Files)),
            Against::Libvirt => LIBVIRT.get_or_init(|| compile(source(&self.path()), &Files)),
            Against::Domain => DOMAIN.get_or_init(|| compile(source(&self.path()), &Files)),
            Against::KnowingLibvirt => {
                KNOWING.get_or_init(|| compile(knowing(&self.path()), &KnowingFiles))
            }
            Against::OverlayOnKnowing => {
                OVERLAY_ON_KNOWING.get_or_init(|| compile(source(&self.path()), &KnowingFiles))
            }
            Against::Overlays => OVERLAYS.get_or_init(|| {
                let base = self.path();
                let many = SchemaSource::new(MANY, base.to_string_lossy(), SchemaSyntax::Xml);
                compile(Ok(many), &Files)
            }),
        };
        schema.as_ref().map_err(Clone::clone)
    }
}

fn directory() -> PathBuf {
    std::env::var_os("LIBVIRT_SCHEMAS").map_or_else(|| INSTALLED.into(), PathBuf::from)
}

const MANY: &str = r#"
<grammar xmlns="http://relaxng.org/ns/structure/1.0">
  <include href="gfxplane-nodedev.rng"/>
  <start combine="choice">
    <element name="devices"><zeroOrMore><ref name="device"/></zeroOrMore></element>
  </start>
</grammar>
"#;

/// The schema that upstream/libvirt adds to `nodedev.rng`.
const ADDED: &str = r#"
  <include href="vfio-display.rng"/>
  <define name="capability" combine="choice">
    <element name="capability">
      <attribute name="type"><value>vfio_display</value></attribute>
      <ref name="vfioDisplay"/>
    </element>
  </define>
</grammar>
"#;

fn compile(
    source: Result<SchemaSource, ResolveError>,
    files: &impl SchemaResolver,
) -> Result<Schema, String> {
    if !directory().join("nodedev.rng").is_file() {
        return Err(format!(
            "libvirt's schemas are not in {}: install package libvirt0, or set LIBVIRT_SCHEMAS \
             to where they are",
            directory().display()
        ));
    }
    let source = source.map_err(|error| error.to_string())?;
    Schema::compile(&source, files).map_err(|error| format!("{}: {error}", source.base_uri()))
}

/// Reads libvirt's `nodedev.rng` as one that has the capability.
fn knowing(path: &Path) -> Result<SchemaSource, ResolveError> {
    let text = source(path)?;
    let text = text.text().replace("</grammar>", ADDED);
    Ok(SchemaSource::new(
        text,
        path.to_string_lossy(),
        SchemaSyntax::Xml,
    ))
}

fn source(path: &Path) -> Result<SchemaSource, ResolveError> {
    let text = fs::read_to_string(path)
        .map_err(|error| ResolveError::new(format!("{}: {error}", path.display())))?;
    Ok(SchemaSource::new(
        text,
        path.to_string_lossy(),
        SchemaSyntax::Xml,
    ))
}

/// Reads the includes of a schema from beside it, and libvirt's from where they are installed.
struct Files;

impl SchemaResolver for Files {
    fn resolve(&self, href: &str, base_uri: &str) -> Result<SchemaSource, ResolveError> {
        match Path::new(href).strip_prefix(INSTALLED) {
            Ok(name) => source(&directory().join(name)),
            Err(_) => source(&Path::new(base_uri).with_file_name(href)),
        }
    }
}

/// Reads the same as [`Files`], but libvirt has the capability: its `nodedev.rng` is that of
/// [`knowing`], with the `vfio-display.rng` of this checkout beside it.
struct KnowingFiles;

impl SchemaResolver for KnowingFiles {
    fn resolve(&self, href: &str, base_uri: &str) -> Result<SchemaSource, ResolveError> {
        let libvirts = directory().join("nodedev.rng");
        match href {
            "vfio-display.rng" if Path::new(base_uri) == libvirts => {
                let ours = Against::Overlay.path().with_file_name(href);
                let text = source(&ours)?;
                Ok(SchemaSource::new(
                    text.text(),
                    libvirts.with_file_name(href).to_string_lossy(),
                    SchemaSyntax::Xml,
                ))
            }
            _ if Path::new(href) == Path::new(INSTALLED).join("nodedev.rng") => knowing(&libvirts),
            _ => Files.resolve(href, base_uri),
        }
    }
}

struct Xml<'a, 'input>(Node<'a, 'input>);

impl Element for Xml<'_, '_> {
    type Location = String;

    fn name(&self) -> ExpandedName {
        let name = self.0.tag_name();
        ExpandedName::new(name.namespace(), name.name())
    }

    fn attributes(&self) -> impl Iterator<Item = (ExpandedName, String)> {
        self.0.attributes().map(|attribute| {
            let name = ExpandedName::new(attribute.namespace(), attribute.name());
            (name, attribute.value().to_owned())
        })
    }

    fn children(&self) -> impl Iterator<Item = Content<Self>> {
        let mut children: Vec<Content<Self>> = Vec::new();
        for child in self.0.children() {
            if child.is_element() {
                children.push(Content::Element(Xml(child)));
            } else if let Some(text) = child.text().filter(|_| child.is_text()) {
                // A comment splits a text for roxmltree, but not for RELAX NG.
                match children.last_mut() {
                    Some(Content::Text(before)) => before.push_str(text),
                    _ => children.push(Content::Text(text.to_owned())),
                }
            }
        }
        children.into_iter()
    }

    fn location(&self) -> Option<String> {
        let position = self.0.document().text_pos_at(self.0.range().start);
        Some(format!("line {}, column {}", position.row, position.col))
    }
}
