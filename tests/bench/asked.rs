//! What was asked for on the command line.

use std::path::PathBuf;

use crate::parts::{self, PARTS, Part};

pub const USAGE: &str = "bench PROGRAM PAGE [--quick] [--only oci|kubernetes|PART...]";

/// The arguments, understood.
pub struct Asked {
    /// The program to measure.
    pub program: PathBuf,
    /// Where the figures are kept.
    pub page: PathBuf,
    /// A few rounds of everything, to see that it works; nothing is kept.
    pub quick: bool,
    /// What to measure, in the order of the page.
    pub parts: Vec<&'static Part>,
}

impl Asked {
    pub fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut path = |what| {
            let given = arguments.next();
            given.map(PathBuf::from).ok_or(format!("no {what}"))
        };
        let (program, page) = (path("PROGRAM")?, path("PAGE")?);
        let mut rest: Vec<_> = arguments.collect();
        let given = rest.len();
        rest.retain(|argument| argument != "--quick");
        Ok(Self {
            program,
            page,
            quick: rest.len() < given,
            parts: chosen(&rest)?,
        })
    }
}

fn chosen(rest: &[String]) -> Result<Vec<&'static Part>, String> {
    let names = match rest {
        [] => return Ok(PARTS.iter().collect()),
        [only, names @ ..] if only == "--only" && !names.is_empty() => names,
        [other, ..] => return Err(format!("what is {other}?")),
    };
    if let Some(unknown) = names.iter().find(|name| !parts::is_known(name)) {
        let known: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        let known = known.join(", ");
        return Err(format!(
            "there is no part {unknown}; there are oci, kubernetes, {known}"
        ));
    }
    let asked = |part: &&Part| names.iter().any(|name| part.is_called(name));
    Ok(PARTS.iter().filter(asked).collect())
}
