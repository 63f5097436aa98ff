//! Makes and recognizes the names of domains for trials.

use uuid::Uuid;

/// The prefix of the names of all domains for trials. gfxplane's own hook must let these domains
/// start without a wait, because a trial has already waited until its devices were free.
pub(crate) const NAME: &str = "gfxplane-verify-";

/// Returns the name of the trial's domain with this UUID. The name also shows that the log of the
/// domain is gfxplane's.
pub fn name(uuid: Uuid) -> String {
    format!("{NAME}{}", uuid.simple())
}

/// Returns whether [`name`] could have made this name.
pub(crate) fn is_name(text: &str) -> bool {
    uuid_of(text).is_some()
}

/// Returns the UUID in a name that [`name`] has made; `None` for any other name.
pub(crate) fn uuid_of(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text.strip_prefix(NAME)?).ok()?;
    (name(uuid) == text).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(0x1234);

    #[test]
    fn names() {
        assert!(is_name(&name(Uuid::new_v4())));
        for text in [
            "guest",
            NAME,
            "gfxplane-verify-1",
            &(name(ID) + "0"),
            &name(ID).to_uppercase(),
        ] {
            assert!(!is_name(text), "{text}");
        }
    }
}
