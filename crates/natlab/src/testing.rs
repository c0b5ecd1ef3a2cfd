//! Helpers for test binaries that use libtest-mimic (feature `testing`).

use libtest_mimic::{Completion, Failed, Trial};

use crate::availability;

/// The value of the variable given to [`trial`] that turns "can't run here" into a failure.
pub const REQUIRED: &str = "required";

/// A test that needs a lab.
///
/// Where none can run it is reported as ignored, with the reason; where the environment variable `variable` is
/// [`REQUIRED`] it fails with that reason instead, so that a machine which is meant to run them all can't pass by
/// skipping them.
///
/// The test passes when `test` returns and fails when it panics.
pub fn trial(name: impl Into<String>, variable: &'static str, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match availability() {
        Ok(()) => {
            test();
            Ok(Completion::Completed)
        }
        Err(missing) if std::env::var(variable).is_ok_and(|value| value == REQUIRED) => {
            Err(Failed::from(format!("{variable}={REQUIRED}, but the lab can't run here: {missing}")))
        }
        Err(missing) => Ok(Completion::ignored_with(missing.reason())),
    })
}
