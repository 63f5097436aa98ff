//! Resolves the namespaces of names, as libxml2 does.

use std::collections::HashMap;

use super::is_name_start;
use crate::xml::{Namespace, Span};

/// Splits a name into prefix and local name. Returns `None` if it has no colon or, as in libxml2,
/// if its parts would not be names.
pub(in crate::xml) fn split(name: &str) -> Option<(&str, &str)> {
    let (prefix, local) = name.split_once(':')?;
    let starts = |c| c != ':' && is_name_start(c);
    (!prefix.is_empty() && local.starts_with(starts)).then_some((prefix, local))
}

pub(in crate::xml) const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// The namespaces that are declared where the document is being read. quick-xml's own resolver
/// refuses what libxml2 ignores, and searches all declarations for each name.
#[derive(Default)]
pub(super) struct Scope<'a> {
    pub(super) declarations: Vec<Span>,
    default: Option<u32>,
    prefixes: HashMap<&'a str, u32>,
    /// For each declaration: its element's depth, its prefix (empty for the default namespace), and
    /// the earlier declaration of this prefix, to restore when the element ends.
    shadowed: Vec<(usize, &'a str, Option<u32>)>,
}

impl<'a> Scope<'a> {
    /// Notes the namespace that an attribute declares, if it declares one. `uri` is the attribute's
    /// value, `span` is the value's place, and `depth` is the element's depth. As in libxml2,
    /// ignores a declaration that is not allowed.
    pub(super) fn declare(&mut self, depth: usize, name: &'a str, uri: &str, span: Span) {
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

    /// Forgets the declarations of the element that ends at this depth, and restores the earlier
    /// ones.
    pub(super) fn leave(&mut self, depth: usize) {
        while let Some((_, prefix, before)) = self.shadowed.pop_if(|(at, ..)| *at == depth) {
            match (prefix, before) {
                ("", before) => self.default = before,
                (_, Some(before)) => drop(self.prefixes.insert(prefix, before)),
                (_, None) => drop(self.prefixes.remove(prefix)),
            }
        }
    }

    pub(super) fn resolve(&self, name: &str) -> Namespace {
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
