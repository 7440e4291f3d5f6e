//! How often tests of random orders, moments and inputs try: as usual, or many times as often in a long run.

/// What the numbers of rounds are multiplied by, such as `10`; 1 where it is not set.
const VARIABLE: &str = "TEST_ROUNDS";

/// The rounds of a test that usually has so many.
pub fn rounds(usual: usize) -> usize {
    let factor = match std::env::var(VARIABLE) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{VARIABLE}={text}: {error}")),
        Err(_) => 1,
    };
    usual * factor
}
