//! Fetching images for environments: each once at a time, heard by all who wait for it, given up when nobody does.
//!
//! ```text
//!   creates of one image ─┐
//!   what shall be ready ──┴▶ under way: one task, one thread ──▶ the image, or why there is none, told to all
//! ```
//!
//! Who waits holds no thread. [`MOST`] images are fetched at a time, so a few that come slowly do not keep others waiting,
//! and many do not take the whole machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use shared::environment::Reason;
use shared::ids::EnvironmentUid;
use shared::ports::{Heard, RuntimeError};
use shared::resources::ByteSize;
use tokio::sync::{Semaphore, oneshot, watch};

use super::fault::{failed, unavailable};
use super::ground::HOST_IMAGE;
use super::host::Host;
use super::image::{Progress, PullError};
use super::record::LifeImage;

/// Images that are fetched at a time.
const MOST: usize = 16;
/// Sizes are told to this many bytes.
const GRAIN: u64 = 1 << 20;
/// How long an image that could not be had for what shall be ready is left alone.
const PAUSE: Duration = Duration::from_mins(1);

/// The fetches of this process.
#[derive(Clone)]
pub(super) struct Fetches {
    turns: Arc<Semaphore>,
    under_way: Arc<Mutex<HashMap<String, Weak<UnderWay>>>>,
    /// What was begun ahead, and when it failed.
    ahead: Arc<Mutex<HashMap<String, Attempt>>>,
}

/// One fetch; it is given up when the last who holds this lets it go.
struct UnderWay(watch::Receiver<News>);

/// The last that was heard of a fetch.
#[derive(Clone)]
enum News {
    Nothing,
    Said(Reason),
    Ended(Result<(), RuntimeError>),
}

enum Attempt {
    Running,
    FailedAt(Instant),
}

impl Default for Fetches {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(MOST)),
            under_way: Arc::default(),
            ahead: Arc::default(),
        }
    }
}

impl Fetches {
    /// Gets an image, unless it is there, or the life is, which has what it stands on. It may be dropped at any point.
    pub(super) async fn fetch(
        &self,
        host: &Arc<Host>,
        life: Option<&EnvironmentUid>,
        image: &str,
        heard: &Heard,
    ) -> Result<(), RuntimeError> {
        if image == HOST_IMAGE || is_there(host, life, image).await? {
            return Ok(());
        }
        let fetch = self.join(host, image);
        let mut news = fetch.0.clone();
        loop {
            let last = news.borrow_and_update().clone();
            match last {
                News::Nothing => {}
                News::Said(said) => {
                    heard.send_replace(Some(said));
                }
                News::Ended(ended) => return ended,
            }
            if news.changed().await.is_err() {
                return Err(RuntimeError::Unavailable(
                    "the fetch was cut off".to_owned(),
                ));
            }
        }
    }

    /// Begins to fetch an image that nobody waits for, unless that is under way or has just failed. It ends with the
    /// executor.
    pub(super) fn begin_ahead(&self, host: &Arc<Host>, image: &str) {
        match lock(&self.ahead).get(image) {
            Some(Attempt::Running) => return,
            Some(Attempt::FailedAt(then)) if then.elapsed() < PAUSE => return,
            _ => {}
        }
        lock(&self.ahead).insert(image.to_owned(), Attempt::Running);
        let (own, host, image) = (self.clone(), Arc::clone(host), image.to_owned());
        tokio::spawn(async move {
            let fetched = own.fetch(&host, None, &image, &Heard::default()).await;
            let mut ahead = lock(&own.ahead);
            match fetched {
                Ok(()) => drop(ahead.remove(&image)),
                Err(error) => {
                    tracing::warn!(image, %error, "what shall be held ready cannot be fetched");
                    ahead.insert(image, Attempt::FailedAt(Instant::now()));
                }
            }
        });
    }

    /// The fetch of the image that is under way, or a new one.
    fn join(&self, host: &Arc<Host>, image: &str) -> Arc<UnderWay> {
        let mut under_way = lock(&self.under_way);
        let found = under_way.get(image).and_then(Weak::upgrade);
        if let Some(found) = found
            && !matches!(*found.0.borrow(), News::Ended(_))
        {
            return found;
        }
        under_way.retain(|_, fetch| fetch.strong_count() > 0);
        let (tell, news) = watch::channel(News::Nothing);
        let fetch = Arc::new(UnderWay(news));
        under_way.insert(image.to_owned(), Arc::downgrade(&fetch));
        let (turns, host, image) = (Arc::clone(&self.turns), Arc::clone(host), image.to_owned());
        tokio::spawn(async move {
            let turn = tokio::select! {
                turn = turns.acquire_owned() => turn,
                () = tell.closed() => return,
            };
            let ended = on_a_thread(host, image, tell.clone()).await;
            drop(turn);
            tell.send_replace(News::Ended(ended));
        });
        fetch
    }
}

fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread mounts ends with it, and the programs it starts end if it does.
async fn on_a_thread(
    host: Arc<Host>,
    image: String,
    tell: watch::Sender<News>,
) -> Result<(), RuntimeError> {
    let (ended, end) = oneshot::channel();
    let name = image.clone();
    let hear = move |progress| {
        if tell.is_closed() {
            return Err(PullError::Stopped);
        }
        let said = said(&name, progress);
        tell.send_if_modified(|last| {
            let is_new = !matches!(last, News::Said(before) if *before == said);
            if is_new {
                *last = News::Said(said);
            }
            is_new
        });
        Ok(())
    };
    let wanted = image.clone();
    std::thread::Builder::new()
        .name("fetch".to_owned())
        .spawn(move || {
            // Nobody waits any more.
            let _ = ended.send(host.images.fetch(&wanted, false, hear));
        })
        .map_err(unavailable("a thread cannot be made"))?;
    match end.await {
        Ok(fetched) => fetched.map(drop).map_err(|error| told(&image, error)),
        Err(_) => Err(RuntimeError::Unavailable(
            "the fetch was cut off".to_owned(),
        )),
    }
}

/// Whether nothing is to be fetched.
async fn is_there(
    host: &Arc<Host>,
    life: Option<&EnvironmentUid>,
    image: &str,
) -> Result<bool, RuntimeError> {
    let (host, life, wanted) = (Arc::clone(host), life.cloned(), image.to_owned());
    let looked = tokio::task::spawn_blocking(move || {
        let of_life = life.map(|life| has_its_image(&host, &life)).transpose()?;
        Ok(of_life.unwrap_or_default() || host.images.find(&wanted)?.is_some())
    });
    let looked: Result<_, PullError> = looked
        .await
        .map_err(unavailable("the look at the images was cut off"))?;
    looked.map_err(|error| told(image, error))
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
        PullError::NoRoom => failed("no_space_for_image", format!("image {image}: {error}")),
        PullError::NotInstalled(_) => RuntimeError::Unsupported(error.to_string()),
        PullError::Failed | PullError::Stopped | PullError::Here(_) => {
            RuntimeError::Unavailable(format!("image {image}: {error}"))
        }
    }
}
