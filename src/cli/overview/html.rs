//! Writes the overview as one page of HTML, for a ticket or a colleague. The page needs no other
//! file, runs no script, and is well-formed XML.

use crate::cli::overview::{groups, headline};
use crate::cli::page::{one_line, whole_command};
use crate::explain::doctor::Verdict;
use crate::plan::Level;
use crate::publish::overview::{GuestsFrom, Overview};
use crate::xml::escape;

/// The page's style, without characters that XML escapes.
const STYLE: &str = "\
:root { color-scheme: light dark; --line: #d0d7de; --good: #1a7f37; --warn: #9a6700; --bad: #cf222e; --code: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3d444d; --good: #3fb950; --warn: #d29922; --bad: #f85149; --code: #151b23; }
}
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; }
section { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem; margin: 1rem 0; }
.row { margin: .4rem 0; }
.d1 { padding-left: 1rem; }
.d2 { padding-left: 2rem; }
.verdict { font-weight: bold; font-size: .8rem; padding-right: .2rem; }
.pass { color: var(--good); }
.warn { color: var(--warn); }
.fail { color: var(--bad); }
.name { font-weight: bold; }
.problem, .look { margin: .2rem 0 .2rem 1rem; }
code { display: block; background: var(--code); border-radius: .3rem; padding: .2rem .5rem; margin: .2rem 0; white-space: pre-wrap; }
footer { font-size: .85rem; }
";

/// Returns a text as the content of an XML element, in which it can't do harm.
fn shown(text: &str) -> String {
    escape(&one_line(text))
}

fn verdict(level: Level) -> String {
    let word = Verdict::from(level).to_string();
    let class = word.to_lowercase();
    format!("<span class=\"verdict {class}\">{word}</span> ")
}

/// Returns the overview as a page of HTML.
#[must_use]
pub fn page(overview: &Overview) -> String {
    let head = shown(&headline(overview));
    let mut page = format!(
        "<!DOCTYPE html>\n\
         <html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n\
         <head>\n\
         <meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>gfxplane: {head}</title>\n\
         <style>\n{STYLE}</style>\n\
         </head>\n\
         <body>\n\
         <h1>{}{head}</h1>\n",
        verdict(overview.worst)
    );
    for group in groups(overview) {
        page.push_str("<section>\n");
        for row in group {
            page.push_str(&format!("<div class=\"row d{}\">", row.depth));
            page.push_str(&row.verdict.map(verdict).unwrap_or_default());
            page.push_str(&format!("<span class=\"name\">{}</span>", shown(&row.name)));
            let rest = row.rest();
            if !rest.is_empty() {
                page.push_str(&format!(" {}", shown(&rest)));
            }
            for problem in &row.problems {
                page.push_str(&format!(
                    "\n<div class=\"problem\">{}",
                    shown(&problem.text)
                ));
                for fix in &problem.fixes {
                    page.push_str(&format!("<code>{}</code>", escape(&whole_command(fix))));
                }
                page.push_str("</div>");
            }
            if let Some(look) = &row.look {
                page.push_str(&format!(
                    "\n<div class=\"look\">To see it:<code>{}</code></div>",
                    escape(&whole_command(look))
                ));
            }
            page.push_str("</div>\n");
        }
        page.push_str("</section>\n");
    }
    let from = match overview.guests_from {
        GuestsFrom::Libvirt => "guests according to libvirt",
        GuestsFrom::Files => "guests according to libvirt's files",
        GuestsFrom::Nowhere => "guests not known",
    };
    page.push_str(&format!(
        "<footer>gfxplane {}, kernel {}, {from}.</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        shown(&overview.kernel)
    ));
    page
}
