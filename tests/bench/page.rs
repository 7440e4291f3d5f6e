//! The page of figures, one table a section. It keeps what an earlier run measured of other parts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::parts::{PARTS, Part, Section};
use crate::report::Report;

const HEAD: &str = "# Benchmarks\n\n\
    Written by `scripts/bench`: the release build, both sides of each ratio in turns in one run, medians compared. \
    Absolute figures are of the machine that ran it; the ratios are what to look at. \
    `scripts/bench --only PART` measures one part again; the rows of the others stay as they were.\n";

const TABLE: &str = "| part | what | measured | asked | | detail |\n|---|---|---|---|---|---|\n";

/// The page as it is on the disk.
pub struct Page {
    path: PathBuf,
    /// By part.
    rows: BTreeMap<String, Vec<String>>,
}

impl Page {
    /// One that is not there is empty.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            if let Some((part, row)) = line
                .strip_prefix("| ")
                .and_then(|rest| rest.split_once(" | "))
            {
                rows.entry(part.to_owned())
                    .or_default()
                    .push(row.to_owned());
            }
        }
        Ok(Self {
            path: path.to_owned(),
            rows,
        })
    }

    /// Puts a part's new rows in the place of its old ones, and writes the page.
    pub fn put(&mut self, part: &Part, report: Report) -> io::Result<()> {
        self.rows.insert(part.name.to_owned(), report.rows());
        std::fs::write(&self.path, self.text())
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for section in Section::ALL {
            let _ = write!(text, "\n## {}\n\n{TABLE}", section.title());
            for part in PARTS.iter().filter(|part| part.section == section) {
                for row in self.rows.get(part.name).into_iter().flatten() {
                    let _ = writeln!(text, "| {} | {row}", part.name);
                }
            }
        }
        text
    }
}
