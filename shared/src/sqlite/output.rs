//! Output chunks: written once, read by windows.
//!
//! Chunks are kept as pieces of at most 256 KiB, so that a window is read without what lies around it. A piece never
//! begins before the end of the one before it: what is there already stays as it is.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows;
use super::writer::Commit;
use crate::ids::JobRef;
use crate::output::{Chunk, Offsets, Stream};
use crate::ports::StoreError;

/// Bytes of a piece at most.
const PIECE_BYTES: usize = 256 * 1024;

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

fn stream_number(stream: Stream) -> i64 {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// Writes of some chunks what is not there yet.
pub(super) fn insert(
    commit: &mut Commit<'_>,
    at: &JobRef,
    chunks: &[Chunk],
) -> Result<(), StoreError> {
    let mut statement = commit.db.prepare_cached(
        "INSERT INTO output (tenant, job, stream, start, finish, data) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
    )?;
    for chunk in chunks {
        let known = end_of_piece_at(commit.db, at, chunk.stream, chunk.start)?.max(chunk.start);
        let skip = usize::try_from(known - chunk.start).unwrap_or(usize::MAX);
        let Some(fresh) = chunk.data.get(skip..) else {
            continue;
        };
        let mut start = known;
        for piece in fresh.chunks(PIECE_BYTES) {
            let end = start.saturating_add(piece.len() as u64);
            if i64::try_from(end).is_err() {
                return Err(rows::corrupt(
                    "output",
                    format_args!("{}/{}", at.tenant, at.job),
                    format_args!("an offset of {end} is beyond what can be kept"),
                ));
            }
            statement.execute(params![
                at.tenant.as_str(),
                rows::job_key(&at.job),
                stream_number(chunk.stream),
                rows::number(start),
                rows::number(end),
                piece,
            ])?;
            start = end;
        }
    }
    Ok(())
}

/// Where the last piece ends that begins at or before an offset; 0 where there is none.
fn end_of_piece_at(
    db: &Connection,
    at: &JobRef,
    stream: Stream,
    offset: u64,
) -> Result<u64, StoreError> {
    let end: Option<i64> = db
        .prepare_cached(
            "SELECT finish FROM output WHERE tenant = ?1 AND job = ?2 AND stream = ?3 \
             AND start <= ?4 ORDER BY start DESC LIMIT 1",
        )?
        .query_row(
            params![
                at.tenant.as_str(),
                rows::job_key(&at.job),
                stream_number(stream),
                rows::number(offset),
            ],
            |row| row.get(0),
        )
        .optional()?;
    Ok(end.map_or(0, i64::unsigned_abs))
}

/// Where the kept output ends.
pub(super) fn end(db: &Connection, at: &JobRef) -> Result<Offsets, StoreError> {
    let mut offsets = Offsets::default();
    for stream in STREAMS {
        *offsets.of_mut(stream) = end_of_piece_at(db, at, stream, u64::MAX)?;
    }
    Ok(offsets)
}

/// A window of the kept output.
pub(super) fn window(
    db: &Connection,
    at: &JobRef,
    from: Offsets,
    limit: u64,
) -> Result<Vec<Chunk>, StoreError> {
    let mut chunks = Vec::new();
    for stream in STREAMS {
        window_of(db, at, stream, from.of(stream), limit, &mut chunks)?;
    }
    Ok(chunks)
}

fn window_of(
    db: &Connection,
    at: &JobRef,
    stream: Stream,
    from: u64,
    limit: u64,
    chunks: &mut Vec<Chunk>,
) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT start, data FROM output WHERE tenant = ?1 AND job = ?2 AND stream = ?3 \
         AND start >= coalesce((SELECT max(start) FROM output \
             WHERE tenant = ?1 AND job = ?2 AND stream = ?3 AND start <= ?4), 0) \
         ORDER BY start",
    )?;
    let mut rows = statement.query(params![
        at.tenant.as_str(),
        rows::job_key(&at.job),
        stream_number(stream),
        rows::number(from),
    ])?;
    let (mut next, mut left) = (from, limit);
    while left > 0
        && let Some(row) = rows.next()?
    {
        let start = rows::column::<i64>(row, 0, "output")?.unsigned_abs();
        let data = row.get_ref(1)?.as_blob().map_err(|error| {
            rows::corrupt("output", format_args!("{}/{}", at.tenant, at.job), error)
        })?;
        let skip = usize::try_from(next.saturating_sub(start)).unwrap_or(usize::MAX);
        let Some(data) = data.get(skip..).filter(|data| !data.is_empty()) else {
            continue;
        };
        let taken = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
        chunks.push(Chunk {
            stream,
            start: start.max(next),
            data: Bytes::copy_from_slice(&data[..taken]),
        });
        next = start.max(next).saturating_add(taken as u64);
        left -= taken as u64;
    }
    Ok(())
}
