//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use nix::unistd::Uid;
use shared::config::{Loaded, Sources};

use crate::failure::Failure;

/// Gives agents isolated execution environments and runs commands in them.
///
/// `environment-manager serve` needs no configuration: it keeps its data in one folder and listens on 127.0.0.1:8080.
#[derive(Debug, Parser)]
#[command(name = "environment-manager", version, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the service: API and worker in one process, in the foreground
    ///
    /// SIGTERM and Ctrl-C finish or hand back what runs, then exit; a second one exits at once. Commands that run in
    /// environments go on, and the next start takes them up again.
    Serve(SettingsArgs),
    /// Look after the images that environments are made from, whether the service runs or not
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at the settings without starting anything
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look what this machine lacks to hold environments, and say what mends it
    ///
    /// Makes an environment for trial and removes it again. Exits with 1 if no environment can be had.
    Doctor(SettingsArgs),
    /// Run a command as root of the user namespace that holds an ordinary user's environments
    ///
    /// There it may look into their files and remove them, which the user himself may not.
    Unshare(UnshareArgs),
    /// Print the OpenAPI document of the HTTP API
    Openapi,
    /// Print the program's version
    Version,
}

/// What is done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images that are there, the one that was used last first
    List(SettingsArgs),
    /// Fetch an image anew; its digest is printed, and new environments get it
    Pull {
        /// `debian:12`, `ghcr.io/OWNER/NAME:TAG`, `oci:FOLDER:TAG` or `docker-archive:FILE`
        reference: String,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Remove images that no environment stands on and nothing has used for images.unused_days
    Prune {
        /// All that no environment stands on
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

/// What is done with the settings.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the settings: prints `ok`, or everything that is wrong with them
    Check(SettingsArgs),
    /// Print the effective settings as TOML, each with where it came from, secrets redacted
    Show(SettingsArgs),
}

/// What is run.
#[derive(Debug, clap::Args)]
pub(crate) struct UnshareArgs {
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<OsString>,
}

/// Where the settings come from.
///
/// Defaults < file < variables (`EM_SECTION__KEY`) < flags.
#[derive(Debug, clap::Args)]
pub(crate) struct SettingsArgs {
    /// Settings file (TOML); without it none is read
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for all data [default: /var/lib/environment-manager for root, else
    /// ~/.local/share/environment-manager; variable: EM_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the API, with port [default: 127.0.0.1:8080; variable: EM_SERVER__LISTEN]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

impl SettingsArgs {
    /// The effective settings of this command line, in this process's environment.
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        let sources = Sources {
            file: self.config.clone(),
            variables: std::env::vars_os().collect(),
            listen: self.listen.clone(),
            data_dir: self.data_dir.clone(),
            superuser: Uid::effective().is_root(),
        };
        shared::config::load(&sources).map_err(Failure::from)
    }
}
