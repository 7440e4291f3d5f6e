//! What stands in a message: the job's place, and nothing of the job.

use crate::ids::JobRef;
use crate::ports::QueueError;

/// Bytes of a message at most: a tenant of 63 characters, an id of 36, and their names.
const LENGTH_MOST: usize = 512;

/// The body of a hint.
pub(super) fn encode(at: &JobRef) -> Result<Vec<u8>, QueueError> {
    serde_json::to_vec(at).map_err(|error| QueueError::Unavailable(error.to_string()))
}

/// The hint of a body; none where it is something else.
pub(super) fn decode(body: &[u8]) -> Option<JobRef> {
    if body.len() > LENGTH_MOST {
        return None;
    }
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TenantId;

    fn at(tenant: &str) -> JobRef {
        JobRef {
            tenant: TenantId::new(tenant).expect("a tenant"),
            job: "01920000-0000-7000-8000-000000000000"
                .parse()
                .expect("a job"),
        }
    }

    #[test]
    fn a_hint_is_read_as_it_was_written() {
        for tenant in ["default", &"t".repeat(63)] {
            let at = at(tenant);
            assert_eq!(decode(&encode(&at).expect("a body")), Some(at));
        }
    }

    #[test]
    fn what_is_no_hint_is_none() {
        let long = format!("{{\"tenant\":\"default\",{}", " ".repeat(LENGTH_MOST));
        for body in [
            "",
            "{}",
            "null",
            "\u{0}",
            "{\"tenant\":\"A/B\",\"job\":\"x\"}",
            &long,
        ] {
            assert_eq!(decode(body.as_bytes()), None, "{body}");
        }
    }
}
