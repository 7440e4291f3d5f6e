//! Fetching an image for an environment: on a thread of its own, heard while it lasts, given up when nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::environment::Reason;
use shared::ids::EnvironmentUid;
use shared::ports::{Heard, Placement, RuntimeError};
use shared::resources::ByteSize;
use tokio::sync::oneshot;

use super::fault::unavailable;
use super::ground::HOST_IMAGE;
use super::host::Host;
use super::image::{Progress, PullError};
use super::record::LifeImage;

/// Sizes are told to this many bytes.
const GRAIN: u64 = 1 << 20;

/// Tells the thread, when it is dropped, that nobody waits any more.
struct Interest(Arc<AtomicBool>);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gets the image of an environment, unless it is there.
pub(super) async fn fetch(
    host: Arc<Host>,
    placement: &Placement,
    heard: &Heard,
) -> Result<(), RuntimeError> {
    let image = placement.spec.image.clone();
    if image == HOST_IMAGE {
        return Ok(());
    }
    let given_up = Arc::new(AtomicBool::new(false));
    let _interest = Interest(Arc::clone(&given_up));
    let (ended, end) = oneshot::channel();
    let (heard, name, uid) = (heard.clone(), image.clone(), placement.uid.clone());
    let hear = move |progress| {
        if given_up.load(Ordering::Relaxed) {
            return Err(PullError::Stopped);
        }
        heard.send_if_modified(|last| {
            let now = Some(said(&name, progress));
            let changed = *last != now;
            *last = now;
            changed
        });
        Ok(())
    };
    let wanted = image.clone();
    // What it mounts ends with it, and the programs it starts end if it does.
    std::thread::Builder::new()
        .name("fetch".to_owned())
        .spawn(move || {
            let fetched = has_its_image(&host, &uid).and_then(|there| match there {
                true => Ok(()),
                false => host.images.fetch(&wanted, false, hear).map(drop),
            });
            // Nobody waits any more.
            let _ = ended.send(fetched);
        })
        .map_err(unavailable("a thread cannot be made"))?;
    match end.await {
        Ok(fetched) => fetched.map_err(|error| told(&image, error)),
        Err(_) => Err(RuntimeError::Unavailable(
            "the fetch was cut off".to_owned(),
        )),
    }
}

/// Whether a life that is there already has the image that it stands on.
fn has_its_image(host: &Host, uid: &EnvironmentUid) -> Result<bool, PullError> {
    let home = host.layout.home(uid);
    let image = LifeImage::read(home.folder()).map_err(PullError::Here)?;
    let found = image.map(|image: LifeImage| host.images.image(&image.id));
    let found = found.transpose().map_err(PullError::Here)?;
    Ok(found.flatten().is_some())
}

/// Progress in words.
fn said(image: &str, progress: Progress) -> Reason {
    let rounded = |bytes: u64| ByteSize(bytes / GRAIN * GRAIN);
    let message = match progress {
        Progress::Fetching(bytes) => format!("fetching {image}: {} so far", rounded(bytes)),
        Progress::Unpacking(bytes) => format!("unpacking {image}: {} so far", rounded(bytes)),
    };
    Reason::new("pulling", message)
}

/// Why an image cannot be had, in the words of the port.
pub(super) fn told(image: &str, error: PullError) -> RuntimeError {
    match error {
        PullError::Refused(why) => RuntimeError::ImageNotFound {
            image: image.to_owned(),
            why,
        },
        PullError::NotInstalled(_) => RuntimeError::Unsupported(error.to_string()),
        PullError::Failed | PullError::Stopped | PullError::Here(_) => {
            RuntimeError::Unavailable(format!("image {image}: {error}"))
        }
    }
}
