//! Where the broker is and what the queues are called, checked before anything starts.

use lapin::uri::AMQPUri;

/// Seconds without a sign of life after which a connection counts as lost.
const HEARTBEAT_SECONDS: u16 = 10;

/// Why the address of a queue is none. It repeats nothing of the URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAddress {
    /// The URL is none.
    #[error("is not an AMQP URL such as amqp://USER:PASSWORD@HOST:5672/%2f")]
    Url,
    /// The topic is no beginning of a queue's name.
    #[error("must be 1 to 200 of a-z, A-Z, 0-9, '.', '_' and '-'")]
    Topic,
}

/// Whether a URL names a broker.
pub fn check_url(url: &str) -> Result<(), InvalidAddress> {
    parse(url).map(drop)
}

/// Whether the names of queues can begin with it.
pub fn check_topic(topic: &str) -> Result<(), InvalidAddress> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let good = (1..=200).contains(&topic.len()) && topic.bytes().all(allowed);
    good.then_some(()).ok_or(InvalidAddress::Topic)
}

/// The broker's address, with a heartbeat where the URL asks for none.
pub(super) fn parse(url: &str) -> Result<AMQPUri, InvalidAddress> {
    let mut uri: AMQPUri = url.parse().map_err(|_| InvalidAddress::Url)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}
