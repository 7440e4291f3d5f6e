//! What the API server's errors mean to the port.

use kube::core::Status;
use shared::environment::Reason;
use shared::ports::RuntimeError;

/// The object is there already.
pub(super) fn is_taken(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.code == 409 && status.reason == "AlreadyExists")
}

/// The object is not there, or is not the one that was meant.
pub(super) fn is_gone(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| {
        status.code == 404 || (status.code == 409 && status.reason == "Conflict")
    })
}

/// An error that has no meaning of its own here.
pub(super) fn failed(what: &'static str) -> impl Fn(kube::Error) -> RuntimeError {
    move |error| match status(&error) {
        Some(status) if is_lasting(status) => RuntimeError::Failed(Reason::new(
            code(status),
            format!("{what}: {}", status.message),
        )),
        Some(status) => RuntimeError::Unavailable(format!("{what}: {}", status.message)),
        None => RuntimeError::Unavailable(format!("{what}: {error}")),
    }
}

fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// Whether the server would say the same again. A namespace, an account or a right that is missing may come.
fn is_lasting(status: &Status) -> bool {
    matches!(status.code, 400 | 403 | 413 | 422)
}

/// The server has one answer for everything that it does not allow, and tells a quota from the rest in words alone.
fn code(status: &Status) -> &'static str {
    match status.code {
        403 if status.message.contains("exceeded quota") => "quota_exceeded",
        403 => "forbidden",
        _ => "invalid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u16, reason: &str, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..Status::default()
        }))
    }

    #[test]
    fn what_lasts_is_told_from_what_passes() {
        for (status, message, expected) in [
            (
                403,
                "pods \"a\" is forbidden: exceeded quota: small",
                "quota_exceeded",
            ),
            (403, "violates PodSecurity \"restricted\"", "forbidden"),
            (422, "spec.containers[0].image: Required value", "invalid"),
        ] {
            let failed = failed("the pod cannot be made")(error(status, "", message));
            let RuntimeError::Failed(reason) = failed else {
                panic!("{failed:?}");
            };
            assert_eq!(reason.code, expected);
            assert!(reason.message.contains(message), "{reason:?}");
        }
        for status in [401, 404, 429, 500, 503] {
            let failed = failed("the pod cannot be made")(error(status, "", "later"));
            assert!(matches!(failed, RuntimeError::Unavailable(_)), "{failed:?}");
        }
    }

    #[test]
    fn a_conflict_is_not_a_name_that_is_taken() {
        assert!(is_taken(&error(409, "AlreadyExists", "")));
        assert!(!is_taken(&error(409, "Conflict", "")));
        assert!(is_gone(&error(409, "Conflict", "")));
        assert!(is_gone(&error(404, "NotFound", "")));
        assert!(!is_gone(&error(500, "", "")));
    }
}
