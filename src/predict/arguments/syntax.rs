//! Reads the syntax of QEMU's options.

/// Reads QEMU's option syntax, `KEY=VALUE,KEY=VALUE` (`get_opt_name_value`, util/qemu-option.c).
/// `,,` in a value is a comma. A first word without `=` is the value of the key `implied`, unless
/// `implied` is empty. Any other `KEY` without `=` is on, and any other `noKEY` is off.
pub(crate) fn pairs(text: &str, implied: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut first = true;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let is_implied = std::mem::take(&mut first) && !implied.is_empty();
        if rest[end..].starts_with('=') {
            let (value, after) = option_value(&rest[end + 1..]);
            found.push((rest[..end].to_owned(), value));
            rest = after;
        } else if is_implied {
            let (value, after) = option_value(rest);
            found.push((implied.to_owned(), value));
            rest = after;
        } else {
            let (key, value) = match rest[..end].strip_prefix("no") {
                Some(key) => (key, "off"),
                None => (&rest[..end], "on"),
            };
            found.push((key.to_owned(), value.to_owned()));
            rest = rest.get(end + 1..).unwrap_or_default();
        }
    }
    found
}

/// Returns the value up to the first comma that is not doubled, and the text after that comma.
fn option_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        value.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, rest),
        }
    }
    value.push_str(rest);
    (value, "")
}

/// Returns the members of a JSON object, as texts; `None` if the text is not a JSON object.
pub(super) fn json_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let serde_json::Value::Object(object) = serde_json::from_str(text).ok()? else {
        return None;
    };
    let word = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        serde_json::Value::Bool(on) => if on { "on" } else { "off" }.to_owned(),
        other => other.to_string(),
    };
    Some(object.into_iter().map(|(key, v)| (key, word(v))).collect())
}

pub(super) fn is_on(value: &str) -> bool {
    matches!(value, "on" | "yes" | "true" | "y")
}
