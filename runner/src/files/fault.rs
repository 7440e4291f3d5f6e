//! How file operations fail, in the words of the wire contract.

use std::io;

use prost::Message;
use rustix::io::Errno;
use tonic::{Code, Status};

use crate::jobs::Refusal;
use crate::proto::{FileError, FileErrorCode};

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    pub(crate) code: FileErrorCode,
    message: String,
}

/// Why a mutation did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It is not permitted, or not any more.
    #[error(transparent)]
    Permit(#[from] Refusal),
    #[error(transparent)]
    File(#[from] Fault),
    /// The request itself is wrong.
    #[error("{0}")]
    Request(&'static str),
    /// The content did not arrive whole.
    #[error("{0}")]
    Incomplete(String),
    /// The caller's stream failed.
    #[error("the request ended: {0}")]
    Stream(Box<Status>),
}

impl Fault {
    /// A fault of a kind.
    pub(crate) fn new(code: FileErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The fault with the name of what it happened to, where several are worked on.
    pub(crate) fn at(self, path: &[u8]) -> Self {
        let path = String::from_utf8_lossy(path);
        Self::new(self.code, format!("{path:?}: {}", self.message))
    }

    fn grpc_code(&self) -> Code {
        match self.code {
            FileErrorCode::NotFound => Code::NotFound,
            FileErrorCode::PermissionDenied | FileErrorCode::ReadOnly => Code::PermissionDenied,
            FileErrorCode::NameTooLong
            | FileErrorCode::InvalidPath
            | FileErrorCode::ArchiveRefused => Code::InvalidArgument,
            FileErrorCode::NoSpace => Code::ResourceExhausted,
            FileErrorCode::RangeNotSatisfiable => Code::OutOfRange,
            FileErrorCode::ChangedWhileRead => Code::Aborted,
            FileErrorCode::NotADirectory
            | FileErrorCode::IsADirectory
            | FileErrorCode::NotARegularFile
            | FileErrorCode::DirectoryNotEmpty
            | FileErrorCode::TooManyLinks
            | FileErrorCode::AlreadyExists
            | FileErrorCode::OtherFileSystem => Code::FailedPrecondition,
            FileErrorCode::FileIo | FileErrorCode::Unspecified => Code::Internal,
        }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        let code = match errno {
            Errno::NOENT => FileErrorCode::NotFound,
            Errno::NOTDIR => FileErrorCode::NotADirectory,
            Errno::ISDIR => FileErrorCode::IsADirectory,
            // Opening a socket.
            Errno::NXIO | Errno::NODEV => FileErrorCode::NotARegularFile,
            Errno::ACCESS | Errno::PERM => FileErrorCode::PermissionDenied,
            Errno::NAMETOOLONG => FileErrorCode::NameTooLong,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FileErrorCode::NoSpace,
            Errno::NOTEMPTY | Errno::EXIST => FileErrorCode::DirectoryNotEmpty,
            Errno::LOOP => FileErrorCode::TooManyLinks,
            Errno::ROFS => FileErrorCode::ReadOnly,
            Errno::XDEV => FileErrorCode::OtherFileSystem,
            Errno::INVAL | Errno::ILSEQ => FileErrorCode::InvalidPath,
            _ => FileErrorCode::FileIo,
        };
        Self::new(code, io::Error::from(errno).to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self::new(FileErrorCode::FileIo, error.to_string()),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let code = fault.grpc_code();
        let detail = FileError {
            code: fault.code.into(),
            message: fault.message.clone(),
        };
        Self::with_details(code, fault.message, detail.encode_to_vec().into())
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Permit(refusal) => refusal.into(),
            Refused::File(fault) => fault.into(),
            Refused::Request(message) => Self::invalid_argument(message),
            Refused::Incomplete(message) => Self::data_loss(message),
            Refused::Stream(status) => *status,
        }
    }
}
