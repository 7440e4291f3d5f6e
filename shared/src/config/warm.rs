//! What is held ready, as one can write it in a variable.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Environments that one image can have ready at most.
const MOST: usize = 1000;

/// Images and how many environments of each are held ready: `python:3-slim=5,debian:12=2`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WarmImages(pub Vec<WarmImage>);

/// One image that is held ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmImage {
    /// The image, as a create names it.
    pub image: String,
    /// How many.
    pub count: usize,
}

/// A text that is no list of images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no image with a count: write image=count, the count 1 to {MOST}, more of them with commas between, no image twice"
)]
pub struct InvalidWarmImages(String);

impl FromStr for WarmImages {
    type Err = InvalidWarmImages;

    fn from_str(text: &str) -> Result<Self, InvalidWarmImages> {
        let items = text.split(',').map(str::trim);
        let images = items.filter(|item| !item.is_empty()).map(|item| {
            let parsed = item.rsplit_once('=').and_then(|(image, count)| {
                let count = count
                    .parse()
                    .ok()
                    .filter(|count| (1..=MOST).contains(count))?;
                let image = (!image.is_empty()).then(|| image.to_owned())?;
                Some(WarmImage { image, count })
            });
            parsed.ok_or_else(|| InvalidWarmImages(item.to_owned()))
        });
        let images = images.collect::<Result<Vec<WarmImage>, _>>()?;
        let mut seen = BTreeSet::new();
        match images.iter().find(|warm| !seen.insert(&warm.image)) {
            Some(twice) => Err(InvalidWarmImages(twice.image.clone())),
            None => Ok(Self(images)),
        }
    }
}

impl fmt::Display for WarmImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, WarmImage { image, count }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{image}={count}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for WarmImages {
    type Error = InvalidWarmImages;

    fn try_from(text: String) -> Result<Self, InvalidWarmImages> {
        text.parse()
    }
}

impl From<WarmImages> for String {
    fn from(images: WarmImages) -> String {
        images.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_written_again() {
        for text in [
            "",
            "debian:12=1",
            "registry.example:5000/a@sha256:00=3,b=1000",
        ] {
            let parsed = text.parse::<WarmImages>().map(|images| images.to_string());
            assert_eq!(parsed, Ok(text.to_owned()));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for text in [
            "debian",
            "=1",
            "debian=0",
            "debian=1001",
            "debian=many",
            "debian=1,debian=2",
        ] {
            assert!(text.parse::<WarmImages>().is_err(), "{text}");
        }
    }
}
