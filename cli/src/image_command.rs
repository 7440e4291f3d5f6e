//! `image list`, `image pull` and `image prune`: the images of the data folder, whether the service runs or not.

use std::path::Path;
use std::sync::Arc;

use shared::clock::SystemClock;
use shared::config::Loaded;
use shared::resources::ByteSize;
use worker::runtime::oci::{Images, Listed, Progress};

use crate::args::{ImageCommand, SettingsArgs};
use crate::failure::Failure;
use crate::{print, rootless};

/// Digits of a digest that are shown.
const SHOWN: usize = "sha256:".len() + 12;

/// Does what was asked.
pub(crate) fn run(command: &ImageCommand) -> Result<(), Failure> {
    match command {
        ImageCommand::List(settings) => list(&open(settings)?),
        ImageCommand::Pull {
            reference,
            settings,
        } => pull(open(settings)?, reference),
        ImageCommand::Prune { all, settings } => prune(&open(settings)?, *all),
    }
}

fn open(args: &SettingsArgs) -> Result<Images, Failure> {
    let Loaded {
        settings, data_dir, ..
    } = args.load()?;
    rootless::settle(&settings, &data_dir)?;
    let folder: &Path = &data_dir;
    Images::open(folder, settings.images, Arc::new(SystemClock)).map_err(|error| {
        Failure::new(
            format!("the images of {} cannot be used", folder.display()),
            error,
        )
        .advise("run this as the user who runs the service, or name its folder with --data-dir")
    })
}

fn list(images: &Images) -> Result<(), Failure> {
    let listed = images
        .list()
        .map_err(|error| Failure::new("the images cannot be listed", error))?;
    print::line("IMAGE                SIZE      LAST USED             IN USE  REFERENCES")?;
    listed.iter().try_for_each(|image| print::line(&row(image)))
}

fn row(image: &Listed) -> String {
    let id = image.id.to_string();
    let used = image.used_at.to_string();
    format!(
        "{:SHOWN$}  {:8}  {:20}  {:6}  {}",
        id.get(..SHOWN).unwrap_or(&id),
        mebibytes(image.bytes),
        format!("{}Z", used.get(..19).unwrap_or(&used)),
        if image.in_use { "yes" } else { "no" },
        image.references.join(" ")
    )
}

fn mebibytes(bytes: u64) -> String {
    ByteSize(bytes.div_ceil(1 << 20) << 20).to_string()
}

/// Fetches on a thread of its own, as a fetch wants it; how far it is goes to standard error.
fn pull(images: Images, reference: &str) -> Result<(), Failure> {
    let name = reference.to_owned();
    let mut before = None;
    let hear = move |progress| {
        let now = match progress {
            Progress::Fetching(bytes) => format!("fetching: {}", mebibytes(bytes)),
            Progress::Unpacking(bytes) => format!("unpacking: {}", mebibytes(bytes)),
        };
        if before.as_ref() != Some(&now) {
            print::aside(&now);
            before = Some(now);
        }
        Ok(())
    };
    let fetched = std::thread::spawn(move || images.fetch(&name, true, hear)).join();
    let what = || format!("the image {reference} cannot be had");
    let id = fetched
        .map_err(|_| Failure::new(what(), "it panicked"))?
        .map_err(|error| Failure::new(what(), error))?;
    print::line(&id.to_string())
}

fn prune(images: &Images, all: bool) -> Result<(), Failure> {
    let removed = images
        .prune(all)
        .map_err(|error| Failure::new("the images cannot be removed", error))?;
    for image in &removed {
        print::line(&image.id.to_string())?;
    }
    let bytes = removed.iter().map(|image| image.bytes).sum();
    print::aside(&format!("{} removed, {}", removed.len(), mebibytes(bytes)));
    Ok(())
}
