//! What a job was asked to do, as callers read it back: names of variables, sizes of contents, never the values.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::job::{ByteContent, Command, ExecInput, JobInput, PublishInput};
use shared::octets::Octets;
use utoipa::ToSchema;

use crate::views::text::Texts;

/// What a job was asked to do; the fields depend on its kind.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = JobInput)]
pub(crate) enum InputView {
    Exec(ExecInputView),
    Upload(UploadInputView),
    List(ListInputView),
    Remove(RemoveInputView),
    Publish(PublishInputView),
    Move(MoveInputView),
    Mkdir(MkdirInputView),
    Unpack(UnpackInputView),
    Path(PathInputView),
    Lifecycle(LifecycleInputView),
}

/// Of create, start, stop and delete: the environment tells the rest.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LifecycleInput)]
pub(crate) struct LifecycleInputView {}

/// A script or a program with its arguments.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Command)]
pub(crate) enum CommandView {
    Script(String),
    Argv(Vec<String>),
}

/// Of an exec.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExecInput)]
pub(crate) struct ExecInputView {
    command: CommandView,
    /// Names of the variables.
    env: Vec<String>,
    workdir: Option<String>,
    user: Option<String>,
    /// Bytes of standard input.
    stdin_bytes: u64,
    timeout_seconds: u64,
}

/// Of an upload.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadInput)]
pub(crate) struct UploadInputView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    /// Permission bits in octal, if they were given.
    mode: Option<String>,
    /// Bytes of the content.
    size: u64,
}

/// Of a download or a pack.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PathInput)]
pub(crate) struct PathInputView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

/// Of a move.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MoveInput)]
pub(crate) struct MoveInputView {
    from: String,
    to: String,
    /// `base64` where either path is not UTF-8: then both are base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

/// Of a mkdir.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MkdirInput)]
pub(crate) struct MkdirInputView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    parents: bool,
}

/// Of an unpack.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UnpackInput)]
pub(crate) struct UnpackInputView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    /// Bytes of the archive.
    size: u64,
}

/// Of a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ListInput)]
pub(crate) struct ListInputView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    depth: u32,
}

/// Of a remove.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RemoveInput)]
pub(crate) struct RemoveInputView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    recursive: bool,
}

/// Of a publish.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PublishInput)]
pub(crate) struct PublishInputView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    bucket: String,
    destination: String,
    execution_plan_id: Option<String>,
    task_id: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl InputView {
    pub(crate) fn of(input: &JobInput) -> Self {
        match input {
            JobInput::Create {} | JobInput::Start {} | JobInput::Stop {} | JobInput::Delete {} => {
                Self::Lifecycle(LifecycleInputView {})
            }
            JobInput::Exec(exec) => Self::Exec(ExecInputView::of(exec)),
            JobInput::Upload {
                path,
                mode,
                content,
            } => {
                let (path, encoding) = shown(path);
                Self::Upload(UploadInputView {
                    path,
                    encoding,
                    mode: mode.map(|mode| format!("{mode:04o}")),
                    size: size_of(content),
                })
            }
            JobInput::Download { path, .. } | JobInput::Pack { path } => {
                let (path, encoding) = shown(path);
                Self::Path(PathInputView { path, encoding })
            }
            JobInput::List { path, depth, .. } => {
                let (path, encoding) = shown(path);
                Self::List(ListInputView {
                    path,
                    encoding,
                    depth: *depth,
                })
            }
            JobInput::Remove { path, recursive } => {
                let (path, encoding) = shown(path);
                Self::Remove(RemoveInputView {
                    path,
                    encoding,
                    recursive: *recursive,
                })
            }
            JobInput::Move { from, to } => {
                let texts = Texts::of([from, to]);
                Self::Move(MoveInputView {
                    from: texts.show(from),
                    to: texts.show(to),
                    encoding: texts.encoding(),
                })
            }
            JobInput::Mkdir { path, parents } => {
                let (path, encoding) = shown(path);
                Self::Mkdir(MkdirInputView {
                    path,
                    encoding,
                    parents: *parents,
                })
            }
            JobInput::Unpack { path, content } => {
                let (path, encoding) = shown(path);
                Self::Unpack(UnpackInputView {
                    path,
                    encoding,
                    size: size_of(content),
                })
            }
            JobInput::Publish(publish) => Self::Publish(PublishInputView::of(publish)),
        }
    }
}

impl ExecInputView {
    fn of(exec: &ExecInput) -> Self {
        Self {
            command: match &exec.command {
                Command::Argv(argv) => CommandView::Argv(argv.clone()),
                Command::Shell(script) | Command::Bash(script) => {
                    CommandView::Script(script.clone())
                }
            },
            env: exec.env.names(),
            workdir: exec.workdir.clone(),
            user: exec.user.clone(),
            stdin_bytes: exec.stdin.as_ref().map_or(0, |stdin| stdin.len() as u64),
            timeout_seconds: exec.timeout_seconds,
        }
    }
}

impl PublishInputView {
    fn of(publish: &PublishInput) -> Self {
        let (path, encoding) = shown(&publish.path);
        Self {
            path,
            encoding,
            bucket: publish.bucket.clone(),
            destination: publish.destination.clone(),
            execution_plan_id: publish.execution_plan_id.clone(),
            task_id: publish.task_id.clone(),
            metadata: publish.metadata.clone(),
        }
    }
}

/// Bytes of content, wherever it is.
pub(super) fn size_of(content: &ByteContent) -> u64 {
    match content {
        ByteContent::Inline(octets) => octets.len() as u64,
        ByteContent::Staged { size, .. } => *size,
    }
}

fn shown(path: &Octets) -> (String, Option<&'static str>) {
    let texts = Texts::of([path]);
    (texts.show(path), texts.encoding())
}
