//! What an environment may use, and how callers write it.
//!
//! Amounts are written as Kubernetes writes them: `"500m"` or `2` processors, `"512Mi"`, `"10G"` or plain bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidQuantity(String);

/// Processor time in thousandths of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu {
    /// Thousandths of a processor; at least 1.
    pub millis: u64,
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// The limits of one environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory, in bytes.
    pub memory: ByteSize,
    /// Size of the volume, in bytes.
    pub storage: ByteSize,
    /// Processes and threads.
    pub pids: u32,
}

impl Cpu {
    /// Reads `"500m"`, `"1.5"` or `"2"`.
    pub fn parse(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || {
            InvalidQuantity(format!(
                "{text:?} is no amount of processors: write 500m, 0.5 or 2"
            ))
        };
        let (digits, scale) = text
            .strip_suffix('m')
            .map_or((text, 1000), |digits| (digits, 1));
        let millis = decimal(digits, scale).ok_or_else(invalid)?;
        if millis == 0 {
            Err(invalid())
        } else {
            Ok(Self { millis })
        }
    }
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.millis.is_multiple_of(1000) {
            write!(f, "{}", self.millis / 1000)
        } else {
            write!(f, "{}m", self.millis)
        }
    }
}

const SUFFIXES: [(&str, u64); 11] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

impl ByteSize {
    /// Reads `"512Mi"`, `"10G"`, `"1.5Gi"` or `"1048576"`.
    pub fn parse(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || {
            InvalidQuantity(format!(
                "{text:?} is no amount of bytes: write 512Mi, 10G or 1048576"
            ))
        };
        SUFFIXES
            .iter()
            .find_map(|(suffix, scale)| text.strip_suffix(suffix).map(|digits| (digits, *scale)))
            .and_then(|(digits, scale)| decimal(digits, scale))
            .map(Self)
            .ok_or_else(invalid)
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let binary = SUFFIXES[..5]
            .iter()
            .rev()
            .find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        match binary {
            Some((suffix, scale)) => write!(f, "{}{suffix}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

/// `digits` with at most nine decimals, times `scale`; nothing where it is no number or does not fit.
fn decimal(digits: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale)
        / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_add(u64::try_from(part).ok()?)
}

/// What a caller may write for an amount.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

impl Written {
    fn text<E: serde::de::Error>(self) -> Result<String, E> {
        match self {
            Self::Whole(number) => Ok(number.to_string()),
            Self::Fraction(number) if (0.0..1e9).contains(&number) => Ok(format!("{number:.3}")),
            Self::Fraction(number) => Err(E::custom(format!("{number} is no amount"))),
            Self::Text(text) => Ok(text),
        }
    }
}

macro_rules! as_written {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Written::deserialize(deserializer)?.text::<D::Error>()?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

as_written!(Cpu);
as_written!(ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        for (text, millis) in [("500m", 500), ("2", 2000), ("0.25", 250), ("1.5", 1500)] {
            assert_eq!(Cpu::parse(text), Ok(Cpu { millis }), "{text}");
        }
        for (text, bytes) in [
            ("512Mi", 512 << 20),
            ("10G", 10_000_000_000),
            ("7", 7),
            ("1.5Gi", 3 << 29),
            ("1k", 1000),
        ] {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in [
            "",
            "m",
            "-1",
            "1e3",
            "1..2",
            ".5",
            "99999999999999999999",
            "0",
            "1Mi",
        ] {
            assert!(Cpu::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "Mi", "-1", "1 Gi", "99999999Pi", "1Zi"] {
            assert!(ByteSize::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let resources = Resources {
            cpu: Cpu { millis: 1500 },
            memory: ByteSize(512 << 20),
            storage: ByteSize(1001),
            pids: 5,
        };
        let json = serde_json::to_string(&resources).expect("serialises");
        assert_eq!(
            json,
            r#"{"cpu":"1500m","memory":"512Mi","storage":"1001","pids":5}"#
        );
        assert_eq!(
            serde_json::from_str::<Resources>(&json).expect("reads back"),
            resources
        );
        assert_eq!(
            serde_json::from_str::<Cpu>("0.5").expect("a number"),
            Cpu { millis: 500 }
        );
    }
}
