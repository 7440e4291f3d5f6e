//! Query strings as bytes: a path in an environment need not be UTF-8.

use std::borrow::Cow;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::Bytes;
use shared::octets::Octets;
use shared::ports::{Label, PageRequest};

use crate::problem::Problem;
use crate::service::App;

/// Items of a page that asks for no size.
const DEFAULT_PAGE: u32 = 100;

/// Items of a page at most.
const MAX_PAGE: u32 = 1000;

/// The parameters of a query string, each at most once.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, Bytes)>);

impl FromRequestParts<App> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// The query string of a route that takes no parameter.
pub(crate) struct NoParams;

impl FromRequestParts<App> for NoParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let params = Params::from_request_parts(parts, app).await?;
        params.only(&[]).map(|()| Self)
    }
}

impl Params {
    /// Reads `name=value&…`; `+` is a space and `%xx` a byte, as in forms.
    pub(crate) fn parse(query: &str) -> Result<Self, Problem> {
        let mut found: Vec<(String, Bytes)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)
                .and_then(|name| String::from_utf8(name).ok())
                .ok_or_else(|| Problem::invalid("", "the query names a parameter not in UTF-8"))?;
            let value = decode(value).ok_or_else(|| {
                Problem::invalid(&name, "holds a % that two hexadecimal digits do not follow")
            })?;
            if found.iter().any(|(other, _)| *other == name) {
                return Err(Problem::invalid(name, "is given more than once"));
            }
            found.push((name, value.into()));
        }
        Ok(Self(found))
    }

    /// Refuses every parameter that is not one of these.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        match self
            .0
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            None => Ok(()),
            Some((name, _)) => Err(Problem::invalid(
                name,
                match known {
                    [] => "is unknown: this route takes no parameter".to_owned(),
                    _ => format!("is unknown: this route takes {}", known.join(", ")),
                },
            )),
        }
    }

    /// The bytes of a parameter, if it is there.
    pub(crate) fn octets(&self, name: &str) -> Option<Octets> {
        self.0
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| Octets(value.clone()))
    }

    /// A parameter as text; an empty one is as if it were not there.
    pub(crate) fn text(&self, name: &str) -> Result<Option<Cow<'_, str>>, Problem> {
        let Some((_, value)) = self.0.iter().find(|(other, _)| other == name) else {
            return Ok(None);
        };
        match std::str::from_utf8(value) {
            Ok("") => Ok(None),
            Ok(text) => Ok(Some(text.into())),
            Err(_) => Err(Problem::invalid(name, "is not UTF-8")),
        }
    }

    /// A parameter as a value that reads itself from text.
    pub(crate) fn parsed<T: FromStr>(&self, name: &str, rule: &str) -> Result<Option<T>, Problem> {
        self.with(name, rule, |text| text.parse().ok())
    }

    /// A parameter as a value that `read` makes of its text.
    pub(crate) fn with<T>(
        &self,
        name: &str,
        rule: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        match self.text(name)? {
            None => Ok(None),
            Some(text) => read(&text)
                .map(Some)
                .ok_or_else(|| Problem::invalid(name, format!("must be {rule}"))),
        }
    }

    /// A whole number within bounds.
    pub(crate) fn number(
        &self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, Problem> {
        let rule = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.with(name, &rule, |text| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse()
                .ok()
                .filter(|number| plain && bounds.contains(number))
        })
    }

    /// `true` or `false`; `false` where it is not given.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        Ok(self.parsed(name, "true or false")?.unwrap_or(false))
    }

    /// Refuses a second one of these.
    pub(crate) fn at_most_one(&self, names: &[&str]) -> Result<(), Problem> {
        let mut given = names
            .iter()
            .filter(|name| matches!(self.text(name), Ok(Some(_))));
        match (given.next(), given.next()) {
            (Some(first), Some(second)) => Err(Problem::invalid(
                *second,
                format!("cannot be combined with {first}"),
            )),
            _ => Ok(()),
        }
    }

    /// `label`, as `name=value`.
    pub(crate) fn label(&self) -> Result<Option<Label>, Problem> {
        self.with("label", "name=value", |text| {
            let (name, value) = text.split_once('=')?;
            (!name.is_empty()).then(|| Label {
                name: name.to_owned(),
                value: value.to_owned(),
            })
        })
    }

    /// `page_size`.
    pub(crate) fn page_size(&self) -> Result<u32, Problem> {
        let size = self.number("page_size", 1..=u64::from(MAX_PAGE))?;
        Ok(size
            .and_then(|size| u32::try_from(size).ok())
            .unwrap_or(DEFAULT_PAGE))
    }

    /// `page_size` and `page_token` of a list that the store pages.
    pub(crate) fn page(&self) -> Result<PageRequest, Problem> {
        Ok(PageRequest {
            size: self.page_size()?,
            token: self.text("page_token")?.map(Cow::into_owned),
        })
    }
}

/// `+` to a space and `%xx` to a byte; nothing where a `%` is followed by something else.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = bytes.next().and_then(digit)?;
                let low = bytes.next().and_then(digit)?;
                high << 4 | low
            }
            other => other,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(query: &str) -> Params {
        Params::parse(query).expect(query)
    }

    #[test]
    fn values_are_read_as_forms_write_them() {
        let params = parse("path=a+b%2Fc%ff&page_size=7&recursive=true&empty=");
        assert_eq!(
            params.octets("path").map(|path| path.0.to_vec()),
            Some(b"a b/c\xff".to_vec())
        );
        assert!(params.text("path").is_err());
        assert_eq!(params.page_size().ok(), Some(7));
        assert_eq!(params.flag("recursive").ok(), Some(true));
        assert_eq!(params.flag("other").ok(), Some(false));
        assert_eq!(params.text("empty").ok(), Some(None));
        assert!(
            params
                .only(&["path", "page_size", "recursive", "empty"])
                .is_ok()
        );
    }

    #[test]
    fn what_cannot_be_taken_is_named() {
        let field = |problem: Problem| problem.errors[0].field.clone();
        assert_eq!(Params::parse("a=1&a=2").map_err(field).unwrap_err(), "a");
        assert_eq!(Params::parse("a=%g0").map_err(field).unwrap_err(), "a");
        assert_eq!(Params::parse("a=%f").map_err(field).unwrap_err(), "a");
        let params = parse("page_size=0&n=+5&r=yes&x=1");
        assert_eq!(params.page_size().map_err(field).unwrap_err(), "page_size");
        assert_eq!(params.number("n", 0..=9).map_err(field).unwrap_err(), "n");
        assert_eq!(params.flag("r").map_err(field).unwrap_err(), "r");
        assert_eq!(
            params
                .only(&["page_size", "n", "r"])
                .map_err(field)
                .unwrap_err(),
            "x"
        );
    }

    proptest! {
        #[test]
        fn every_path_survives(bytes: Vec<u8>) {
            let encoded: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
            let params = Params::parse(&format!("path={encoded}")).expect("parses");
            prop_assert_eq!(params.octets("path").map(|path| path.0.to_vec()), Some(bytes));
        }

        #[test]
        fn any_query_is_parsed_or_refused(query in ".*") {
            if let Ok(params) = Params::parse(&query) {
                let _ = (params.page(), params.number("offset", 0..=u64::MAX), params.flag("recursive"));
            }
        }
    }
}
