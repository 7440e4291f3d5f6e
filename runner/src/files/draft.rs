//! Content that comes as a stream: whole or not at all, and at most once per job id.
//!
//! ```text
//!   head ──▶ place ──▶ draft beside it ──data … end──▶ on the disk ──the permit holds──▶ in its place, the reply kept
//! ```
//!
//! Whatever ends the call before the last step removes the draft; where PID 1 is killed, the next one does ([`Drafts`]).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::runtime::Handle;
use tonic::Status;

use super::Files;
use super::drafts::{Drafts, Note};
use super::fault::{Fault, Refused};
use super::identity::IdentityPool;
use super::mutation::{Kept, Slot, kept};
use crate::MAX_FRAME_BYTES;
use crate::ids::Permit;
use crate::jobs::Jobs;
use crate::proto::FileErrorCode;

/// A message of such a stream.
pub(super) enum Piece<H> {
    /// The first, once.
    Head(H),
    /// Some of the content.
    Data(Bytes),
    /// The last, once, with the number of bytes.
    End(u64),
}

/// What such a stream is made of.
pub(super) trait Message {
    /// Its head.
    type Head;
    /// What it says; nothing where it is empty.
    fn piece(self) -> Option<Piece<Self::Head>>;
}

/// Where content is to be.
pub(super) trait Place: Send + 'static {
    /// What is made there.
    type Draft: Draft;
    /// The folder of the draft.
    fn folder(&self) -> &OwnedFd;
    /// Begins a draft of this name there.
    fn begin(self, name: &str) -> Result<Self::Draft, Fault>;
}

/// Content on its way.
pub(super) trait Draft: Sized + Send + 'static {
    /// What its caller is told.
    type Reply: Kept;
    /// Adds some of it.
    fn append(&mut self, data: &Bytes) -> Result<(), Refused>;
    /// Checks that all of it is there, so many bytes, and puts it on the disk.
    fn settle(&mut self, size: u64) -> Result<(), Refused>;
    /// Puts it in its place.
    fn publish(&mut self) -> Result<Self::Reply, Refused>;
    /// Removes what has its draft's name, if anything has.
    fn discard(self);
}

/// A draft that is removed, and then forgotten, when this is dropped.
struct Unfinished<D: Draft> {
    pool: IdentityPool,
    executor: Handle,
    state: Arc<Mutex<State<D>>>,
    note: Arc<Note>,
}

/// How far a draft is.
enum State<D> {
    Noted,
    Begun(D),
    GivenUp,
}

impl<D: Draft> Drop for Unfinished<D> {
    fn drop(&mut self) {
        let (pool, state, note) = (
            self.pool.clone(),
            Arc::clone(&self.state),
            Arc::clone(&self.note),
        );
        self.executor.spawn(async move {
            // After whatever still works on it, and with the rights that made it. One that is not begun yet never is.
            let discarding = move || {
                if let State::Begun(draft) = std::mem::replace(&mut *lock(&state), State::GivenUp) {
                    draft.discard();
                }
            };
            if pool.run(discarding).await.is_ok() {
                note.forget();
            }
        });
    }
}

fn lock<D>(state: &Mutex<State<D>>) -> MutexGuard<'_, State<D>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Draft> Unfinished<D> {
    async fn on_draft<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut D) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let state = Arc::clone(&self.state);
        self.pool
            .run(move || match &mut *lock(&state) {
                State::Begun(draft) => act(draft),
                State::Noted | State::GivenUp => Err(given_up().into()),
            })
            .await?
    }

    async fn begin<P: Place<Draft = D>>(&self, place: P) -> Result<(), Refused> {
        let (state, note) = (Arc::clone(&self.state), Arc::clone(&self.note));
        let beginning = move || {
            let mut state = lock(&state);
            if matches!(*state, State::GivenUp) {
                return Err(given_up());
            }
            *state = State::Begun(place.begin(note.name())?);
            Ok(())
        };
        Ok(self.pool.run(beginning).await??)
    }
}

fn given_up() -> Fault {
    Fault::new(FileErrorCode::FileIo, "the draft was given up")
}

impl Files {
    /// Takes in what follows the head, and puts it where `find` says.
    pub(super) async fn take_in<M: Message, P: Place>(
        &self,
        permit: Permit,
        mut events: impl Stream<Item = Result<M, Status>> + Unpin,
        find: impl FnOnce(&Path) -> Result<P, Fault> + Send + 'static,
    ) -> Result<<P::Draft as Draft>::Reply, Refused> {
        self.jobs.permit_mutation(&permit)?;
        let slot = self.mutations.slot(&permit.job);
        if let Some(reply) = slot.lock().await.clone() {
            return kept(reply);
        }
        let volume = Arc::clone(&self.volume);
        let place = self.pool.run(move || find(&volume)).await??;
        let unfinished = self.begin(place).await?;
        let size = receive(&mut events, &unfinished).await?;
        unfinished.on_draft(move |draft| draft.settle(size)).await?;
        // It must not be torn by a caller that goes away: the change and its reply belong together.
        let committing = tokio::spawn(commit(unfinished, Arc::clone(&self.jobs), permit, slot));
        committing
            .await
            .unwrap_or_else(|error| Err(Fault::from(io::Error::other(error)).into()))
    }

    async fn begin<P: Place>(&self, place: P) -> Result<Unfinished<P::Draft>, Refused> {
        let drafts: Arc<Drafts> = Arc::clone(&self.drafts);
        let noting = move || drafts.note(place.folder()).map(|note| (place, note));
        let noted = tokio::task::spawn_blocking(noting).await;
        let (place, note) = noted
            .map_err(|error| Fault::from(io::Error::other(error)))?
            .map_err(Fault::from)?;
        let unfinished = Unfinished {
            pool: self.pool.clone(),
            executor: Handle::current(),
            state: Arc::new(Mutex::new(State::Noted)),
            note: Arc::new(note),
        };
        unfinished.begin(place).await?;
        Ok(unfinished)
    }
}

/// Takes in the data; answers the size that the end names.
async fn receive<M: Message, D: Draft>(
    events: &mut (impl Stream<Item = Result<M, Status>> + Unpin),
    unfinished: &Unfinished<D>,
) -> Result<u64, Refused> {
    loop {
        match next(events).await? {
            Some(Piece::Data(data)) if data.len() > MAX_FRAME_BYTES => {
                return Err(Refused::Request("data: more bytes than a frame may have"));
            }
            Some(Piece::Data(data)) => {
                unfinished
                    .on_draft(move |draft| draft.append(&data))
                    .await?;
            }
            Some(Piece::End(size)) => return Ok(size),
            Some(Piece::Head(_)) => return Err(Refused::Request("a second head")),
            None => {
                return Err(Refused::Incomplete(
                    "the content ended without its end".to_owned(),
                ));
            }
        }
    }
}

/// The head of a stream, which must come first.
pub(super) async fn head<M: Message>(
    events: &mut (impl Stream<Item = Result<M, Status>> + Unpin),
) -> Result<M::Head, Refused> {
    match next(events).await? {
        Some(Piece::Head(head)) => Ok(head),
        _ => Err(Refused::Request("the first message must be the head")),
    }
}

async fn next<M: Message>(
    events: &mut (impl Stream<Item = Result<M, Status>> + Unpin),
) -> Result<Option<Piece<M::Head>>, Refused> {
    match events.next().await {
        Some(Ok(message)) => {
            let piece = message.piece();
            piece.map(Some).ok_or(Refused::Request("an empty message"))
        }
        Some(Err(status)) => Err(Refused::Stream(Box::new(status))),
        None => Ok(None),
    }
}

async fn commit<D: Draft>(
    unfinished: Unfinished<D>,
    jobs: Arc<Jobs>,
    permit: Permit,
    slot: Slot,
) -> Result<D::Reply, Refused> {
    let mut done = slot.lock().await;
    if let Some(reply) = done.clone() {
        return kept(reply);
    }
    jobs.begin_mutation(&permit)?;
    let reply = unfinished.on_draft(Draft::publish).await?;
    *done = Some(reply.clone().keep());
    Ok(reply)
}
