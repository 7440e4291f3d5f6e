//! `doctor`: what this machine has of what environments need, and what mends the rest.
//!
//! The list is the one that the start and `/ready` go by. Where it is good an environment is made for trial, since no
//! list knows everything.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::ExitCode;

use shared::config::{Rootless, RuntimeKind, Settings};
use worker::runtime::oci::{Check, Standing, Verdict, of_the_user, of_this_machine, trial};

use crate::args::SettingsArgs;
use crate::failure::Failure;
use crate::print;
use crate::rootless;
use crate::wire::runtime::oci_settings;

/// Looks at everything and prints it; the exit code is 0 where environments can be had.
pub(crate) fn run(args: &SettingsArgs) -> Result<ExitCode, Failure> {
    let loaded = args.load()?;
    let settings = &loaded.settings;
    if settings.runtime.kind == RuntimeKind::Kubernetes {
        return Err(Failure::new(
            "there is nothing to look at on this machine",
            "runtime.kind is kubernetes",
        )
        .advise("start the service: /ready tells whether it sees the cluster"));
    }
    let mut report = Report::default();
    if rootless::standing()? == Standing::Powerless && settings.runtime.rootless != Rootless::False
    {
        report.add(of_the_user())?;
        if report.is_hopeless() {
            return report.end();
        }
    }
    rootless::settle(settings, &loaded.data_dir)?;
    let there = of_this_machine(&oci_settings(settings, &loaded.data_dir))
        .map_err(|error| Failure::new("this machine cannot be looked at", error))?;
    report.add(there)?;
    if !report.is_hopeless() {
        report.add(vec![environment(settings, &loaded.data_dir)?])?;
    }
    report.end()
}

/// Makes an environment for trial: in the data folder, if there is one, since its file system is what counts.
fn environment(settings: &Settings, data_dir: &Path) -> Result<Check, Failure> {
    let place = Some(data_dir).filter(|folder| folder.is_dir());
    let place = place.map_or_else(std::env::temp_dir, Path::to_owned);
    let folder = place.join(format!(
        ".environment-manager-doctor-{}",
        std::process::id()
    ));
    let failure = |error| Failure::new(format!("{} cannot be made", folder.display()), error);
    DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(failure)?;
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let tried = executor
        .map_err(failure)
        .map(|executor| executor.block_on(trial(&oci_settings(settings, &folder))));
    fs::remove_dir_all(&folder)
        .map_err(|error| Failure::new(format!("{} cannot be removed", folder.display()), error))?;
    Ok(Check::of_trial(tried?.err().map(|error| error.to_string())))
}

/// What was found so far.
#[derive(Default)]
struct Report {
    missing: usize,
    lacking: usize,
}

impl Report {
    fn add(&mut self, checks: Vec<Check>) -> Result<(), Failure> {
        for check in checks {
            let word = match check.verdict {
                Verdict::Good => "good",
                Verdict::Lacking => "lacking",
                Verdict::Missing => "missing",
            };
            self.missing += usize::from(check.verdict == Verdict::Missing);
            self.lacking += usize::from(check.verdict == Verdict::Lacking);
            print::line(&format!("{word:8} {:16} {}", check.about, check.says))?;
            if let Some(mend) = check.mend {
                print::line(&format!("{:25} next: {mend}", ""))?;
            }
        }
        Ok(())
    }

    /// Whether there is no use in going on.
    fn is_hopeless(&self) -> bool {
        self.missing > 0
    }

    fn end(self) -> Result<ExitCode, Failure> {
        let (word, code) = match (self.missing, self.lacking) {
            (0, 0) => ("environments can be had", ExitCode::SUCCESS),
            (0, _) => (
                "environments can be had, with less than could be",
                ExitCode::SUCCESS,
            ),
            _ => ("no environments can be had", ExitCode::FAILURE),
        };
        print::line(word)?;
        Ok(code)
    }
}
