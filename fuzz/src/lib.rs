//! The targets of tests/support/targets, which the tests share, as fuzzing wants them: who breaks a property panics.

#[path = "../../tests/support/lossless/model.rs"]
mod model;
#[path = "../../tests/support/oracle.rs"]
mod oracle;
#[path = "../../tests/support/promises.rs"]
mod promises;
#[path = "../../tests/support/targets/mod.rs"]
mod targets;
#[path = "../../tests/support/worlds.rs"]
mod worlds;

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            /// # Panics
            /// If the input breaks a property of this target.
            pub fn $name(input: &[u8]) {
                if let Err(problem) = targets::$name::check(input) {
                    panic!("{problem}");
                }
            }
        )*
    };
}

targets! { callout fixup log nodedev record rules sysfs xml }
