//! What a caller may write for an image, read strictly: it becomes an argument of another program, run as root.
//!
//! ```text
//!  [docker://][REGISTRY/]NAME[:TAG][@sha256:DIGEST]    a registry's; docker.io where none is named
//!  oci:FOLDER:TAG                                      an OCI layout on this machine
//!  docker-archive:FILE[:NAME:TAG]                      what `docker save` writes
//! ```
//!
//! A reference that was read holds only letters that mean nothing to a shell, an option parser or a path: no `..`, no
//! second transport, no leading dash.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Where names without a registry lead.
const DEFAULT_REGISTRY: &str = "docker.io";
/// What names without a tag mean.
const DEFAULT_TAG: &str = "latest";

/// What else has a colon behind its first word where others write references. Somebody who writes it means no repository.
const OTHER_TRANSPORTS: [&str; 7] = [
    "containers-storage",
    "dir",
    "docker-daemon",
    "oci-archive",
    "ostree",
    "sif",
    "tarball",
];

/// A well-formed reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    /// An image of a registry.
    Registry {
        /// Host, with a port where one was written.
        registry: String,
        /// Path of the repository.
        repository: String,
        /// `:TAG` or `@sha256:DIGEST`.
        version: String,
    },
    /// An image of an OCI layout.
    OciFolder {
        /// Absolute.
        folder: PathBuf,
        /// Its name in the layout.
        tag: String,
    },
    /// An image of an archive.
    DockerArchive {
        /// Absolute.
        file: PathBuf,
        /// Its name in the archive, where that holds several.
        name: Option<String>,
    },
}

impl Reference {
    /// Reads what a caller wrote; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (folder, tag) = rest
                .split_once(':')
                .ok_or("write oci:FOLDER:TAG, with the tag")?;
            let tag = valid(tag, is_tag, "the tag")?;
            Ok(Self::OciFolder {
                folder: absolute(folder)?,
                tag: tag.to_owned(),
            })
        } else if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (file, name) = match rest.split_once(':') {
                None => (rest, None),
                Some((file, name)) => (file, Some(archived(name)?)),
            };
            Ok(Self::DockerArchive {
                file: absolute(file)?,
                name,
            })
        } else {
            registry(text.strip_prefix("docker://").unwrap_or(text))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry {
                registry,
                repository,
                version,
            } => write!(f, "{registry}/{repository}{version}"),
            Self::OciFolder { folder, tag } => write!(f, "oci:{}:{tag}", folder.display()),
            Self::DockerArchive { file, name: None } => {
                write!(f, "docker-archive:{}", file.display())
            }
            Self::DockerArchive {
                file,
                name: Some(name),
            } => write!(f, "docker-archive:{}:{name}", file.display()),
        }
    }
}

fn registry(text: &str) -> Result<Reference, String> {
    if let Some((first, _)) = text.split_once(':')
        && OTHER_TRANSPORTS.contains(&first)
    {
        return Err(format!(
            "images cannot be had by {first}: write a name in a registry, oci:FOLDER:TAG or docker-archive:FILE"
        ));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(valid(digest, is_digest, "the digest")?)),
        None => (text, None),
    };
    let (registry, rest) = match rest.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_REGISTRY, rest),
    };
    let (repository, tag) = rest.split_once(':').unwrap_or((rest, DEFAULT_TAG));
    let tag = valid(tag, is_tag, "the tag")?;
    valid(registry, is_registry, "the registry")?;
    valid(repository, is_repository, "the name")?;
    let short = registry == DEFAULT_REGISTRY && !repository.contains('/');
    Ok(Reference::Registry {
        registry: registry.to_owned(),
        repository: if short {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        },
        // The digest says all; a tag beside it is for people.
        version: digest.map_or_else(|| format!(":{tag}"), |digest| format!("@{digest}")),
    })
}

/// The name of an image in an archive.
fn archived(text: &str) -> Result<String, String> {
    let (name, tag) = text
        .rsplit_once(':')
        .ok_or("write docker-archive:FILE:NAME:TAG, with the tag")?;
    valid(tag, is_tag, "the tag")?;
    valid(name, is_repository, "the name")?;
    Ok(text.to_owned())
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain {
        Ok(path.to_owned())
    } else {
        Err(format!("{text:?} is no absolute path without `..`"))
    }
}

fn valid<'a>(text: &'a str, is_so: fn(&str) -> bool, what: &str) -> Result<&'a str, String> {
    if is_so(text) {
        Ok(text)
    } else {
        Err(format!("{what} {text:?} is not well-formed"))
    }
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(part) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_repository(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.bytes().next().is_some_and(inner)
            && part.bytes().last().is_some_and(inner)
            && part
                .bytes()
                .all(|b| inner(b) || matches!(b, b'.' | b'_' | b'-'))
            && !part.contains("..")
    };
    text.len() <= 255 && text.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        for (written, full) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("debian:12", "docker.io/library/debian:12".to_owned()),
            ("a/b", "docker.io/a/b:latest".to_owned()),
            (
                "docker://ghcr.io/a/b_c:v1.0",
                "ghcr.io/a/b_c:v1.0".to_owned(),
            ),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("127.0.0.1:5000/a:1", "127.0.0.1:5000/a:1".to_owned()),
            (
                &*format!("quay.io/x/y:9@{digest}"),
                format!("quay.io/x/y@{digest}"),
            ),
            ("oci:/srv/images/x:t", "oci:/srv/images/x:t".to_owned()),
            ("docker-archive:/a.tar", "docker-archive:/a.tar".to_owned()),
            (
                "docker-archive:/a.tar:b:c",
                "docker-archive:/a.tar:b:c".to_owned(),
            ),
        ] {
            let read = Reference::parse(written).map(|read| read.to_string());
            assert_eq!(read, Ok(full), "{written}");
        }
    }

    #[test]
    fn nothing_but_a_reference_is_one() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "-a",
            "--help",
            "A",
            "a b",
            "a:",
            "a:-t",
            "a:t:u",
            "a@sha256:12",
            "a@md5:12",
            "a..b",
            "../a",
            "x.io/../a",
            "x.io:0/a",
            "x.io:99999/a",
            "-x.io/a",
            "x.io/a;b",
            "x.io/$(a)",
            "dir:/etc",
            "containers-storage:a",
            "docker-daemon:a:b",
            "oci-archive:/a.tar",
            "oci:/a",
            "oci:a:b",
            "oci:/a/../b:c",
            "oci:/a:b:c",
            "oci:/a:-b",
            "oci::t",
            "docker-archive:a.tar",
            "docker-archive:/a/../b",
            "docker-archive:/a:b",
            "docker-archive:/a:@0",
            "docker-archive:",
            "docker://docker://a",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
