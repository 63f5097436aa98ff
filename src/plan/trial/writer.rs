//! Writes copies of XML elements that keep only listed parts.

use crate::xml::{Element, escape};

/// The name of an element, and the parts of it that are kept.
pub(super) struct Keep {
    pub(super) name: &'static str,
    pub(super) attributes: &'static [&'static str],
    pub(super) children: &'static [Keep],
}

impl Keep {
    pub(super) const fn leaf(name: &'static str, attributes: &'static [&'static str]) -> Self {
        Keep {
            name,
            attributes,
            children: &[],
        }
    }
}

/// Writes XML with libvirt's indentation and quotes.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) text: String,
    pub(super) depth: usize,
}

impl Writer {
    pub(super) fn inside(depth: usize) -> Self {
        Writer {
            text: String::new(),
            depth,
        }
    }

    fn start(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.push('<');
        self.text.push_str(name);
        for (name, value) in attributes {
            self.text.push_str(&format!(" {name}='{}'", escape(value)));
        }
    }

    pub(super) fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.start(name, attributes);
        self.text.push_str(">\n");
        self.depth += 1;
    }

    pub(super) fn close(&mut self, name: &str) {
        self.depth -= 1;
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.push_str(&format!("</{name}>\n"));
    }

    pub(super) fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.start(name, attributes);
        self.text.push_str("/>\n");
    }

    pub(super) fn leaf(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.start(name, attributes);
        self.text.push_str(&format!(">{}</{name}>\n", escape(text)));
    }

    /// Writes a copy of an element that has only the parts in `keep`. The element's text is a part
    /// if `keep` lists neither attributes nor children.
    pub(super) fn copy(&mut self, element: Element<'_, '_>, keep: &Keep) {
        let values: Vec<(&str, String)> = keep
            .attributes
            .iter()
            .filter_map(|name| Some((*name, element.attribute(name)?.into_owned())))
            .collect();
        let attributes: Vec<(&str, &str)> = values.iter().map(|(n, v)| (*n, v.as_str())).collect();
        if keep.children.is_empty() {
            match element.text().filter(|text| !text.trim().is_empty()) {
                Some(text) if keep.attributes.is_empty() => {
                    self.leaf(keep.name, &attributes, text.trim());
                }
                _ => self.empty(keep.name, &attributes),
            }
            return;
        }
        let mut inner = Writer::inside(self.depth + 1);
        for child in element.children() {
            if let Some(keep) = keep.children.iter().find(|keep| keep.name == child.name()) {
                inner.copy(child, keep);
            }
        }
        self.wrap(keep.name, &attributes, &inner);
    }

    /// Writes an element whose content is the text of `inner`.
    pub(super) fn wrap(&mut self, name: &str, attributes: &[(&str, &str)], inner: &Writer) {
        if inner.text.is_empty() {
            self.empty(name, attributes);
        } else {
            self.open(name, attributes);
            self.text.push_str(&inner.text);
            self.close(name);
        }
    }
}
