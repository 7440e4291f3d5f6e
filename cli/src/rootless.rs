//! How an ordinary user's process comes to the rights that environments need.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use shared::config::{Rootless, RuntimeKind, Settings};
use worker::runtime::oci::{Standing, enter_namespace};

use crate::failure::Failure;
use crate::wire::runtime::oci_settings;

/// Makes this process, which must have one thread, what `runtime.rootless` asks for. Whether environments can be made
/// then is told by the runtime's own check.
pub(crate) fn settle(settings: &Settings, data_dir: &Path) -> Result<(), Failure> {
    match settings.runtime.kind {
        RuntimeKind::Oci => {}
        RuntimeKind::Kubernetes => return Ok(()),
    }
    match (settings.runtime.rootless, standing()?) {
        (Rootless::True, Standing::Root) => Err(Failure::new(
            "runtime.rootless is true",
            "this process is root",
        )
        .advise("start it as an ordinary user, or set runtime.rootless to auto")),
        (Rootless::Auto | Rootless::True, Standing::Powerless) => {
            enter(Some(&oci_settings(settings, data_dir).folder))
        }
        _ => Ok(()),
    }
}

/// Becomes the command, as root of the namespace.
pub(crate) fn unshare(command: &[OsString]) -> Result<ExitCode, Failure> {
    enter(None)?;
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure::new("nothing to run", "there is no command"))?;
    let error = Command::new(program).args(arguments).exec();
    Err(Failure::new(
        format!("{} cannot be run", program.display()),
        error,
    ))
}

fn enter(environments: Option<&Path>) -> Result<(), Failure> {
    enter_namespace(environments).map_err(|error| Failure::told(&error))
}

pub(crate) fn standing() -> Result<Standing, Failure> {
    Standing::of_this_process().map_err(|error| Failure::new("/proc cannot be read", error))
}
