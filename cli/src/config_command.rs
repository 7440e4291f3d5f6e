//! `config check` and `config show`: the settings as `serve` would take them, without starting anything.

use crate::args::SettingsArgs;
use crate::failure::Failure;
use crate::print;

/// Prints `ok` if the settings can be used, and beside it what is likely to fail later.
pub(crate) fn check(args: &SettingsArgs) -> Result<(), Failure> {
    for doubt in args.load()?.doubts() {
        print::aside(&format!("warning: {doubt}"));
    }
    print::line("ok")
}

/// Prints the effective settings as TOML.
pub(crate) fn show(args: &SettingsArgs) -> Result<(), Failure> {
    print::text(&args.load()?.show())
}
