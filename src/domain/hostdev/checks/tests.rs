use crate::device::version::Version;
use crate::domain::tests::with;

/// The rows of tests/vm/hostdevs.tsv: devices, libvirt 11.3's message, and those of 9.0 and 12.8 if
/// they are others. `tests/vm/test messages` asks these versions. Checks that concern more than one
/// hostdev are in the tables of `predict::libvirt_checks`.
#[test]
fn hostdevs_that_libvirt_refuses() {
    let elsewhere = ["Unsupported address type", "non unique alias", "Attempted"];
    for row in include_str!("../../../../tests/vm/hostdevs.tsv").lines() {
        let [xml, words @ ..] = &row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        for (number, version) in [[11, 3], [9, 0], [12, 8]].iter().enumerate() {
            let other = words.get(number).filter(|words| !words.is_empty());
            let words = other.unwrap_or(&words[0]);
            let version = Version::of(version);
            let words = words.replace("VIRT", "kvm");
            let found = with(xml, |domain| {
                let settings = &domain.settings;
                let all = settings.misread.iter().chain(&settings.unfit);
                let mut all = all.filter(|error| error.versions.contains(&version));
                let first = all.next().map(|error| error.message.clone());
                let twice = "Hostdev already exists in the domain configuration";
                first.or(settings.has_a_device_twice.then(|| twice.to_owned()))
            });
            let is_elsewhere = elsewhere.iter().any(|start| words.starts_with(start));
            let expected = (words != "-" && !is_elsewhere).then_some(words);
            assert_eq!(found, expected, "libvirt {version}: {xml}");
        }
    }
}
