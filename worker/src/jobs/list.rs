//! Lists a folder.

use prost::Message as _;
use runner::proto::{Entry as WireEntry, ListFilesReply, ListFilesRequest};
use shared::job::{Entry, JobResult, Outcome};
use shared::octets::Octets;
use shared::ports::Lane;

use crate::execute::{End, Task};
use crate::jobs::files::{self, Effect, Failure};

/// The longest name that a page may hold, in bytes: a path of the kernel.
const MAX_NAME_BYTES: usize = 4096;

pub(crate) async fn run(task: &Task, path: &Octets, depth: u32, after: &Octets, limit: u32) -> End {
    files::run(
        task,
        Lane::Control,
        Effect::Reads,
        |mut client, _permit| async move {
            let request = ListFilesRequest {
                path: path.0.clone(),
                depth,
                after: after.0.clone(),
                limit,
            };
            let answer = files::in_time(files::ANSWER_TIME, client.list_files(request));
            let reply = answer.await?.into_inner();
            let result = listed(reply, limit).map_err(Failure::misbehaved)?;
            Ok(End::outcome(Outcome::success(result)))
        },
    )
    .await
}

/// Checks and translates what the runner listed.
fn listed(reply: ListFilesReply, limit: u32) -> Result<JobResult, &'static str> {
    if reply.entries.len() > limit as usize {
        return Err("more entries than were asked for");
    }
    let entries = reply.entries.into_iter().map(WireEntry::decode);
    let entries: Vec<WireEntry> = entries
        .collect::<Result<_, _>>()
        .map_err(|_| "an entry that is none")?;
    if !entries.is_sorted_by(|a, b| a.name < b.name) {
        return Err("entries out of order");
    }
    let entries = entries.into_iter().map(entry).collect::<Result<_, _>>()?;
    Ok(JobResult::Listed {
        path: Octets(reply.path),
        entries,
        more: reply.more,
    })
}

fn entry(entry: WireEntry) -> Result<Entry, &'static str> {
    if entry.name.is_empty()
        || entry.name.len() > MAX_NAME_BYTES
        || entry.target.len() > MAX_NAME_BYTES
    {
        return Err("a name that cannot be");
    }
    Ok(Entry {
        kind: files::entry_type(entry.r#type()),
        size: entry.size,
        mode: entry.mode & 0o7777,
        modified_at: files::time(entry.modified_ns),
        target: (!entry.target.is_empty()).then_some(Octets(entry.target)),
        name: Octets(entry.name),
    })
}
